#!/usr/bin/env bash
# One GPU, no network: speed of both phases, inference, memory, under 8 minutes; then the same steps
# through torch.compile, on top of that. JSON in runs/bench.
# Arguments go to benchmarks/gpu.py, such as --preset small; PYTHON names another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
if [ ! -x "$(command -v "$python")" ]; then
  echo "there is no $python; run make install first, or name an interpreter: PYTHON=python3 $0" >&2
  exit 2
fi
exec "$python" benchmarks/gpu.py "$@"
