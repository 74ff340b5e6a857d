"""What is stored leads back to the very object that was given, or is refused with what it leads to."""

import importlib
import math
import operator
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pgwerk import Callback, EnqueueParams, Retry, Werk, aio
from pgwerk._core import registry
from pgwerk._core.enqueue_options import Defaults, class_name
from pgwerk._core.enqueueing import new_job
from pgwerk._core.payload import JSONSerializer
from pgwerk._handlers.call import failed
from pgwerk.errors import EnqueueError, HandlerNotFound

Write = Callable[[str, str], ModuleType]

SHOP = """
import functools
from pgwerk import Werk, aio

app = Werk("postgresql://localhost/nowhere")
other_app = aio.Werk("postgresql://localhost/nowhere")

def logged(func):
    @functools.wraps(func)
    def call(*args, **kwargs):
        return "logged", func(*args, **kwargs)
    return call

def careless(func):
    def call(*args, **kwargs):
        return func(*args, **kwargs)
    return call

def plain(a=0): return "plain"
twice = functools.wraps(plain)(lambda a=0: "twice")

@logged
def decorated(a=0): return "decorated"
undecorated = decorated.__wrapped__

@functools.lru_cache
def cached(a=0): return "cached"

@app.task
def task(a=0): return "task"

@app.task
@logged
def task_outside(a=0): return "task_outside"

@logged
@app.task(queue="mail")
def task_inside(a=0): return "task_inside"

@other_app.task
@app.task
def two_tasks(a=0): return "two_tasks"

made_task = app.task(plain)

def renamed(a=0): return "renamed"
renamed.__qualname__ = "plain"

def moved(a=0): return "moved"
moved.__module__ = "shop_that_is_gone"

def public(a=0): return "public"
public.__module__ = "SHOP_front"

def rebound(a=0): return "first"
first = rebound
def rebound(a=0): return "second"

unnamed = careless(plain)
anonymous = lambda a=0: "anonymous"

class Service:
    @staticmethod
    def static(a=0): return "static"
    class Inner:
        @staticmethod
        def deep(a=0): return "deep"

class Boom(Exception): ...
class Holder:
    class Bang(Boom): ...
OldBoom = Boom
class Boom(Exception): ...
Made = type("Made", (ValueError,), {"__module__": "made.elsewhere"})
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module and import it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(name: str, text: str) -> ModuleType:
        path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write
    registry.resolve.cache_clear()
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def shop(write: Write, tmp_path: Path) -> ModuleType:
    """A module with functions of all kinds, called anew for each test."""
    name = f"shop_{abs(hash(str(tmp_path)))}"
    module = write(name, SHOP.replace("SHOP", name))
    write(f"{name}_front", f"from {name} import public")
    return module


def stored(func: Any, **options: Any) -> str:
    made = new_job(func, (), {}, options, Defaults(JSONSerializer()), lambda: "0197c2f0-6f0c-7b7e-9d0a-3a1d1c3b2a10")
    return str(made.values["function"])


@pytest.mark.parametrize(
    ("name", "path", "result"),
    [
        ("plain", "SHOP.plain", "plain"), ("cached", "SHOP.cached", "cached"), ("task", "SHOP.task", "task"),
        ("decorated", "SHOP.decorated", ("logged", "decorated")),
        ("task_outside", "SHOP.task_outside", ("logged", "task_outside")),
        ("task_inside", "SHOP.task_inside", ("logged", "task_inside")), ("two_tasks", "SHOP.two_tasks", "two_tasks"),
        ("made_task", "SHOP.plain", "plain"), ("public", "SHOP_front.public", "public"),
        ("rebound", "SHOP.rebound", "second"), ("Service.static", "SHOP.Service.static", "static"),
        ("Service.Inner.deep", "SHOP.Service.Inner.deep", "deep"),
    ],
)  # fmt: skip
def test_what_is_enqueued_is_what_runs(shop: ModuleType, name: str, path: str, result: object) -> None:
    func = operator.attrgetter(name)(shop)
    assert stored(func) == path.replace("SHOP", shop.__name__)
    assert registry.resolve(stored(func))() == result


@pytest.mark.parametrize("func", [len, math.sqrt, time.sleep, operator.add, dict, sys.exit])
def test_functions_in_c_and_classes_are_found_by_their_own_names(func: Any) -> None:
    assert registry.resolve(registry.path_back_to(func)) is func


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "twice",
            (
                "the function plain at FILE:20 cannot be enqueued: a worker would import 'SHOP.plain', which is "
                "something else: the function plain at FILE:19. "
                "Enqueue it by the path where it can be found: 'SHOP.twice'."
            ),
        ),
        (
            "undecorated",
            (
                "the function decorated at FILE:22 cannot be enqueued: a worker would import 'SHOP.decorated', which "
                "is what a decorator made of it: the function decorated at FILE:9. "
                "Enqueue it by the path where it can be found: 'SHOP.undecorated'."
            ),
        ),
        (
            "renamed",
            (
                "the function plain at FILE:46 cannot be enqueued: a worker would import 'SHOP.plain', which is "
                "something else: the function plain at FILE:19. "
                "Enqueue it by the path where it can be found: 'SHOP.renamed'."
            ),
        ),
        (
            "moved",
            (
                "moved cannot be enqueued: a worker would import it as 'shop_that_is_gone.moved', and there is no "
                "module 'shop_that_is_gone'"
            ),
        ),
        (
            "first",
            (
                "the function rebound at FILE:55 cannot be enqueued: a worker would import 'SHOP.rebound', which is "
                "something else: the function rebound at FILE:57. "
                "Enqueue it by the path where it can be found: 'SHOP.first'."
            ),
        ),
        (
            "unnamed",
            (
                "careless.call cannot be enqueued: it is defined inside a function, where a worker cannot import it. "
                "Move it to the top level of its module. If a decorator made it, the decorator lacks functools.wraps."
            ),
        ),
        (
            "anonymous",
            (
                "a lambda cannot be enqueued: it has no name that a worker could import. "
                "Write a function with def at the top level of a module."
            ),
        ),
        (
            "task_inside.__wrapped__",
            (
                "the function task_inside at FILE:36 cannot be enqueued: a worker would import 'SHOP.task_inside', "
                "which is what a decorator made of it: the function task_inside at FILE:9. "
                "Enqueue that one, or give the undecorated function a name of its own."
            ),
        ),
    ],
)
def test_what_would_not_run_is_refused_with_what_would(shop: ModuleType, name: str, message: str) -> None:
    func = operator.attrgetter(name)(shop)
    with pytest.raises(EnqueueError) as caught:
        stored(func)
    assert str(caught.value) == message.replace("SHOP", shop.__name__).replace("FILE", str(shop.__file__))


def test_every_way_into_the_queue_asks_for_the_way_back(shop: ModuleType) -> None:
    other = f"{shop.__name__}.twice"
    ways: list[Callable[[], Any]] = [
        lambda: stored(shop.plain, on_success=shop.twice),
        lambda: stored(shop.plain, on_failure=Callback(shop.twice, 5)),
        lambda: stored(shop.plain, on_stopped=shop.app.task(shop.twice)),
        lambda: stored(shop.app.task(shop.twice)),
        lambda: shop.app.task(shop.twice).enqueue(),
        lambda: shop.app.enqueue_many([EnqueueParams(func=shop.twice)]),
        lambda: shop.app.map(shop.twice, [{}]),
        lambda: shop.app.enqueue(shop.twice, _sync=True),
    ]
    for way in ways:
        with pytest.raises(EnqueueError, match=other):
            way()
    assert stored(other) == other
    with pytest.raises(EnqueueError, match="has no function 'twce'"):
        stored(shop.plain, on_success=f"{shop.__name__}.twce")


def test_a_name_that_is_rebound_later_is_noticed(shop: ModuleType) -> None:
    plain = shop.plain
    assert stored(plain)
    vars(shop)["plain"] = shop.decorated
    with pytest.raises(EnqueueError, match="something else: the function decorated"):
        stored(plain)
    del vars(shop)["plain"]
    with pytest.raises(EnqueueError, match="which does not exist"):
        stored(plain)


def test_a_module_that_was_replaced_is_noticed(shop: ModuleType) -> None:
    plain = shop.plain
    again = importlib.reload(shop)
    with pytest.raises(EnqueueError, match="something else: the function plain"):
        stored(plain)
    assert stored(again.plain)


def test_a_task_of_another_apps_task_keeps_its_own_app(shop: ModuleType) -> None:
    assert shop.two_tasks.app is shop.other_app
    assert isinstance(shop.two_tasks.app, aio.Werk)
    assert isinstance(shop.task.app, Werk)


# Exceptions that are not tried again ----------------------------------------------------


def names_of(*kinds: type[BaseException]) -> str:
    made = new_job("x.y", (), {}, {"retry": Retry(3, no_retry=kinds)}, Defaults(JSONSerializer()), lambda: str(Path()))
    return str(made.values["no_retry"])


def test_classes_are_found_by_the_names_they_are_stored_by(shop: ModuleType) -> None:
    for kind in (ValueError, shop.Boom, shop.Holder.Bang, shop.Made):
        assert class_name(kind) in names_of(kind)
        assert class_name(kind) in failed(kind()).kinds


def test_a_class_whose_name_is_anothers_is_refused(shop: ModuleType) -> None:
    with pytest.raises(EnqueueError, match="is another class now"):
        names_of(shop.OldBoom)


# Where an import ends ----------------------------------------------------------------------


def test_where_an_import_ended_is_said(write: Write, tmp_path: Path) -> None:
    name = f"mall_{abs(hash(str(tmp_path)))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("class Service: ...\nnumber = 3\n")
    (tmp_path / name / "deps.py").write_text("x = 1\nimport surely_not_installed\n")
    (tmp_path / name / "uses.py").write_text(f"\nfrom {name} import deps\n")
    (tmp_path / name / "old.py").write_text(f"from {name}.gone import f\n")
    (tmp_path / name / "names.py").write_text(f"from {name} import nothing_here\n")
    (tmp_path / name / "quits.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / name / "odd.py").write_text("def f(:\n")
    importlib.invalidate_caches()
    hint = "was it renamed, or does this worker run other code than the producer?"
    home = tmp_path / name
    said = {
        "tasks.boom": f"there is no module 'M.tasks' to import 'M.tasks.boom' from, and module 'M' has no function or "
        f"class 'tasks'; {hint}",
        "a.b.boom": f"there is no module 'M.a' to import 'M.a.b.boom' from, and module 'M' has no function or class "
        f"'a'; {hint}",
        "boom": f"module 'M' has no function 'boom'; {hint}",
        "Service.boom": f"class 'M.Service' has no function 'boom'; {hint}",
        "Service.a.boom": f"class 'M.Service' has no 'a' to find 'M.Service.a.boom' in; {hint}",
        "number": "module 'M' has no function 'number': what has this name is of type int",
        "uses.f": f"importing 'M.uses' for 'M.uses.f' failed in M.deps ({home}/deps.py:2): "
        "ModuleNotFoundError: No module named 'surely_not_installed'",
        "old.f": f"importing 'M.old' for 'M.old.f' failed in M.old ({home}/old.py:1): "
        "ModuleNotFoundError: No module named 'M.gone'",
        "names.f": f"importing 'M.names' for 'M.names.f' failed in M.names ({home}/names.py:1): "
        f"ImportError: cannot import name 'nothing_here' from 'M' ({home}/__init__.py)",
        "quits.f": f"importing 'M.quits' for 'M.quits.f' failed in M.quits ({home}/quits.py:2): "
        "SystemExit: 3; let a program start only under `if __name__ == '__main__':`",
        "odd.f": "importing 'M.odd' for 'M.odd.f' failed: SyntaxError: invalid syntax (odd.py, line 1)",
    }
    for path, text in said.items():
        with pytest.raises(HandlerNotFound) as caught:
            registry.resolve(f"{name}.{path}")
        assert str(caught.value).replace(name, "M") == text.replace(name, "M")
