"""Where the jobs of an asyncio app are: the backend of its DSN's scheme."""

from pgwerk._app.definition import App
from pgwerk._app.ports import AsyncBackend, Place


def backend_of(app: App) -> AsyncBackend:
    """Make the backend; an embedded server is started or joined, which takes a moment."""
    # Imported when there is a use for it: the one needs the driver, the other must not.
    if app.place is Place.MEMORY:
        from pgwerk.aio.memory import MemoryBackend  # noqa: PLC0415

        return MemoryBackend(app)
    from pgwerk.aio.postgres import PostgresBackend  # noqa: PLC0415

    return PostgresBackend(app)
