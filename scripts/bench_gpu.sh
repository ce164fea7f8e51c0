#!/bin/sh
# All that a GPU is needed for, in under ten minutes: the tests that are skipped without one, then one table of speeds.
# Usage: sh scripts/bench_gpu.sh [OPTIONS OF bench_gpu.py]        PYTHON=... for another interpreter than .venv's
# The table is made even where a test fails or has not ended after four minutes; the exit status says whether one did.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-.venv/bin/python}
# Two threads each: with sixteen in each of four processes, on sixteen cores, four tests had not ended after nine
# minutes. Verbose: a test that does not end is the one without a line.
OMP_NUM_THREADS=2 timeout -k 5 240 "$python" -m pytest -n 4 -vv -rf --tb=short --durations=6 tests/test_gpu.py
tests=$?
"$python" scripts/bench_gpu.py "$@" && exit "$tests"
