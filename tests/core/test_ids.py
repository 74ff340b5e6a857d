"""Ids sort by time; what is no UUID is none."""

import os
import threading
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from pgwerk._app.clock import new_id
from pgwerk._core.ids import normal_id, uuid7

MOMENTS = st.tuples(st.integers(0, 2**48 - 1), st.integers(0, 4095), st.integers(0, 2**70))


@given(MOMENTS)
def test_an_id_is_a_canonical_uuid_of_version_seven(moment: tuple[int, int, int]) -> None:
    text = uuid7(*moment)
    found = UUID(text)
    assert str(found) == text
    assert found.version == 7
    assert found.variant == "specified in RFC 4122"
    assert found.int >> 80 == moment[0]


@given(MOMENTS, MOMENTS)
def test_ids_sort_as_their_times_do_as_text_too(one: tuple[int, int, int], two: tuple[int, int, int]) -> None:
    if one[:2] < two[:2]:
        assert uuid7(*one) < uuid7(*two)
        assert UUID(uuid7(*one)) < UUID(uuid7(*two))


def test_ids_of_a_process_ascend_strictly_also_between_threads() -> None:
    made: list[str] = []
    lock = threading.Lock()

    def make() -> None:
        for _ in range(300):
            with lock:
                made.append(new_id())

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == sorted(set(made))


def test_a_forked_child_makes_other_ids() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, new_id().encode())
        os._exit(0)
    mine = new_id()
    os.waitpid(child, 0)
    assert os.read(reader, 100).decode() != mine
    os.close(reader)
    os.close(writer)


def test_ids_are_read_in_every_spelling_and_nothing_else() -> None:
    one = uuid4()
    for spelling in (one, str(one), str(one).upper(), one.hex, f"{{{one}}}", f"urn:uuid:{one}"):
        assert normal_id(spelling) == str(one)
    for other in ("", "x", 5, None, "1234", str(one)[:-1], object()):
        assert normal_id(other) is None
