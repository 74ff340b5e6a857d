"""The two faces of pgwerk are one surface: names, signatures and docstrings, held equal here."""

import inspect
import re
from typing import Any

import pytest

import pgwerk
from pgwerk import aio
from pgwerk.aio.app import Werk as AioWerk
from pgwerk.aio.tasks import KeyedTask as AioKeyedTask
from pgwerk.aio.tasks import Task as AioTask
from pgwerk.sync.app import Werk as SyncWerk
from pgwerk.sync.tasks import KeyedTask as SyncKeyedTask
from pgwerk.sync.tasks import Task as SyncTask

OTHER_OBJECTS = {"Werk", "Worker", "ThreadWorker", "ProcessWorker", "ForkWorker", "AsyncWorker"}
NOT_AWAITED = {"task", "options"}
"""What does no IO, and is a plain function on both sides; besides what both inherit from the same class."""

OTHER_WORDS = {"disconnect", "close"}
"""Whose docstring says more about event loops."""


def surface(kind: type) -> dict[str, Any]:
    found = {name: inspect.getattr_static(kind, name) for name in dir(kind) if not name.startswith("_")}
    special = {"__enter__": "__aenter__", "__exit__": "__aexit__"}
    for plain, awaited in special.items():
        value = vars(kind).get(plain) or vars(kind).get(awaited)
        if value is not None:
            found[plain] = value
    return found


def words(text: str | None) -> str:
    return " ".join((text or "").split())


def unquoted(signature: inspect.Signature) -> str:
    """As text, because the classes of both sides have the same names."""
    return re.sub(r"pgwerk\.(aio|sync)\.", "pgwerk.", str(signature))


def test_both_packages_show_the_same_names() -> None:
    assert aio.__all__ == pgwerk.__all__
    assert dir(aio).count("Werk") >= 1
    with pytest.raises(AttributeError, match="nonsense"):
        _ = aio.nonsense


@pytest.mark.parametrize("name", pgwerk.__all__)
def test_a_name_is_the_same_object_unless_it_has_to_be_awaited(name: str) -> None:
    assert (getattr(aio, name) is getattr(pgwerk, name)) is (name not in OTHER_OBJECTS)


PAIRS = [(SyncWerk, AioWerk), (SyncTask, AioTask), (SyncKeyedTask, AioKeyedTask)]


@pytest.mark.parametrize(("plain", "awaited"), PAIRS)
def test_both_classes_have_the_same_members(plain: type, awaited: type) -> None:
    assert surface(plain).keys() == surface(awaited).keys()


MEMBERS = [(plain, awaited, name) for plain, awaited in PAIRS for name in surface(plain)]


@pytest.mark.parametrize(("plain", "awaited", "name"), MEMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_a_member_is_the_same_but_for_async(plain: type, awaited: type, name: str) -> None:
    one, other = surface(plain)[name], surface(awaited)[name]
    if one is other or not inspect.isfunction(one):
        assert type(one) is type(other)
        return
    assert inspect.iscoroutinefunction(other) is (name not in NOT_AWAITED), name
    assert unquoted(inspect.signature(one)) == unquoted(inspect.signature(other))
    assert one.__doc__ or name.startswith("__")
    if name not in OTHER_WORDS:
        assert words(one.__doc__) == words(other.__doc__)


def test_both_classes_are_made_alike() -> None:
    assert inspect.signature(SyncWerk) == inspect.signature(AioWerk)
    assert len(inspect.signature(SyncWerk).parameters) > 10, "they are spelled out, for people and their editors"
