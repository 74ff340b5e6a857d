"""The names of one installation: a schema and a prefix, quoted, and SQL texts with them filled in."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from pgwerk.errors import ConfigError

TABLES: Final = {
    "jobs": "jobs",
    "claims": "claims",
    "executions": "jobs_executions",
    "job_deps": "job_deps",
    "permits": "permits",
    "worker": "worker",
    "worker_jobs": "worker_jobs",
    "idle": "idle",
    "queues": "queues",
    "versions": "versions",
}

_PLACE = re.compile(r"\{([a-z_]+)\}|\[([a-z_]+)\]")
_LONGEST_SUFFIX = 24


def quoted(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a string constant (standard_conforming_strings does not matter: backslashes are refused before)."""
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True)
class Names:
    """Where the tables are. An empty schema means whatever the search_path says."""

    schema: str = "pgwerk"
    prefix: str = "_pgwerk"
    ephemeral: bool = False

    def __post_init__(self) -> None:
        if self.schema == "public":
            object.__setattr__(self, "schema", "")
        for what, value in (("schema", self.schema), ("prefix", self.prefix)):
            if "\0" in value or "\\" in value:
                raise ConfigError(f"{what}={value!r} holds a character that a name cannot have")
        if not self.prefix:
            raise ConfigError("prefix is empty: tables need one, for example '_pgwerk'")
        if len(self.schema.encode()) > 63 or len(self.prefix.encode()) > 63 - _LONGEST_SUFFIX:
            raise ConfigError(
                f"schema={self.schema!r} or prefix={self.prefix!r} is too long: Postgres names have at most 63 bytes, "
                f"and tables add up to {_LONGEST_SUFFIX} to the prefix"
            )

    def table(self, name: str) -> str:
        """The quoted, qualified name of a table."""
        own = quoted(f"{self.prefix}_{TABLES[name]}")
        return f"{quoted(self.schema)}.{own}" if self.schema else own

    @property
    def wake_channel(self) -> str:
        """Where workers listen."""
        return self._channel("wake")

    @property
    def done_channel(self) -> str:
        """Where those listen who wait for a job."""
        return self._channel("done")

    def _channel(self, what: str) -> str:
        name = f"{self.schema}.{self.prefix}.{what}"
        # A channel is an identifier, of at most 63 bytes; the end tells the two apart.
        return name if len(name.encode()) <= 63 else name.encode()[-60:].decode(errors="ignore")

    @cached_property
    def _places(self) -> dict[str, str]:
        return {
            **{name: self.table(name) for name in TABLES},
            "schema": quoted(self.schema),
            "schema_name": literal(self.schema) if self.schema else "null::text",
            # Before a [name] that a command finds by itself, not through its table.
            "in_schema": f"{quoted(self.schema)}." if self.schema else "",
            "versions_name": literal(self.table("versions")),
            "unlogged": "unlogged" if self.ephemeral else "",
            "wake": literal(self.wake_channel),
            "done": literal(self.done_channel),
        }

    def render(self, sql: str, *, with_params: bool) -> str:
        """Fill the names into a statement's text."""

        def fill(match: re.Match[str]) -> str:
            place, index = match.groups()
            text = self._places[place] if place else quoted(f"{self.prefix}_{index}")
            return text.replace("%", "%%") if with_params else text

        return _PLACE.sub(fill, sql)
