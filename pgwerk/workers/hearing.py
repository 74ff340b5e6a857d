"""A worker's listening connection: one log line for each change between hearing and not."""

import logging

from pgwerk.errors import WerkError
from pgwerk.sync.listener import Listener

logger = logging.getLogger("pgwerk.worker")


class Hearing:
    """Hear notifications as long as there is a connection; polling suffices while there is none."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._hears = True

    def begin(self) -> None:
        """Connect, or connect again; the first failure is logged, none is raised."""
        before = self._hears
        try:
            self._listener.connect()
        except WerkError as error:
            self._hears = False
            if before:
                logger.warning("cannot listen, polling instead: %s", error)
        else:
            self._hears = True
            if not before:
                logger.info("listening again")

    def fileno(self) -> int:
        """The socket to wait for; -1 without a connection."""
        return self._listener.fileno()

    def heard(self) -> list[str] | None:
        """Return the payloads that have arrived; None when the connection was lost meanwhile."""
        try:
            return [payload for _, payload in self._listener.drain()]
        except WerkError as error:
            logger.warning("%s", error)
            return None

    def close(self) -> None:
        """Close the connection."""
        self._listener.close()
