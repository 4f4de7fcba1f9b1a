#!/usr/bin/env bash
# All that a GPU alone can show, the released shape with random weights in every format, and the
# kernels' tests: what matters most first, each part with an end in time, all of them within 15
# minutes. Needs an environment with torch for CUDA, triton and gesso[dev]; pytest-xdist, where it is
# there, runs the tests side by side.
#
#     benchmarks/on_a_gpu.sh OUT-FOLDER [steps] [peer] [serve] [cap] [prefill] [tests] [more]
#
# Without names of parts all of them; what no time is left for is named and left out.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?give a folder for the reports}
mkdir -p "$out"
parts=${*:2}
shape=benchmarks/shapes/26b
limit=900

within() { # within SECONDS NAME COMMAND...: what the name says, in the time that is left
  local rest=$((limit - SECONDS))
  if ((rest < 30)); then
    echo "$2: left out, $limit seconds are over" | tee "$out/$2.txt"
    return
  fi
  timeout $(($1 < rest ? $1 : rest)) "${@:3}" 2>&1 | tee "$out/$2.txt"
}
bench() { # bench SECONDS NAME WORDS...
  within "$1" "$2" python -m gesso bench "${@:3}" --model "$shape" --random --device cuda \
    --out "$out/$2.json"
}
steps() {
  bench 180 step-nvfp4 step --protocol vllm-2026-06 --quantize nvfp4
  bench 180 step-fp8 step --protocol vllm-2026-06 --quantize fp8
  bench 180 step-bf16 step --protocol vllm-2026-06
}
peer() {
  # transformers takes 52 GB beside ours, and minutes to compile.
  bench 240 peer-nvfp4 step --protocol vllm-2026-06 --quantize nvfp4 --rounds 3 --peer transformers
}
serve() {
  bench 150 serve-nvfp4 serve --quantize nvfp4 --requests 32 --rounds 1
  bench 150 serve-fp8 serve --quantize fp8 --requests 32 --rounds 1
}
cap() {
  # 8K of context in 18 GB, prompts, canvases and commits; text alone. With segments that grow, what
  # the weights' making leaves between them can be given back before the cap holds.
  mkdir -p "$out/26b-text"
  python -c "import json, sys; print(json.dumps(json.load(sys.stdin) | {'vision_config': None}))" \
    <"$shape/config.json" >"$out/26b-text/config.json"
  PYTORCH_ALLOC_CONF=expandable_segments:True shape=$out/26b-text \
    bench 120 cap-nvfp4 serve --quantize nvfp4 --users 1 --requests 4 --rounds 1 \
    --context 8192 --cap 18GB
}
prefill() {
  # The shortest compiles for the others, and is not to be read.
  bench 180 prefill-bf16 prefill --tokens 512 8192 65536 261120 --rounds 1
}
tests() {
  local workers=()
  python -c "import xdist" 2>/dev/null && workers=(-n 8)
  within 600 tests python -m pytest -q "${workers[@]}" tests/kernels tests/engine tests/model \
    tests/quant | tail -15
}
more() {
  bench 180 step-int4 step --protocol vllm-2026-06 --quantize int4
  bench 240 rows-nvfp4 step --quantize nvfp4 --vary rows --over 1 2 4 8 16 --rounds 3
  bench 240 context-nvfp4 step --quantize nvfp4 --vary context --over 1024 8192 65536 --rounds 3
  bench 240 context-kv-fp8 step --quantize nvfp4 --kv-cache-dtype fp8 --vary context \
    --over 1024 8192 65536 --rounds 3
}
for part in ${parts:-steps peer serve cap prefill tests more}; do
  "$part"
done
