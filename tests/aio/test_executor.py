"""A connection that was interrupted in the middle of a pipeline is not lent again, on either side."""

from typing import Any

import pytest

from pgwerk._core.operation import Statement, scalar
from tests.fixtures.run import AioFace, Run

pytestmark = pytest.mark.every_executor

ME = Statement("select pg_backend_pid()", {}, scalar, repeatable=True)


def test_a_torn_connection_is_closed(run: Run) -> None:
    before = run(ME)

    def tear(connection: Any) -> None:
        connection.pgconn.enter_pipeline_mode()
        connection.pgconn.send_query_params(b"select 1", None)
        connection.pgconn.flush()

    face = run.face
    if isinstance(face, AioFace):

        async def torn() -> None:
            async with face.executor._pool.lease() as connection:
                tear(connection)

        face.wait(torn())
    else:
        with face.executor._pool.lease() as connection:
            tear(connection)
    assert run(ME) != before
