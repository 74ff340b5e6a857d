#!/usr/bin/env bash
# Run tests on every Python that is here, each in an environment of its own (.venv-3.12), and on every Postgres.
#
#   .ci/matrix.sh            all tests, on each Python and each Postgres
#   .ci/matrix.sh --quick    the core and a look at the database, on each Python but the one of .venv
#
# PYTHONS and POSTGRES_BINS name what to use instead of what is found. What is missing is said, and is no failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1

WANTED_PYTHONS="3.11 3.12 3.13 3.14"
WANTED_POSTGRES="14 15 16 17 18"
ALLOWED_TO_FAIL="3.14"
QUICK_TESTS=(tests/core tests/database/test_executor.py tests/database/test_claim.py tests/workers/test_threads.py)

quick=false
[[ ${1:-} == --quick ]] && { quick=true; shift; }

# Prints the interpreter for a version, from PYTHONS, the PATH or pyenv.
python_for() {
    local candidate
    for candidate in ${PYTHONS:-} "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# Prints the bin directory of a Postgres, from POSTGRES_BINS or Debian's and Homebrew's places.
postgres_for() {
    local candidate
    for candidate in ${POSTGRES_BINS:-} /usr/lib/postgresql/"$1"/bin /opt/homebrew/opt/postgresql@"$1"/bin; do
        if "$candidate/postgres" --version 2>/dev/null | grep -qE "\) $1[.a-z]"; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

results=()
missing=()
status=0

# note NAME COMMAND…: runs it and remembers how it ended.
note() {
    local name=$1 began=$SECONDS
    shift
    echo "== $name"
    if "$@"; then
        results+=("ok      $name ($((SECONDS - began)) s)")
    elif [[ " $ALLOWED_TO_FAIL " == *" ${name#Python } "* ]]; then
        results+=("failed  $name, which is allowed to")
    else
        results+=("FAILED  $name")
        status=1
    fi
}

# The environment of a version; the stamp says that its installation was finished.
environment() {
    local venv=.venv-$1 python=$2
    if [[ ! -e $venv/stamp || pyproject.toml -nt $venv/stamp ]]; then
        PYTHON=$python sh .ci/venv.sh "$venv" || return 1
        "$venv/bin/python" -m pip install --quiet --editable '.[dev]' || return 1
        touch "$venv/stamp"
    fi
}

on_python() {
    local version=$1 python=$2
    shift 2
    environment "$version" "$python" && ".venv-$version/bin/python" -m pytest -q -p no:cacheprovider "$@"
}

own=""
[[ -x .venv/bin/python ]] && own=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')

for version in $WANTED_PYTHONS; do
    if ! python=$(python_for "$version"); then
        missing+=("Python $version")
    elif ! $quick; then
        note "Python $version" on_python "$version" "$python" -n "${JOBS:-3}" --executors=all "$@"
    elif [[ $version != "$own" ]]; then
        note "Python $version" on_python "$version" "$python" -n "${JOBS:-2}" -m "not slow and not timing" "${QUICK_TESTS[@]}" "$@"
    fi
done

if ! $quick; then
    python=.venv/bin/python
    [[ -x $python ]] || python=$(ls -d .venv-3.*/bin/python | head -1)
    for version in $WANTED_POSTGRES; do
        if bin=$(postgres_for "$version"); then
            note "Postgres $version" env PG_BIN="$bin" "$python" -m pytest -q -p no:cacheprovider -n "${JOBS:-3}" "$@"
        else
            missing+=("Postgres $version")
        fi
    done
fi

echo
echo "==== matrix"
((${#results[@]})) && printf '%s\n' "${results[@]}"
((${#missing[@]})) && printf 'missing %s\n' "${missing[@]}"
exit "$status"
