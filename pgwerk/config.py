"""Settings: one frozen value, from keywords, an object, the environment or the defaults, in that order."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self, get_type_hints

from pgwerk._core.dsn import VARIABLES, checked
from pgwerk.errors import ConfigError

PREFIX = "PGWERK_"
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off", ""}


@dataclass(frozen=True)
class WerkConfig:
    """Everything about an installation that can be set; durations are seconds, None means no limit."""

    schema: str = "pgwerk"
    prefix: str = "_pgwerk"
    max_active_secs: float = 3600
    """An active row that no worker claimed (somebody edited it) is recovered after this."""
    max_lost: int = 3
    """How many times a job whose worker died while it ran is run again without spending an attempt; then it fails."""
    heartbeat_interval: float = 10
    poll_interval: float = 5.0
    abort_interval: float = 1.0
    sweep_interval: float = 60.0
    shutdown_timeout: float = 30.0
    sigterm_grace: float = 5
    ephemeral_tables: bool = False
    """Make the tables of workers unlogged; a crash of Postgres empties them, and workers register again."""
    default_retry_backoff: bool = True
    """Whether ``_retry=3`` waits longer and longer between attempts; else it tries again at once."""
    allow_truncate: bool = False
    pool: bool = True
    """Whether to keep connections; else each call opens one for itself."""
    pool_size: int = 10
    """The most connections that one process keeps."""
    pool_timeout: float = 2.0
    """How long a call goes on trying while Postgres refuses connections, or has none left."""
    result_ttl: float | None = None
    failure_ttl: float | None = None
    max_payload_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ConfigError(f"{name}={value!r}: it must be a number greater than 0")
        timeout: Any = self.pool_timeout
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout <= 3600:
            raise ConfigError(f"pool_timeout={timeout!r}: it must be a number of seconds from 0 to 3600")
        times: object = self.max_lost
        if isinstance(times, bool) or not isinstance(times, int) or not 0 <= times <= 1_000_000:
            raise ConfigError(f"max_lost={times!r}: it must be a whole number from 0 to 1000000")
        for name in ("result_ttl", "failure_ttl", "max_payload_bytes"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | float) or value < 0):
                raise ConfigError(f"{name}={value!r}: it must be None or a number of at least 0")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read ``PGWERK_<FIELD>`` variables; raises ConfigError naming the one that cannot be read."""
        environ = os.environ if environ is None else environ
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for field in fields(cls):
            name = PREFIX + field.name.upper()
            if name in environ:
                values[field.name] = _read(name, environ[name], hints[field.name])
        return cls(**values)

    def with_values(self, **values: Any) -> Self:
        """This, with those of *values* that are not None; raises ConfigError for an unknown name."""
        known = {field.name for field in fields(self)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown setting {unknown[0]!r}; choose from {', '.join(sorted(known))}")
        return replace(self, **{name: value for name, value in values.items() if value is not None})


_POSITIVE = (
    "max_active_secs", "heartbeat_interval", "poll_interval", "abort_interval", "sweep_interval",
    "shutdown_timeout", "sigterm_grace", "pool_size",
)  # fmt: skip


def _read(name: str, text: str, kind: Any) -> Any:
    if kind is str:
        return text
    if kind is bool:
        lowered = text.strip().lower()
        if lowered in _TRUE | _FALSE:
            return lowered in _TRUE
        raise ConfigError(f"{name}={text!r}: it must be on or off")
    if text.strip().lower() in ("", "none") and kind not in (int, float):
        return None
    try:
        return int(text) if "int" in str(kind) else float(text)
    except ValueError:
        raise ConfigError(f"{name}={text!r}: it must be a number") from None


def configured(config: "WerkConfig | Mapping[str, Any] | None", **values: Any) -> WerkConfig:
    """The settings of an app: keywords over *config* over the environment over the defaults."""
    if isinstance(config, WerkConfig):
        base = config
    elif config is None:
        base = WerkConfig.from_env()
    elif hasattr(config, "keys"):
        base = WerkConfig.from_env().with_values(**config)
    else:
        # Not its value: somebody may have passed the DSN here.
        raise ConfigError(f"config takes a WerkConfig or a dict, not {type(config).__name__}")
    return base.with_values(**values)


def resolved_dsn(dsn: str | None, environ: Mapping[str, str] | None = None) -> str:
    """The DSN to use: the given one, PGWERK_DSN, DATABASE_URL, or libpq's own PG… variables."""
    environ = os.environ if environ is None else environ
    found = dsn or next((environ[name] for name in VARIABLES if environ.get(name, "").strip()), None)
    if found:
        return checked(found, environ)
    if any(environ.get(name) for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")):
        return ""
    raise ConfigError(
        "no database: pass a DSN like postgresql://user:password@host/database, or set PGWERK_DSN or DATABASE_URL "
        "(or PGHOST, PGUSER and PGDATABASE). For a private Postgres without any set-up, "
        "use dsn='embedded://' with pip install 'pgwerk[embedded]'."
    )
