"""What a stretch of work costs the server: CPU (where /proc shows it), commits, and heap-only updates."""

import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks.installation import Installation

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Counters of the server; NaN for those that cannot be read."""

    cpu: float
    commits: float
    updates: float
    hot: float

    def since(self, before: "Cost", jobs: int) -> dict[str, float]:
        """The difference, per job."""
        updates = self.updates - before.updates
        return {
            "commits/job": (self.commits - before.commits) / jobs,
            "server µs/job": (self.cpu - before.cpu) / jobs * 1e6,
            "HOT share": (self.hot - before.hot) / updates if updates else float("nan"),
        }


def cost(at: Installation) -> Cost:
    _ = at.execute("select pg_stat_clear_snapshot()")
    ((commits,),) = at.execute("select xact_commit from pg_stat_database where datname = current_database()")
    ((updates, hot),) = at.execute(
        "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relid = %s::regclass", [at.jobs]
    )
    return Cost(_server_cpu(at.raw.info.backend_pid), float(commits), float(updates), float(hot))


def _server_cpu(backend: int) -> float:
    """CPU seconds of the postmaster, its processes and those that have ended; NaN when it is on another machine."""
    try:
        if "postgres" not in Path(f"/proc/{backend}/cmdline").read_text():
            return float("nan")
        postmaster = int(_stat(backend)[1])
        own = _stat(postmaster)
        total = sum(int(own[n]) for n in (11, 12, 13, 14))
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    stat = _stat(int(entry.name))
                except OSError:
                    continue
                if int(stat[1]) == postmaster:
                    total += int(stat[11]) + int(stat[12])
    except OSError:
        return float("nan")
    return total / TICK


def _stat(pid: int) -> list[str]:
    # The name in parentheses may hold anything.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
