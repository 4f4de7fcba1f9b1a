#!/usr/bin/env bash
# All that a GPU alone can show, each part with an end in time: the released shape with random weights
# in every format, and the kernels' tests. Needs an environment with torch for CUDA, triton and
# gesso[dev]; pytest-xdist, where it is there, runs the tests side by side.
#
#     benchmarks/on_a_gpu.sh OUT-FOLDER [steps] [more] [prefill] [tests]
#
# Without names of parts all of them, the figures first: some 20 minutes.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?give a folder for the reports}
mkdir -p "$out"
parts=${*:2}
shape=benchmarks/shapes/26b

bench() { # bench SECONDS NAME WORDS...
  timeout "$1" python -m gesso bench "${@:3}" --model "$shape" --random --device cuda \
    --out "$out/$2.json" 2>&1 | tee "$out/$2.txt"
}
steps() {
  bench 180 step-nvfp4 step --protocol vllm-2026-06 --quantize nvfp4
  bench 180 step-fp8 step --protocol vllm-2026-06 --quantize fp8
  bench 180 step-bf16 step --protocol vllm-2026-06
}
more() {
  bench 180 step-int4 step --protocol vllm-2026-06 --quantize int4
  bench 240 rows-nvfp4 step --quantize nvfp4 --vary rows --over 1 2 4 8 16 --rounds 3
  bench 240 context-nvfp4 step --quantize nvfp4 --vary context --over 1024 8192 65536 --rounds 3
  bench 240 context-kv-fp8 step --quantize nvfp4 --kv-cache-dtype fp8 --vary context \
    --over 1024 8192 65536 --rounds 3
}
prefill() {
  # The shortest compiles for the others, and is not to be read.
  bench 300 prefill-bf16 prefill --tokens 512 8192 65536 261120 --rounds 1
}
tests() {
  local workers=()
  python -c "import xdist" 2>/dev/null && workers=(-n 8)
  timeout 900 python -m pytest -q "${workers[@]}" tests/kernels tests/engine tests/model tests/quant \
    2>&1 | tee "$out/tests.log" | tail -15
}
for part in ${parts:-steps more prefill tests}; do
  "$part"
done
