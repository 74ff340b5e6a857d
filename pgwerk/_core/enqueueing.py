"""From a call to a job that can be inserted: its function, its arguments, its options, and what hooks change."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pgwerk._core import options as opt
from pgwerk._core import registry
from pgwerk._core.enqueue_options import READERS, Defaults, checked_text, read_options
from pgwerk._core.job import Job
from pgwerk._core.operations.enqueue import NewJob
from pgwerk._core.payload import encode
from pgwerk._core.statements.columns import INSERTED, JSON_COLUMNS, to_json
from pgwerk._core.statements.enqueue import Values
from pgwerk.errors import EnqueueError

Hook = Callable[[Job], Any]
"""Sees, and may change, a job before it is inserted."""


@dataclass(slots=True)
class Draft:
    """A job that is checked and not yet encoded: hooks may see and change it."""

    path: str
    values: Values
    depends_on: tuple[tuple[str, bool], ...]
    payload: dict[str, Any]
    defaults: Defaults
    _job: Job | None = None
    _before: dict[str, Any] = field(default_factory=dict)

    @property
    def job(self) -> Job:
        """The job as hooks see it; what they change in it is in the order."""
        if self._job is None:
            self._job = _as_hooks_see_it(self.values, self.payload)
            self._before = copy.deepcopy({name: getattr(self._job, name) for name in _CHANGEABLE})
        return self._job

    def new_job(self) -> NewJob:
        """Encode it; raises EnqueueError and SerializationError."""
        values, payload = self.values, self.payload
        if self._job is not None:
            for name, old in self._before.items():
                new = getattr(self._job, name)
                if new != old:
                    _write_back(values, name, new)
            payload = {key: value for key, value in dict(self._job.payload or {}).items() if value}
        if payload:
            what = f"the arguments of {self.path}"
            values["payload"] = encode(self.defaults.serializer, payload, what, self.defaults.max_payload_bytes)
        return NewJob(values, self.depends_on, payload or None)


def draft(
    func: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    defaults: Defaults,
    new_id: Callable[[], str],
) -> Draft:
    """Read a call and its options, or raise EnqueueError or SerializationError; nothing is written here."""
    path = registry.path_back_to(func)
    own = dict(kwargs)
    registry.check_call(func, path, args, own)
    values: Values = {"id": new_id(), "function": path}
    depends_on = read_options(values, options, defaults, path)
    payload: dict[str, Any] = {}
    if args:
        payload["args"] = list(args)
    if own:
        payload["kwargs"] = own
    return Draft(path, values, depends_on, payload, defaults)


def new_job(
    func: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    defaults: Defaults,
    new_id: Callable[[], str],
    hooks: tuple[Hook, ...] = (),
) -> NewJob:
    """Make the order for a job, with hooks that need not be awaited; see `draft`."""
    made = draft(func, args, kwargs, options, defaults, new_id)
    for hook in hooks:
        _ = hook(made.job)
    return made.new_job()


# Hooks --------------------------------------------------------------------------------------------


_CHANGEABLE = tuple(name for name in INSERTED if name not in ("payload", "wait_delay"))
"""What hooks may change besides the payload, which is encoded after them."""


def _as_hooks_see_it(values: Values, payload: dict[str, Any]) -> Job:
    known = {name: values[name] for name in _CHANGEABLE if name in values}
    job = Job.of({name: json.loads(value) if name in JSON_COLUMNS else value for name, value in known.items()})
    job.payload = {"args": payload.get("args", []), "kwargs": payload.get("kwargs", {})}
    return job


def _write_back(values: Values, name: str, value: Any) -> None:
    if value is None:
        _ = values.pop(name, None)
        return
    try:
        if name in ("queue", "key", "priority", "meta", "schedule_name", "failure_mode", "ttl"):
            READERS[name](values, value)
        elif name in JSON_COLUMNS:
            values[name] = to_json(value)
        elif INSERTED[name] == "double precision":
            values[name] = opt.seconds(name, value)
        elif INSERTED[name] == "integer":
            values[name] = opt.whole(name, value, 0, opt.MAX_ATTEMPTS)
        elif name in ("function", "on_success", "on_failure", "on_stopped"):
            values[name] = registry.path_back_to(value)
        else:
            values[name] = checked_text(name, value, 1024)
    except (ValueError, TypeError) as error:
        raise EnqueueError(f"a before_enqueue hook set {error}") from None
