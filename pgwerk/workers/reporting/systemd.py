"""What a service manager is told: systemd's notification protocol, which is a datagram of lines."""

import logging
import os
import socket
from collections.abc import Mapping

logger = logging.getLogger("pgwerk.worker")


class Notifier:
    """Send the state of this service to the socket that systemd named; says so once when that fails."""

    def __init__(self, address: str, watchdog: float | None = None) -> None:
        # An abstract socket of Linux begins with a NUL, which no environment variable can hold.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._shown = address
        self._failed = False
        self.watchdog = watchdog
        """Seconds without a sign of life after which the manager kills us."""

    def send(self, **state: str) -> None:
        """Tell the manager, for example ``READY="1"``. Never waits, never raises."""
        text = "\n".join(f"{name}={' '.join(value.split())}" for name, value in state.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                _ = sender.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._failed:
                logger.warning("cannot notify the service manager at NOTIFY_SOCKET=%s: %s", self._shown, error)
            self._failed = True
        else:
            self._failed = False


def notifier(environment: Mapping[str, str] | None = None) -> Notifier | None:
    """Find the service manager that started this process; None when there is none."""
    given = os.environ if environment is None else environment
    address = given.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return None
    return Notifier(address, _watchdog(given))


def _watchdog(environment: Mapping[str, str]) -> float | None:
    try:
        seconds = int(environment["WATCHDOG_USEC"]) / 1_000_000
        for_us = int(environment.get("WATCHDOG_PID", os.getpid())) == os.getpid()
    except (KeyError, ValueError):
        return None
    return seconds if for_us and seconds > 0 else None
