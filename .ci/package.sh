#!/usr/bin/env bash
# Check that the generated files are fresh; build the sdist and, from it, the wheel; check what is inside; install the wheel alone and use it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1
python=${PYTHON:-.venv/bin/python}

"$python" tools/unasync.py --check

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rm -rf dist
"$python" -m build --outdir dist . >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
"$python" .ci/package.py dist

"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet dist/*.whl
# Elsewhere: the package that is imported must be the installed one.
cd "$work"
venv/bin/python -c 'import pgwerk, pgwerk.aio, pgwerk.workers; print("installed", pgwerk.__file__)'
venv/bin/werk --version
venv/bin/werk --help >/dev/null
