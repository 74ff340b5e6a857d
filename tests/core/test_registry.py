"""Names and functions: paths, imports that fail, contexts."""

import sys
from pathlib import Path
from typing import Any

import pytest

from pgwerk._core import registry
from pgwerk.errors import EnqueueError, HandlerNotFound
from tests.core import handlers


def test_a_path_leads_back_to_its_function() -> None:
    for func in (handlers.add, handlers.named, handlers.Service.static):
        assert registry.resolve(registry.path_of(func)) is func
    assert registry.resolve("tests.core.handlers.task") is handlers.add


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nowhere.at.all", "no module 'nowhere'"), ("tests.core.handlers.missing", "has no function 'missing'"),
        ("tests.core.missing.add", "no module 'tests.core.missing'"), ("os.path", "has no function"),
        ("add", "not the dotted path"),
        ("tests.core.handlers.Service.nothing", "has no function"), ("__main__.gone", "gone"), ("a b.c",
        "not the dotted path"),
        ("os..path", "not the dotted path"),
    ],
)  # fmt: skip
def test_a_path_that_leads_nowhere_says_where_it_ended(path: str, reason: str) -> None:
    with pytest.raises(HandlerNotFound, match=reason):
        registry.resolve(path)


def test_a_module_that_fails_to_import_is_named_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_one.py").write_text("raise RuntimeError('no licence')")
    (tmp_path / "needs_other.py").write_text("import surely_not_installed")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(HandlerNotFound, match="RuntimeError: no licence"):
        registry.resolve("broken_one.f")
    with pytest.raises(HandlerNotFound, match="surely_not_installed"):
        registry.resolve("needs_other.f")
    with pytest.raises(HandlerNotFound, match=r"broken_one|no licence"):
        registry.resolve("broken_one.Class.f")


def test_importing_again_works_once_the_module_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(HandlerNotFound):
        registry.resolve("comes_later.f")
    (tmp_path / "comes_later.py").write_text("def f(): return 5")
    import importlib

    importlib.invalidate_caches()
    assert registry.resolve("comes_later.f")() == 5
    del sys.modules["comes_later"]


@pytest.mark.parametrize(
    ("func", "wanted"),
    [
        (handlers.named, True), (handlers.annotated, True), (handlers.annotated_in_text, True), (handlers.add, False),
        (handlers.keyword_only, False), (handlers.anything, False), (len, False), (dict, False),
    ],
)  # fmt: skip
def test_a_context_is_given_to_whom_asks_for_one(func: Any, wanted: bool) -> None:
    assert registry.wants_context(func) is wanted


def test_a_context_does_not_count_as_an_argument() -> None:
    registry.check_call(handlers.named, "x.named", (1,), {})
    with pytest.raises(EnqueueError, match=r"named\(ctx"):
        registry.check_call(handlers.named, "x.named", (), {})


def test_a_typing_error_in_a_path_of_a_module_that_is_here_is_refused() -> None:
    with pytest.raises(EnqueueError, match="missing"):
        registry.check_call("tests.core.handlers.missing", "tests.core.handlers.missing", (), {})
    with pytest.raises(EnqueueError, match=r"class 'tests\.core\.handlers\.Service' has no function 'nothing'"):
        registry.check_call("tests.core.handlers.Service.nothing", "tests.core.handlers.Service.nothing", (), {})
    registry.check_call("other.service.f", "other.service.f", (1, 2, 3), {})
    registry.check_call("tests.core.only_workers_have_it.f", "tests.core.only_workers_have_it.f", (1, 2, 3), {})
