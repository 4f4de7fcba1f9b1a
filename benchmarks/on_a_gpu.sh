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
for rows in 2 4 8 16; do step "step-nvfp4-$rows" --quantize nvfp4 --rows "$rows" --rounds 3; done
for context in 8192 65536; do
  step "step-nvfp4-context-$context" --quantize nvfp4 --context "$context" --rounds 3
done

python -m gesso bench prefill --model "$shape" --random --device cuda --tokens 8192 65536 261120 \
  --out "$out/prefill-bf16.json" | tee "$out/prefill-bf16.txt"
