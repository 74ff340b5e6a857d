#!/bin/sh
# Make the virtual environment $1 with $PYTHON, or with the first python >= 3.11 on the PATH.
# Debian ships python without venv: as root that is installed, otherwise the cure is printed.
set -eu

venv=$1
log=$(mktemp)
trap 'rm -f "$log"' EXIT

suits() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

python=${PYTHON:-}
if [ -n "$python" ]; then
    suits "$python" || { echo "PYTHON=$python is not a working Python >= 3.11" >&2; exit 1; }
else
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if suits "$candidate"; then python=$candidate; break; fi
    done
    [ -n "$python" ] || {
        echo "No Python >= 3.11 found. Install one, or name it: make PYTHON=/path/to/python3" >&2
        exit 1
    }
fi

create() {
    rm -rf "$venv" && "$python" -m venv "$venv" >"$log" 2>&1
}

if ! create; then
    # python3-venv serves Debian's default python3; python3.X-venv any other X that Debian carries.
    package=$("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "$python has no venv module: installing python3-venv and $package with apt-get"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends python3-venv "$package" >/dev/null
        create || { cat "$log" >&2; exit 1; }
    else
        cat "$log" >&2
        echo "Cure: sudo apt-get install $package    (or: make PYTHON=/path/to/another/python3)" >&2
        rm -rf "$venv"
        exit 1
    fi
fi
echo "$venv: $("$venv/bin/python" --version) from $python"
