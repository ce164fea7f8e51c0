#!/bin/sh
# All that a GPU is needed for, in under ten minutes: the tests that are skipped without one, then one table of speeds.
# Usage: sh scripts/bench_gpu.sh [OPTIONS OF bench_gpu.py]        PYTHON=... for another interpreter than .venv's
# The table is made even where a test fails; the exit status says whether one did.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-.venv/bin/python}
"$python" -m pytest -n 4 -rf --tb=short tests/test_gpu.py
tests=$?
"$python" scripts/bench_gpu.py "$@" && exit "$tests"
