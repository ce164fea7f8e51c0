#!/bin/sh
# All that a GPU is needed for, in under ten minutes: the tests that are skipped without one, then one table of speeds.
# Usage: sh scripts/bench_gpu.sh [OPTIONS OF bench_gpu.py]        PYTHON=... for another interpreter than .venv's
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
"$python" -m pytest --quiet tests/test_gpu.py
"$python" scripts/bench_gpu.py "$@"
