"""Running operations on a store, as the executors do on Postgres."""

from collections.abc import Callable
from typing import Any, TypeVar

from pgwerk._app.ports import Place
from pgwerk._core.operation import Operation, Procedure, Walk, walk_through
from pgwerk._memory.answers import answer
from pgwerk._memory.clock import Clock
from pgwerk._memory.store import Store
from pgwerk.errors import ConfigError

R = TypeVar("R")

_named: dict[str, Store] = {}


def store_for(dsn: str, shared: dict[str, Any]) -> Store:
    """The store of an app: the same for both of its faces, which share this dict."""
    name = dsn.removeprefix("memory:").strip("/")
    # One step: threads may meet here.
    store: Store = shared.get("store") or shared.setdefault("store", store_of(name))
    return store


def clock_of(place: Place, dsn: str, shared: dict[str, Any]) -> Clock:
    """The clock of an app's store; raises ConfigError when its jobs are elsewhere."""
    if place is not Place.MEMORY:
        raise ConfigError("the clock of Postgres cannot be set: Werk.in_memory() has one that can")
    return store_for(dsn, shared).clock


def no_connections(conn: object) -> ConfigError:
    """The error for a connection that a caller passes."""
    return ConfigError(
        f"_conn={type(conn).__name__}: memory:// has no connections and no transactions of yours to join. Leave _conn "
        'out here, or use Postgres: Werk("postgresql://…"), or Werk("embedded://") for one that needs no set-up.'
    )


def store_of(name: str) -> Store:
    """The store of a name, the same for all of this process; without a name, a new one each time."""
    # One step, so that it takes no lock, which a forked child could find taken.
    return _named.setdefault(name, Store()) if name else Store()


def run(store: Store, op: Operation[R], meanwhile: Callable[[], None] | None = None) -> R:
    """Run an operation; what it raises leaves nothing behind. *meanwhile* is called once for each request."""
    if not op.atomic:
        return _walk(store, op, meanwhile)
    with store.transaction():
        return _walk(store, op, meanwhile)


def _walk(store: Store, op: Operation[R], meanwhile: Callable[[], None] | None) -> R:
    walk = Walk(op)
    while walk.request:
        try:
            with store.transaction():
                results = [answer(store, statement) for statement in walk.request]
        except Exception as error:  # noqa: BLE001  # the operation decides
            walk.fail(error)
            continue
        if meanwhile is not None:
            meanwhile()
        walk.reply(results)
    return walk.result


def perform(store: Store, steps: Procedure[R]) -> R:
    """Run each operation that a procedure asks for, in a transaction of its own."""
    return walk_through(steps, lambda op: run(store, op))
