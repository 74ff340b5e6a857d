"""A machine does the same things, in any order, to Postgres and to memory; every result and every row must agree.

So must every notification, and the class of every error.
"""

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from pgwerk._core.names import Names
from pgwerk._core.operations import migrate
from pgwerk._memory.store import Store
from tests.fixtures.run import SyncFace
from tests.stateful.doing import Doing
from tests.stateful.sides import Both, MemorySide, PostgresSide

EXAMPLES = int(os.environ.get("PGWERK_TEST_EXAMPLES", "12"))

# As memory's: Postgres's own sort by the millisecond only, and those of one statement in any order.
IN_ORDER = """
    create sequence "{schema}".made;
    alter table {jobs} alter column id set default (
        lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0')
        || '7000' || '8' || lpad(to_hex(nextval('"{schema}".made')), 15, '0'))::uuid
"""


class Machine(Doing):
    """The steps, and what must be true after each."""

    @invariant()
    def all_rows_agree(self) -> None:
        self.both.compare()


@pytest.fixture
def machine(dsn: str, schema: str, pg: "psycopg.Connection[Any]") -> Iterator[type[Machine]]:
    names = Names(schema)
    with SyncFace(dsn, names, pool_size=2) as face:
        face.run(migrate.migrate())
        with pg.cursor() as cursor:
            _ = cursor.execute(IN_ORDER.format(schema=schema, jobs=names.render("{jobs}", with_params=False)).encode())
        both = Both(PostgresSide(face, pg, names), MemorySide(Store()))
        yield type("Both", (Machine,), {"both": both})
        both.postgres.close()
        both.memory.close()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_does_what_postgres_does(machine: type[Machine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            database=None,
            print_blob=True,
            phases=(Phase.generate,) if EXAMPLES < 50 else (Phase.generate, Phase.shrink),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
