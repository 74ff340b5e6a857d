"""The benchmarks that change a statement still find what they change."""

from typing import get_args

import pytest

from benchmarks import producer
from pgwerk import Werk
from pgwerk._core.statements import insert_texts
from tests.workers import handlers


@pytest.mark.parametrize("telling", get_args(producer.Telling))
def test_a_producer_enqueues_whatever_it_tells(
    app: Werk, telling: producer.Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(insert_texts, producer.TEXT, getattr(insert_texts, producer.TEXT))
    insert_texts.insert_sql.cache_clear()
    try:
        producer.change(telling)
        job = app.enqueue(handlers.echo, 1)
        assert job is not None
        assert app.get_job(job.id).status == "queued"
    finally:
        insert_texts.insert_sql.cache_clear()
