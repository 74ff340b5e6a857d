"""Which jobs a worker holds, and under which claims."""

from collections.abc import Iterable

from pgwerk._core.claim import Claimed


class HeldJobs:
    """What was claimed and is not settled."""

    def __init__(self) -> None:
        self._held: dict[str, Claimed] = {}
        self._open: dict[int, int] = {}
        """How many unsettled jobs each claim has."""
        self.timeouts: dict[str, float] = {}
        """By job: how long it may run."""
        self.retiring: list[int] = []
        """Claims that are settled completely, and whose rows can go."""

    def __len__(self) -> int:
        return len(self._held)

    @property
    def claims(self) -> list[int]:
        """The claims that have unsettled jobs."""
        return sorted(self._open)

    @property
    def held(self) -> list[Claimed]:
        """The jobs that are held."""
        return list(self._held.values())

    def without(self, known: set[str]) -> list[Claimed]:
        """The held jobs that are not *known*."""
        return [claimed for job_id, claimed in self._held.items() if job_id not in known]

    def add(self, claimed: Iterable[Claimed]) -> None:
        """Hold these from now on."""
        for one in claimed:
            self._held[one.id] = one
            if one.timeout_secs is not None:
                self.timeouts[one.id] = one.timeout_secs
            self._open[one.claim] = self._open.get(one.claim, 0) + 1

    def settle(self, job_id: str) -> None:
        """Let go of a job that is settled."""
        claimed = self._held.pop(job_id, None)
        if claimed is None:
            return
        if claimed.timeout_secs is not None:
            _ = self.timeouts.pop(job_id, None)
        left = self._open[claimed.claim] - 1
        if left:
            self._open[claimed.claim] = left
        else:
            del self._open[claimed.claim]
            self.retiring.append(claimed.claim)
