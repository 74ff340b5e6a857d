"""The one door between the synchronous and the asyncio app: `app.aio` and `app.sync`.

Neither imports the other. What is behind the door is imported when somebody goes through it.
"""

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from pgwerk._app.definition import Application
    from pgwerk.aio.app import Werk as AioWerk
    from pgwerk.sync.app import Werk as SyncWerk

__all__ = ["AioWerk", "SyncWerk", "aio_face", "sync_face"]


def aio_face(app: "Application") -> "AioWerk":
    """The asyncio face of *app*, made at first use; itself if it is one."""
    found = app.faces.get("aio")
    if found is None:
        from pgwerk.aio.app import Werk  # noqa: PLC0415  # the door

        # By setdefault, which is atomic: threads may meet here.
        found = app.faces.setdefault("aio", Werk.beside(app))
    return cast("AioWerk", found)


def sync_face(app: "Application") -> "SyncWerk":
    """The synchronous face of *app*, made at first use; itself if it is one."""
    found = app.faces.get("sync")
    if found is None:
        from pgwerk.sync.app import Werk  # noqa: PLC0415  # the door

        found = app.faces.setdefault("sync", Werk.beside(app))
    return cast("SyncWerk", found)
