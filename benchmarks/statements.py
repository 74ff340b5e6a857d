"""What takes the server's time, for whoever asks `--statements` of a server that has pg_stat_statements."""

import psycopg

PRELOAD = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "all"}

TOP = """
    select calls, total_exec_time, mean_exec_time * 1000, rows, wal_bytes / greatest(calls, 1),
           (shared_blks_hit + shared_blks_read) / greatest(calls, 1), query
    from pg_stat_statements order by total_exec_time desc limit 15"""


def forget(dsn: str) -> None:
    """Begin to count anew."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        _ = connection.execute("create extension if not exists pg_stat_statements")
        _ = connection.execute("select pg_stat_statements_reset()")


def show(dsn: str) -> None:
    """Print the dearest statements."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute(TOP.encode()).fetchall()
    print(f"\n{'calls':>9}{'ms':>10}{'µs each':>10}{'rows':>9}{'WAL each':>10}{'pages each':>11}  statement")
    for calls, total, each, count, wal, pages, query in rows:
        text = " ".join(query.split())[:150]
        print(f"{calls:>9}{total:>10.0f}{each:>10.0f}{count:>9}{float(wal):>10.0f}{float(pages):>11.0f}  {text}")
