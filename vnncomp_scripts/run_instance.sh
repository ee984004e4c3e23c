#!/usr/bin/env bash
# Verifies an instance: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULTS TIMEOUT
# ONNX is a file, or the list of a property about several networks: [('f','a.onnx'),('g','b.onnx')].
# RESULTS gets the verdict and, where that is sat, the witness. Nothing depends on CATEGORY.
set -u
fail() {
    echo "run_instance.sh: $1" >&2
    exit 1
}
[ $# -eq 6 ] && [ "$1" = v1 ] || fail "got '$*', expected v1 CATEGORY ONNX VNNLIB RESULTS TIMEOUT"
network=$3 property=$4 results=$5 seconds=$6
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -x "$root/.venv/bin/provenn" ] || fail "provenn is not installed; run install_tool.sh v1"
[[ $seconds =~ ^[0-9]+([.][0-9]*)?$ ]] || fail "TIMEOUT is '$seconds', expected seconds"
# Lists of instances name files that may be there in their packed form only.
[ -e "$network" ] || [ ! -e "$network.gz" ] || network=$network.gz
[ -e "$property" ] || [ ! -e "$property.gz" ] || property=$property.gz
# An answer counts only within TIMEOUT, which the start of this script has begun.
limit=$(awk -v t="$seconds" 'BEGIN { kept = t / 10; if (kept > 1.5) kept = 1.5; print t - kept }')
# The same process goes on as provenn: whoever ends this script ends it too.
exec "$root/.venv/bin/provenn" verify "$network" "$property" --timeout "$limit" > "$results"
