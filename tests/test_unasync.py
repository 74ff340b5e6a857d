"""What is generated is fresh; and the tool finds what is not."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, over a copy of the package."""
    spec = importlib.util.spec_from_file_location("unasync", ROOT / "tools" / "unasync.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Whole: what is not there is sorted as somebody else's.
    _ = shutil.copytree(ROOT / "pgwerk", tmp_path / "pgwerk", ignore=shutil.ignore_patterns("__pycache__"))
    _ = shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "pgwerk")
    return module


def test_the_synchronous_half_is_what_the_other_one_makes_of_it(tool: ModuleType) -> None:
    assert tool.main(["--check"]) == 0


def test_what_is_stale_is_shown_and_written_anew(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tool.PACKAGE / "aio" / "tasks.py", tool.PACKAGE / "sync" / "tasks.py"
    _ = source.write_text(source.read_text() + "\n\nasync def more() -> None:\n    await more()\n")
    before = target.read_text()
    assert tool.main(["--check"]) == 1
    assert "+def more() -> None:" in capsys.readouterr().out
    assert target.read_text() == before
    assert tool.main([]) == 0
    assert target.read_text().endswith("\n\ndef more() -> None:\n    more()\n")
    assert tool.main(["--check"]) == 0


def test_a_rule_that_nothing_needs_is_an_error(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "RULES", (*tool.RULES, (r"\banext\b", "next")))
    assert tool.main(["--check"]) == 1
    assert "anext" in capsys.readouterr().out
