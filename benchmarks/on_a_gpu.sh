#!/usr/bin/env bash
# All that a GPU alone can show, in one run: the kernels' tests on it, then the released shape with
# random weights in every format. Needs an environment with torch for CUDA, triton and gesso[dev].
#
#     benchmarks/on_a_gpu.sh OUT-FOLDER
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?give a folder for the reports}
mkdir -p "$out"
shape=benchmarks/shapes/26b
python -m pytest -q tests/kernels tests/engine tests/model tests/quant 2>&1 | tee "$out/tests.log" | tail -15
step() { python -m gesso bench step --model "$shape" --random --device cuda --out "$out/$1.json" "${@:2}" | tee "$out/$1.txt"; }
for format in fp8 nvfp4 int4; do
  step "step-$format" --protocol vllm-2026-06 --quantize "$format"
done
step step-bf16 --protocol vllm-2026-06
step rows-nvfp4 --quantize nvfp4 --vary rows --over 1 2 4 8 16 --rounds 3
step context-nvfp4 --quantize nvfp4 --vary context --over 1024 8192 65536 --rounds 3
step context-kv-fp8 --quantize nvfp4 --kv-cache-dtype fp8 --vary context --over 1024 8192 65536 --rounds 3

python -m gesso bench prefill --model "$shape" --random --device cuda --tokens 8192 65536 261120 \
  --out "$out/prefill-bf16.json" | tee "$out/prefill-bf16.txt"
