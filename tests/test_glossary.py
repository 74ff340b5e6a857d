"""The glossary speaks of what there is."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "glossary.md").read_text()
CODE = "\n".join(path.read_text() for path in (ROOT / "pgwerk").rglob("*.py"))


def test_classes_and_modules_that_it_names_exist() -> None:
    named = re.findall(r"`([A-Z]\w+)`", TEXT)
    assert len(named) > 8
    assert [name for name in named if f"class {name}" not in CODE] == []
    files = re.findall(r"`((?:_core|pgwerk)/\w+\.py)`", TEXT)
    assert len(files) > 3
    assert [name for name in files if not (ROOT / name).exists() and not (ROOT / "pgwerk" / name).exists()] == []


def test_no_word_is_explained_twice() -> None:
    words = [
        word for row in TEXT.splitlines() if row.startswith("| **") for word in re.findall(r"\*\*([\w ]+)\*\*", row)
    ]
    assert len(words) == len(set(words)) > 40
