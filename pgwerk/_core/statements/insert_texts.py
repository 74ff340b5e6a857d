"""The texts of an INSERT: of one job, and of many in one statement. Made from constants, one for each shape of job.

Of many jobs, each column travels in the cheapest form:

    form   which columns                         the parameter        in the statement
    SAME   one value for all (but never ids)     that value           a constant
    IDS    ids                                   an array's text      unnest(…)
    JSON   JSON in every job                     one JSON array       jsonb_array_elements(…)
    LIST   all others                            a list               unnest(…)
"""

from collections.abc import Sequence
from enum import Enum, auto
from functools import lru_cache
from typing import Any, NamedTuple

from pgwerk._core.statements.arrays import array
from pgwerk._core.statements.columns import INSERTED, JSON_COLUMNS
from pgwerk._core.statements.copying import SCHEDULING
from pgwerk._core.statements.times import epoch

_TYPES = {**INSERTED, "delay": "double precision", "at": "timestamptz", "waiting": "boolean"}

_DEFAULTS = {"queue": "'default'", "priority": "0", "max_attempts": "1", "failure_mode": "'hold'"}
"""For jobs that do not set a column that others of the same statement do."""


class Form(Enum):
    """How a column of many jobs travels."""

    SAME = auto()
    IDS = auto()
    JSON = auto()
    LIST = auto()


class Column(NamedTuple):
    """A column of many jobs."""

    name: str
    form: Form

    @property
    def value(self) -> str:
        """What a row has in it."""
        return f"%({self.name})s::{_TYPES[self.name]}" if self.form is Form.SAME else f"t.{self.name}"

    @property
    def source(self) -> str:
        """Where its values come from, unless it is the same for all."""
        if self.form is Form.JSON:
            return f"jsonb_array_elements(%({self.name})s::jsonb)"
        return f"unnest(%({self.name})s::{_TYPES[self.name]}[])"


def bulk_columns(jobs: Sequence[dict[str, Any]]) -> tuple[tuple[Column, ...], dict[str, Any]]:
    """The columns that any of these jobs sets, and the parameters in which they travel."""
    names = sorted({name for job in jobs for name in job})
    columns: list[Column] = []
    params: dict[str, Any] = {}
    for name in names:
        values = [job.get(name) for job in jobs]
        form = _form(name, values)
        columns.append(Column(name, form))
        params[name] = _packed(form, values)
    if all(column.form is Form.SAME for column in columns):
        # At least one column has to say how many there are.
        columns[0] = Column(names[0], Form.LIST)
        params[names[0]] = [job.get(names[0]) for job in jobs]
    return tuple(columns), params


def _form(name: str, values: list[Any]) -> Form:
    if name == "id":
        return Form.IDS
    first = values[0]
    if all(value is first or value == first for value in values):
        return Form.SAME
    return Form.JSON if name in JSON_COLUMNS and None not in values else Form.LIST


def _packed(form: Form, values: list[Any]) -> Any:
    match form:
        case Form.SAME:
            return values[0]
        case Form.IDS:
            return array(values)
        case Form.JSON:
            return f"[{','.join(values)}]"
        case Form.LIST:
            return values


# One job ------------------------------------------------------------------------------


TELL_ONE = f"""
    returning id::text, status, {epoch("scheduled_at")}, {epoch("enqueued_at")},
              case when %(tell)s::boolean or exists (select from {{idle}}) then
                  case status
                      when 'queued' then pg_notify({{wake}}, 'q' || queue)
                      when 'scheduled' then pg_notify({{wake}}, 'd' || extract(epoch from scheduled_at - enqueued_at))
                  end
              end
"""
"""How the INSERT of one job ends: it answers, and tells whoever sleeps."""


@lru_cache(maxsize=256)
def insert_sql(names: tuple[str, ...]) -> str:
    """Insert one job with these columns; its row comes back unless its key, or its id, exists."""
    columns = {name: f"%({name})s::{INSERTED[name]}" for name in names if name in INSERTED}
    columns |= _computed(names, {name: f"%({name})s" for name in names})
    return f"""
    insert into {{jobs}} ({", ".join(columns)})
    values ({", ".join(columns.values())})
    on conflict do nothing{TELL_ONE}"""


# Many jobs ----------------------------------------------------------------------------


@lru_cache(maxsize=256)
def insert_uniform_sql(columns: tuple[Column, ...]) -> str:
    """Insert jobs that may run at once: how many were inserted, and when, comes back."""
    return f"""{_insert_new(columns)}
select count(*), {epoch("min(n.enqueued_at)")}, (select count(*) from told)
from new n
"""


@lru_cache(maxsize=256)
def insert_any_sql(columns: tuple[Column, ...]) -> str:
    """Insert jobs of any kind: a row for each that was inserted comes back."""
    return f"""{_insert_new(columns)}
select n.id::text, n.status, {epoch("n.scheduled_at")}, {epoch("n.enqueued_at")}, (select count(*) from told)
from new n
"""


def _insert_new(columns: tuple[Column, ...]) -> str:
    value = {column.name: column.value for column in columns}
    target = {
        name: f"coalesce({text}, {_DEFAULTS[name]})" if name in _DEFAULTS else text
        for name, text in value.items()
        if name in INSERTED
    }
    target |= _computed(tuple(value), value)
    apart = [column for column in columns if column.form is not Form.SAME]
    return f"""
with new as (
    insert into {{jobs}} ({", ".join(target)})
    select {", ".join(target.values())}
    from rows from ({", ".join(column.source for column in apart)}) as t({", ".join(column.name for column in apart)})
    on conflict do nothing
    returning id, status, queue, scheduled_at, enqueued_at
), told as (
    select pg_notify({{wake}}, message)
    from (select distinct 'q' || queue from new where status = 'queued'
          union all
          select 'd' || extract(epoch from min(scheduled_at) - min(enqueued_at)) from new
          where status = 'scheduled' having count(*) > 0) as t(message)
    where %(tell)s or exists (select from {{idle}})
)"""


# What follows from delay, at, waiting and ttl -----------------------------------------


def _computed(names: tuple[str, ...], value: dict[str, str]) -> dict[str, str]:
    """The columns that follow from delay, at, waiting and ttl; none for a plain job."""
    if not SCHEDULING & set(names):
        return {}
    delay = f"coalesce({value['delay']}::double precision, 0)" if "delay" in names else "0"
    due = f"statement_timestamp() + {delay} * interval '1 second'"
    if "at" in names:
        due = f"coalesce({value['at']}::timestamptz, {due})"
    status = f"case when {due} > statement_timestamp() then 'scheduled' else 'queued' end"
    if "waiting" in names:
        status = f"case when {value['waiting']}::boolean then 'waiting' else {status} end"
    columns = {"status": status, "scheduled_at": due}
    if "ttl" in names:
        # Counted from when it may start; a dependent's from its release.
        start = f"greatest({due}, statement_timestamp())" if "at" in names else due
        expires = f"{start} + {value['ttl']}::double precision * interval '1 second'"
        if "waiting" in names:
            expires = f"case when {value['waiting']}::boolean then null else {expires} end"
        columns["expires_at"] = expires
    return columns
