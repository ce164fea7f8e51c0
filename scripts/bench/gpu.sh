#!/bin/sh
# Run everything that needs a GPU in under ten minutes: the tests that are skipped without one, then a table of speeds.
# Usage: sh scripts/bench/gpu.sh [OPTIONS OF gpu.py]        PYTHON=... for another interpreter than the one of .venv
# The table is made even if a test fails or is not finished after four minutes. The exit status shows whether one failed.
set -u
cd "$(dirname "$0")/../.." || exit 1
python=${PYTHON:-.venv/bin/python}
# Two threads for each of four processes: with sixteen threads each on sixteen cores, four tests were not finished after
# nine minutes. The output is verbose: a test without a result line is the one that did not finish.
OMP_NUM_THREADS=2 timeout -k 5 240 "$python" -m pytest -n 4 -vv -rf --tb=short --durations=6 tests/whole/test_gpu.py
tests=$?
"$python" scripts/bench/gpu.py "$@" && exit "$tests"
