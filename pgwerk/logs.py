"""What pgwerk logs, and how it looks: one line a record, coloured on a terminal, or one JSON object a line."""

import json
import logging
import os
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from pgwerk.errors import ConfigError

__all__ = ["configure_logging", "is_configured", "printable"]

LOGGER: Final = "pgwerk"
FORMATS: Final = ("text", "json")
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_PLAIN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# C0 and C1 controls, lone surrogates, and what turns the direction of the text around or ends a line.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def configure_logging(
    level: int | str | None = None,
    format: str | None = None,  # noqa: A002  # the documented name
    color: bool | None = None,
    fmt: str | None = None,
    *,
    stream: TextIO | None = None,
) -> None:
    """Let the logger "pgwerk" write to standard error (or *stream*); calling it again replaces what it did before.

    Other loggers, the root among them, are left alone, and records do not go on to the root's handlers.
    *level* (default PGWERK_LOG_LEVEL, then INFO) is a name or number, *format* (default PGWERK_LOG_FORMAT, then
    "text") is "text" or "json", *color* None means: on a terminal. *fmt* is a format string of the logging module.
    Raises ConfigError.
    """
    number = _level(os.environ.get("PGWERK_LOG_LEVEL") or "INFO" if level is None else level)
    kind = os.environ.get("PGWERK_LOG_FORMAT") or "text" if format is None else format
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(_formatter(kind, handler.stream, color, fmt))
    logger = logging.getLogger(LOGGER)
    for old in [old for old in logger.handlers if isinstance(old, _Handler)]:
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(number)
    logger.propagate = False


def is_configured() -> bool:
    """Whether `configure_logging` was called."""
    return any(isinstance(handler, _Handler) for handler in logging.getLogger(LOGGER).handlers)


def printable(text: str, *, keep: str = "") -> str:
    """Escape what a terminal would obey instead of show; the characters of *keep* stay.

    For every text that comes from a job: an error message may hold a sequence that clears the screen.
    """

    def escaped(match: re.Match[str]) -> str:
        character = match[0]
        if character in keep:
            return character
        code = ord(character)
        return _SHORT.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")

    return _CONTROLS.sub(escaped, text)


def show_others_alike() -> None:
    """Let warnings that nobody handles, of psycopg for one, look like ours; does nothing if ours are handled by others.

    By logging's handler of last resort: as soon as the app configures the root logger, this has no effect.
    """
    for ours in logging.getLogger(LOGGER).handlers:
        if isinstance(ours, _Handler):
            rest = _Handler(ours.stream)
            rest.setFormatter(ours.formatter)
            rest.setLevel(logging.WARNING)
            logging.lastResort = rest


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, to be recognised by its class."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Say that a record could not be written, unless that is because nothing can be: closed, or a full disk."""
        if not isinstance(sys.exc_info()[1], OSError) and not getattr(self.stream, "closed", True):
            super().handleError(record)


class _TextFormatter(logging.Formatter):
    """Time, level, logger, message; only a traceback takes more lines than one."""

    def __init__(self, fmt: str | None, *, colour: bool) -> None:
        super().__init__(fmt)
        self._own = fmt is not None
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        # Other handlers see the same record: nothing is written to it but what Formatter itself sets.
        record.message = printable(record.getMessage())
        if self._own:
            record.asctime = self.formatTime(record)
            text = self.formatMessage(record)
        else:
            level = f"{record.levelname:<8}"
            stamp = self.formatTime(record)
            if self._colour:
                level = f"\x1b[{_COLOURS.get(record.levelname, '0')}m{level}\x1b[0m"
                stamp = f"\x1b[2m{stamp}\x1b[0m"
            text = f"{stamp} {level} {record.name}: {record.message}"
        if trace := _trace(self, record):
            text += "\n" + printable(trace, keep="\n\t")
        return text

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  # logging's name
        stamp = time.strftime(datefmt or "%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return stamp if datefmt else f"{stamp}.{int(record.msecs):03}"


class _JSONFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, exception, and whatever was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace := _trace(self, record):
            entry["exception"] = trace
        for name, value in vars(record).items():
            if name not in _PLAIN_ATTRIBUTES:
                entry.setdefault(name, value)
        return json.dumps(entry, default=str)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(formatter.formatException(record.exc_info))
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


def _level(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    name = str(value).strip().upper()
    if not isinstance(value, str) or (name not in LEVELS and not name.isdecimal()):
        raise ConfigError(f"log_level={value!r}: it must be a number or one of {', '.join(LEVELS)}")
    return int(name) if name.isdecimal() else int(getattr(logging, name))


def _formatter(kind: object, stream: TextIO, color: object, fmt: str | None) -> logging.Formatter:
    if color is not None and not isinstance(color, bool):
        raise ConfigError(f"log_color={color!r}: it must be True, False or None (on a terminal)")
    if kind not in FORMATS:
        raise ConfigError(f"log_format={kind!r}: it must be one of {', '.join(FORMATS)}")
    if kind == "json":
        if fmt is not None:
            raise ConfigError("log_fmt is a format string for log_format='text'; JSON logs have fixed fields")
        return _JSONFormatter()
    try:
        return _TextFormatter(fmt, colour=_wants_colour(stream) if color is None else color)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"log_fmt={fmt!r}: {error}; a format looks like '%(asctime)s %(message)s'") from None


def _wants_colour(stream: TextIO) -> bool:
    """Whether *stream* is a terminal that shows colours, and nobody asked for none."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False
