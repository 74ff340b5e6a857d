"""Who takes part, what each needs installed, and how to see that it has finished."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Contender:
    """One row of the table."""

    name: str
    title: str
    program: str
    """In programs/: what runs in the contender's environment."""
    settings: str
    """What differs from the defaults, for the table's reader."""
    unfinished: tuple[str, ...]
    """A query, or commands of Redis whose numbers are added: how many jobs are not finished."""
    package: str = "pgwerk"
    """The distribution whose version is shown."""
    requirements: tuple[str, ...] = ()
    """None: it runs in the environment of the benchmark itself."""
    npm: bool = False
    redis: bool = False
    copies: int = 1
    """How many worker processes are started for the drain."""
    environ: dict[str, str] = field(default_factory=dict)
    drains_only: bool = False
    """It differs from the row before it in nothing else."""

    @property
    def store(self) -> str:
        return "Redis" if self.redis else "Postgres"


OUR_UNFINISHED = ("select count(*) from pgwerk._pgwerk_jobs where status in ('queued', 'active')",)

RAW = Contender(
    name="raw",
    title="raw psycopg, 100 at a time",
    program="with_psycopg.py",
    settings="no threads, retries, timeouts or recovery: the reference of all ratios, not a peer",
    package="psycopg",
    environ={"BENCH_BATCH": "100"},
    unfinished=OUR_UNFINISHED,
)

CONTENDERS = (
    RAW,
    Contender(
        name="raw-400",
        title="raw psycopg, 400 at a time",
        program="with_psycopg.py",
        settings="the same with larger batches",
        package="psycopg",
        environ={"BENCH_BATCH": "400"},
        unfinished=OUR_UNFINISHED,
        drains_only=True,
    ),
    Contender(
        name="this",
        title="pgwerk, 1 child",
        program="with_this.py",
        settings="Worker(processes=1), else the defaults",
        environ={"BENCH_PROCESSES": "1"},
        unfinished=OUR_UNFINISHED,
    ),
    Contender(
        name="this-2",
        title="pgwerk, 2 children",
        program="with_this.py",
        settings="Worker(processes=2), else the defaults",
        environ={"BENCH_PROCESSES": "2"},
        unfinished=OUR_UNFINISHED,
        drains_only=True,
    ),
    Contender(
        name="pgwerk-asyncio",
        title="pgwerk of PyPI (asyncio)",
        program="with_pgwerk_asyncio.py",
        settings="AsyncWorker(concurrency=50), and no pooler before Postgres: each of its operations connects",
        requirements=("pgwerk", "psycopg[binary]"),
        unfinished=OUR_UNFINISHED,
    ),
    Contender(
        name="pgqueuer",
        title="PGQueuer",
        program="with_pgqueuer.py",
        settings="asyncpg, uvloop, batch_size=500",
        package="pgqueuer",
        requirements=("pgqueuer[asyncpg]", "uvloop"),
        unfinished=("select count(*) from pgqueuer",),
    ),
    Contender(
        name="procrastinate",
        title="Procrastinate",
        program="with_procrastinate.py",
        settings="PsycopgConnector, async tasks, concurrency=10",
        package="procrastinate",
        requirements=("procrastinate", "psycopg[binary,pool]"),
        unfinished=("select count(*) from procrastinate_jobs where status in ('todo', 'doing')",),
    ),
    Contender(
        name="chancy",
        title="Chancy",
        program="with_chancy.py",
        settings="asyncio executor, concurrency=5000, eager_polling, polling_interval=1",
        package="chancy",
        requirements=("chancy", "psycopg[binary,pool]"),
        unfinished=("select count(*) from chancy_jobs where state in ('pending', 'running', 'retrying')",),
    ),
    Contender(
        name="dramatiq-pg",
        title="dramatiq-pg",
        program="with_dramatiq_pg.py",
        settings="1 process, 8 threads, results=False",
        package="dramatiq-pg",
        requirements=("dramatiq-pg", "psycopg2-binary"),
        unfinished=("select count(*) from dramatiq.queue where state in ('queued', 'consumed')",),
    ),
    Contender(
        name="graphile-worker",
        title="Graphile Worker, 1 process",
        program="with_graphile_worker.cjs",
        settings="concurrentJobs=24, maxPoolSize=25, localQueue.size=500, completeJobBatchDelay=0",
        package="graphile-worker",
        requirements=("graphile-worker",),
        npm=True,
        unfinished=("select count(*) from graphile_worker._private_jobs",),
    ),
    Contender(
        name="graphile-worker-2",
        title="Graphile Worker, 2 processes",
        program="with_graphile_worker.cjs",
        settings="the same, started twice",
        package="graphile-worker",
        requirements=("graphile-worker",),
        npm=True,
        copies=2,
        unfinished=("select count(*) from graphile_worker._private_jobs",),
        drains_only=True,
    ),
    Contender(
        name="celery",
        title="Celery",
        program="with_celery.py",
        settings="solo pool, results ignored, prefetch multiplier 128, no gossip, mingle or heartbeat",
        package="celery",
        requirements=("celery[redis]", "hiredis"),
        redis=True,
        unfinished=("LLEN celery", "HLEN unacked"),
    ),
    Contender(
        name="rq",
        title="RQ",
        program="with_rq.py",
        settings="SimpleWorker, result_ttl=0",
        package="rq",
        requirements=("rq", "hiredis"),
        redis=True,
        unfinished=("LLEN rq:queue:default", "ZCARD rq:wip:default"),
    ),
    Contender(
        name="dramatiq",
        title="Dramatiq",
        program="with_dramatiq.py",
        settings="1 process, 8 threads, dramatiq_queue_prefetch=100",
        environ={"dramatiq_queue_prefetch": "100"},
        package="dramatiq",
        requirements=("dramatiq[redis]", "hiredis"),
        redis=True,
        unfinished=("HLEN dramatiq:default.msgs",),
    ),
    Contender(
        name="huey",
        title="Huey",
        program="with_huey.py",
        settings="RedisHuey, results=False, 2 threads, no periodic tasks; it has no acknowledgements",
        package="huey",
        requirements=("huey", "redis", "hiredis"),
        redis=True,
        unfinished=("LLEN huey.redis.bench",),
    ),
)
