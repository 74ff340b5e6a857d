"""Where the jobs of a synchronous app are: the backend of its DSN's scheme."""

from collections.abc import Callable

from pgwerk._app.definition import App
from pgwerk._app.ports import Backend, Place


def kind_of(app: App) -> Callable[[App], Backend]:
    """Import the backend of an app; processes that are forked later need not import it again."""
    # Imported when there is a use for it: the one needs the driver, the other must not.
    if app.place is Place.MEMORY:
        from pgwerk.sync.memory import MemoryBackend  # noqa: PLC0415

        return MemoryBackend
    from pgwerk.sync.postgres import PostgresBackend  # noqa: PLC0415

    return PostgresBackend


def backend_of(app: App) -> Backend:
    """Make the backend; an embedded server is started or joined, which takes a moment."""
    return kind_of(app)(app)
