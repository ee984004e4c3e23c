#!/usr/bin/env bash
# Makes ready for an instance: prepare_instance.sh v1 CATEGORY ONNX VNNLIB
# Nothing is analysed and nothing kept: the libraries are loaded once, so that the run finds them in memory.
set -eu
if [ $# -ne 4 ] || [ "$1" != v1 ]; then
    echo "prepare_instance.sh: got '$*', expected v1 CATEGORY ONNX VNNLIB" >&2
    exit 1
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ ! -x "$root/.venv/bin/provenn" ]; then
    echo "prepare_instance.sh: provenn is not installed; run install_tool.sh v1" >&2
    exit 1
fi
exec "$root/.venv/bin/python" -I -c 'import onnx, onnxruntime, scipy.optimize, torch'
