"""The options of enqueue: each is checked here, once, and written as the columns of a job."""

import difflib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from pgwerk._core import mainmodule, registry
from pgwerk._core import options as opt
from pgwerk._core.ids import normal_id
from pgwerk._core.importing import find
from pgwerk._core.job import FailureMode
from pgwerk._core.options import Callback, Dependency, EnqueueParams, Group, Repeat, Retry
from pgwerk._core.payload import JSONSerializer, Serializer, encode
from pgwerk._core.statements.columns import to_json
from pgwerk._core.statements.enqueue import Values
from pgwerk.errors import EnqueueError, SerializationError

OPTIONS = frozenset(one.name for one in fields(EnqueueParams) if one.name not in ("func", "args", "kwargs"))
"""The options of enqueue, without their underscores."""


@dataclass(frozen=True)
class Defaults:
    """What holds for every job of an app unless it says otherwise."""

    serializer: Serializer
    backoff: bool = True
    result_ttl: float | None = None
    failure_ttl: float | None = None
    max_payload_bytes: int | None = None


# Names of options ---------------------------------------------------------------------------------


def split_options(kwargs: dict[str, Any], extra: frozenset[str] = frozenset()) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part keyword arguments into options (leading underscore) and the handler's own.

    Raises EnqueueError for an option that does not exist. *extra*: more that the caller takes.
    """
    options: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, value in kwargs.items():
        if not name.startswith("_"):
            own[name] = value
            continue
        option = name[1:]
        if option not in OPTIONS and option not in extra:
            known = sorted("_" + known for known in OPTIONS | extra)
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise EnqueueError(
                f"enqueue() has no option {name}; {hint} (a handler's own argument must not begin with an underscore)"
            )
        options[option] = value
    return options, own


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Check the names of options given without underscores; raises EnqueueError naming the nearest known one."""
    checked, _ = split_options({f"_{name}": value for name, value in options.items()}, frozenset({"conn", "sync"}))
    return checked


def params_of(params: EnqueueParams) -> dict[str, Any]:
    """The options that a bulk entry sets."""
    given = vars(params)
    if len(given) == _LEAST:
        return {}
    return {name: value for name, value in given.items() if value is not None and name in OPTIONS}


_LEAST = 3
"""The function and its arguments."""


# Their values -------------------------------------------------------------------------------------


def read_options(
    values: Values, options: Mapping[str, Any], defaults: Defaults, path: str
) -> tuple[tuple[str, bool], ...]:
    """Read the options into *values*; what the job depends on is returned. Raises EnqueueError, SerializationError."""
    try:
        if options:
            _read_each(values, options, defaults)
        depends_on = _dependencies(options.get("depends_on"))
    except (ValueError, TypeError) as error:
        if isinstance(error, EnqueueError | SerializationError):
            raise
        raise EnqueueError(f"{path} was not enqueued: {error}") from None
    if defaults.result_ttl is not None:
        _ = values.setdefault("result_ttl", defaults.result_ttl)
    if defaults.failure_ttl is not None:
        _ = values.setdefault("failure_ttl", defaults.failure_ttl)
    if depends_on:
        _wait(values)
    return depends_on


def _read_each(values: Values, options: Mapping[str, Any], defaults: Defaults) -> None:
    for name, value in options.items():
        if value is not None and name in READERS:
            READERS[name](values, value)
    if (retry := options.get("retry")) is not None:
        _retry(values, retry, backoff=defaults.backoff)
    if "at" in values:
        values.pop("delay", None)
    if values.get("delay") == 0:
        del values["delay"]


def _text(column: str, longest: int) -> Callable[[Values, Any], None]:
    def read(values: Values, value: Any) -> None:
        values[column] = checked_text(column, value, longest)

    return read


def checked_text(option: str, value: Any, longest: int) -> str:
    """Return a text that can be stored and indexed, or raise ValueError naming the option."""
    size = len(value.encode("utf-8", "surrogatepass")) if isinstance(value, str) else 0
    if not 0 < size <= longest or "\0" in value or _SURROGATES.search(value):
        raise ValueError(
            f"_{option}={value!r}: it must be a non-empty string of at most {longest} bytes, "
            "without NUL and lone surrogates"
        )
    found: str = value
    return found


_SURROGATES = re.compile("[\ud800-\udfff]")


def _duration(option: str, column: str, *, positive: bool) -> Callable[[Values, Any], None]:
    def read(values: Values, value: Any) -> None:
        values[column] = opt.seconds(f"_{option}", value, positive=positive)

    return read


def _priority(values: Values, value: Any) -> None:
    values["priority"] = opt.whole("_priority", value, -32768, 32767)


def _delay(values: Values, value: Any) -> None:
    values["delay"] = opt.seconds("_delay", value)


def _at(values: Values, value: Any) -> None:
    values["at"] = opt.due("_at", value)


