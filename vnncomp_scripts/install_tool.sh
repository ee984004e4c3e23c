#!/usr/bin/env bash
# Installs provenn into .venv beside this folder: install_tool.sh v1
# PYTHON names the interpreter to use (3.10 or newer), python3 if it is not set.
set -eu
if [ $# -ne 1 ] || [ "$1" != v1 ]; then
    echo "install_tool.sh: got '$*', expected the one argument v1" >&2
    exit 1
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "install_tool.sh: '$python' is no Python 3.10 or newer; name one with PYTHON=" >&2
    exit 1
fi
if ! "$python" -m venv "$root/.venv"; then # Debian and Ubuntu pack it apart
    $(command -v sudo) apt-get update
    $(command -v sudo) apt-get install --yes python3-venv
    "$python" -m venv "$root/.venv"
fi
rm -rf "$root/build" # what an earlier build left there would be packed again
"$root/.venv/bin/pip" install torch==2.13.0
"$root/.venv/bin/pip" install "$root"
"$root/.venv/bin/provenn" --version
