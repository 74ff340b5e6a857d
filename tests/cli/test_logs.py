"""configure_logging."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from pgwerk import ConfigError, configure_logging
from pgwerk.logs import printable


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    logger = logging.getLogger("pgwerk")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], level, logger.propagate = before
    logger.setLevel(level)


def test_text_is_one_line_a_record() -> None:
    stream = io.StringIO()
    root = logging.getLogger().handlers[:]
    configure_logging(stream=stream)
    configure_logging(stream=stream)
    logging.getLogger("pgwerk.worker").info("job %s", "a\nb\x1b[2J")
    logging.getLogger("pgwerk.worker").debug("not shown")
    assert stream.getvalue().endswith(" INFO     pgwerk.worker: job a\\nb\\x1b[2J\n")
    assert stream.getvalue().count("\n") == 1
    assert logging.getLogger().handlers == root


def test_a_traceback_has_its_lines() -> None:
    stream = io.StringIO()
    configure_logging("debug", stream=stream, fmt="%(levelname)s %(message)s")
    try:
        _ = int("bad\x1b thing")
    except ValueError:
        logging.getLogger("pgwerk").exception("oh")
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["ERROR oh", "Traceback (most recent call last):"]
    assert lines[-1].startswith("ValueError: invalid literal")
    assert not set(stream.getvalue()) & {"\x1b"}


def test_colour_only_when_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def shown(**settings: Any) -> str:
        stream = Terminal()
        configure_logging(stream=stream, **settings)
        logging.getLogger("pgwerk").warning("hm")
        return stream.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[33m" in shown()
    assert "\x1b" not in shown(color=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown()
    assert "\x1b[33m" in shown(color=True)


def test_json_is_one_object_a_line() -> None:
    stream = io.StringIO()
    configure_logging("INFO", "json", stream=stream)
    log = logging.LoggerAdapter(logging.getLogger("pgwerk.job"), {"job_id": "1", "function": "f"})
    log.info("a\n\x1b")
    try:
        _ = int("x")
    except ValueError:
        log.exception("oh")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {"level": "INFO", "logger": "pgwerk.job", "message": "a\n\x1b", "job_id": "1", "function": "f"}
    assert "\nValueError: invalid literal" in second["exception"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"level": "loud"}, "DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ({"level": True}, "DEBUG"),
        ({"format": "xml"}, "text, json"),
        ({"color": "yes"}, "True, False"),
        ({"fmt": "%(nonsense"}, "%(asctime)s"),
        ({"fmt": "%(message)s", "format": "json"}, "format string"),
    ],
)
def test_bad_values_name_the_choices(settings: dict[str, Any], named: str) -> None:
    before = logging.getLogger("pgwerk").handlers[:]
    with pytest.raises(ConfigError) as caught:
        configure_logging(**settings)
    assert named in str(caught.value)
    assert logging.getLogger("pgwerk").handlers == before


def test_the_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGWERK_LOG_LEVEL", "error")
    configure_logging()
    assert logging.getLogger("pgwerk").level == logging.ERROR
    monkeypatch.setenv("PGWERK_LOG_FORMAT", "yaml")
    with pytest.raises(ConfigError):
        configure_logging()


def test_printable() -> None:
    assert printable("ok ä € 日本") == "ok ä € 日本"
    assert printable("a\tb\nc\x00\x7f\x9b\u202e\ud800") == "a\\tb\\nc\\x00\\x7f\\x9b\\u202e\\ud800"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"