def _retry(values: Values, value: Any, *, backoff: bool) -> None:
    if isinstance(value, Retry):
        values["max_attempts"] = value.max
        values["retry_intervals"] = to_json(list(value.intervals))  # type: ignore[arg-type]  # a tuple by now
        if value.lost is not None:
            values["max_lost"] = value.lost
        if value.no_retry:
            values["no_retry"] = to_json([_name_to_match(kind) for kind in value.no_retry])
        return
    attempts = opt.whole("_retry", value, 0, opt.MAX_ATTEMPTS)
    values["max_attempts"] = max(1, attempts)
    if not backoff:
        values["retry_intervals"] = "[0]"


def class_name(kind: type) -> str:
    """How an exception class is called in a row."""
    return f"{mainmodule.importable_or_same(kind.__module__)}.{kind.__qualname__}"


def _name_to_match(kind: type) -> str:
    """How a worker will call an exception class; raises EnqueueError when its name is another one's."""
    try:
        name = f"{mainmodule.importable(kind.__module__)}.{kind.__qualname__}"
    except EnqueueError as error:
        raise EnqueueError(f"Retry(no_retry) cannot name {kind.__qualname__}: {error}") from None
    # Classes that are made at run time cannot be found, and match by their name all the same.
    found = find(sys.modules.get(kind.__module__), tuple(kind.__qualname__.split(".")))
    if isinstance(found, type) and found is not kind:
        raise EnqueueError(
            f"Retry(no_retry) cannot name this {kind.__qualname__}: {name!r} is another class now, "
            "which the name would match. Give each a name of its own."
        )
    return name


def _meta(values: Values, value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"_meta takes a dict, not {type(value).__name__}")  # see _at
    values["meta"] = encode_meta(value)


def encode_meta(value: dict[str, Any]) -> str:
    """Encode meta, which is always plain JSON."""
    return encode(_PLAIN, value, "_meta")


_PLAIN = JSONSerializer()


def _group(values: Values, value: Any) -> None:
    group = value if isinstance(value, Group) else Group(value)
    values["group_key"] = checked_text("group", group.key, 1024)
    if group.limit != 1:
        values["group_limit"] = group.limit


def _callback(kind: str) -> Callable[[Values, Any], None]:
    def read(values: Values, value: Any) -> None:
        callback = value if isinstance(value, Callback) else Callback(value)
        values[kind] = registry.path_back_to(callback.func)
        if callback.timeout is not None:
            values[f"{kind}_timeout"] = callback.timeout

    return read


def _repeat(values: Values, value: Any) -> None:
    if not isinstance(value, Repeat):
        raise ValueError(f"_repeat takes a Repeat, not {value!r}")  # see _at
    values["repeat_remaining"] = value.times
    values["repeat_interval_secs"] = value.interval
    if value.intervals is not None:
        # As many as there are repetitions: the place in the list follows from how many remain.
        steps = list(value.intervals)[: value.times]
        steps += [steps[-1]] * (value.times - len(steps))
        values["repeat_intervals"] = to_json(steps)


def _failure_mode(values: Values, value: Any) -> None:
    try:
        mode = FailureMode(value)
    except ValueError:
        raise ValueError(f"_failure_mode={value!r}: it must be 'hold' or 'delete'") from None
    if mode is not FailureMode.HOLD:
        values["failure_mode"] = mode.value


def _dependencies(value: Any) -> tuple[tuple[str, bool], ...]:
    if value is None:
        return ()
    items = value if isinstance(value, list | tuple | set | frozenset) else [value]
    found: dict[str, bool] = {}
    for item in items:
        one = item if isinstance(item, Dependency) else Dependency(item)
        id_ = _parent_id(one.id)
        found[id_] = found.get(id_, True) and one.allow_failure
    return tuple(found.items())


def _parent_id(value: str) -> str:
    found = normal_id(value)
    if found is None:
        raise EnqueueError(f"_depends_on={value!r} is not a job: give a Job, its id, a Dependency, or a list of them")
    return found


def _wait(values: Values) -> None:
    values["waiting"] = True
    if "delay" in values:
        # Counted from the release.
        values["wait_delay"] = values.pop("delay")


READERS: dict[str, Callable[[Values, Any], None]] = {
    "queue": _text("queue", 255),
    "key": _text("key", 1024),
    "schedule_name": _text("schedule_name", 255),
    "priority": _priority,
    "delay": _delay,
    "at": _at,
    "timeout": _duration("timeout", "timeout_secs", positive=True),
    "heartbeat": _duration("heartbeat", "heartbeat_secs", positive=True),
    "ttl": _duration("ttl", "ttl", positive=True),
    "result_ttl": _duration("result_ttl", "result_ttl", positive=False),
    "failure_ttl": _duration("failure_ttl", "failure_ttl", positive=False),
    "meta": _meta,
    "group": _group,
    "on_success": _callback("on_success"),
    "on_failure": _callback("on_failure"),
    "on_stopped": _callback("on_stopped"),
    "repeat": _repeat,
    "failure_mode": _failure_mode,
}
"""Writes the value of an option, by its name; raises ValueError or TypeError for one that is out of range."""
