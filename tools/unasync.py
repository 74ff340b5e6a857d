"""Write the synchronous half of what both halves do alike: `python tools/unasync.py`; with --check only compare.

The asyncio modules are the source: a rule can drop an `await`, and none can put one in. What differs for reasons
(runtime, executor, pool, connector, waiting, listener, inline, hooks) is written by hand on both sides.
"""

import difflib
import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "pgwerk"
MODULES = ("app", "calling", "enqueueing", "managing", "tasks")
HEADER = "# Generated from pgwerk/aio/{name}.py: edit that file and run tools/unasync.py\n"
RULES: tuple[tuple[str, str], ...] = (
    (r"\basync def\b", "def"),
    (r"\bawait ", ""),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\bpgwerk\.aio\b", "pgwerk.sync"),
    (r"\basyncio app\b", "synchronous app"),
    (r"any number of tasks and threads\b", "any number of threads"),
    (r"\n\n {8}On event loops: (?:.|\n)*?\n( {8}\"\"\")", r"\n\1"),
)
"""What is replaced, in this order; a rule that nothing needs any more is an error."""


def synchronous(text: str, used: set[str]) -> str:
    """Take out of a module what is asynchronous; *used* is told which rules there was a use for."""
    for pattern, replacement in RULES:
        text, count = re.subn(pattern, replacement, text)
        if count:
            used.add(pattern)
    return text


def formatted(text: str, path: Path) -> str:
    """Sort the imports and format as the linter wants it: what is shorter may fit on one line."""
    for command in (["check", "--select", "I001", "--fix", "--quiet"], ["format", "--quiet"]):
        program = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(path), "-"]
        text = subprocess.run(program, input=text, text=True, capture_output=True, check=True).stdout
    return text


def main(arguments: list[str]) -> int:
    """Write the modules, or show what would change; 1 when something is not as it should be."""
    used: set[str] = set()
    faults = 0
    for name in MODULES:
        source, target = PACKAGE / "aio" / f"{name}.py", PACKAGE / "sync" / f"{name}.py"
        wanted = formatted(HEADER.format(name=name) + synchronous(source.read_text(), used), target)
        found = target.read_text() if target.exists() else ""
        if found == wanted:
            continue
        if "--check" not in arguments:
            _ = target.write_text(wanted)
            print(f"wrote {target.relative_to(PACKAGE.parent)}")
            continue
        faults += 1
        sys.stdout.writelines(difflib.unified_diff(found.splitlines(True), wanted.splitlines(True), "found", "wanted"))
        print(f"pgwerk/sync/{name}.py is not what pgwerk/aio/{name}.py makes of it: run python tools/unasync.py")
    for pattern, _ in RULES:
        if pattern not in used:
            faults += 1
            print(f"nothing needs this rule of tools/unasync.py any more: {pattern}")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
