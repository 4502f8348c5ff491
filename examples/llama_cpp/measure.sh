#!/usr/bin/env bash
# Everything that docs/results.md reports, from the programs that setup.sh built; an hour on two
# cores. What is there already is not measured again.
#
#   examples/llama_cpp/measure.sh TEXT OTHER [FOLDER] [OUT]
#
# TEXT is what the formats are judged by (WikiText-2's test split), OTHER another text: centring
# vectors, the layers' sensitivities and the haystack come from it. FOLDER is build/llama, OUT is
# out/llama by default. POLARQUANT_QUICK=1 measures a few tokens of everything, to see that it works.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
text="${1:-}"
other="${2:-}"
folder="${3:-$root/build/llama}"
out="${4:-$root/out/llama}"
programs="$folder/programs"
# Weights as floats: 8-bit activations would add noise of their own. Speed is of the model as it is.
float_model="$folder/smollm2-135m-f32.gguf"
model="$folder/smollm2-135m.gguf"
quick="${POLARQUANT_QUICK:-0}"
for file in "$text" "$other"; do
  if [[ ! -f "$file" ]]; then
    echo "measure.sh: '$file' is not a text file; usage: measure.sh TEXT OTHER [FOLDER] [OUT]" >&2
    exit 1
  fi
done
mkdir -p "$out"

windows() {  # NUMBER: how many, or one if quick
  if [[ "$quick" == 1 ]]; then echo 1; else echo "$1"; fi
}

eval_rows() {  # NAME ROWS WINDOWS [FLAG VALUE]...
  local name="$1" rows="$2" count="$3"
  shift 3
  if [[ -e "$out/$name.json" ]]; then return; fi
  echo "measure.sh: $name"
  "$programs/llama_eval" --model "$float_model" --text "$text" --out "$out/$name.json" \
    --rows "$rows" --windows "$(windows "$count")" "$@"
}

# Speed first, while the machine is cool; the other measurements do not depend on it.
contexts=(512 2048 8000)
if [[ "$quick" == 1 ]]; then contexts=(512); fi
if [[ ! -e "$out/speed.jsonl" ]]; then
  echo "measure.sh: speed"
  for context in "${contexts[@]}"; do
    for engine in "polarquant fp16" "polarquant paper" "polarquant 3.25" "polarquant 4.25" \
                  "llama.cpp f16 --flash-attention no" "llama.cpp f16" "llama.cpp q8_0" \
                  "llama.cpp q4_0"; do
      read -r name format flags <<< "$engine"
      # shellcheck disable=SC2086  # flags are words
      "$programs/llama_speed" --model "$model" --text "$other" --engine "$name" \
        --format "$format" --context "$context" $flags
    done
  done > "$out/speed.jsonl.new"
  mv "$out/speed.jsonl.new" "$out/speed.jsonl"
fi

eval_rows main main 40
eval_rows layers layers 3 --text "$other"
for bits in 3.25 4.25; do
  python3 "$here/allocate_layers.py" "$out/layers.json" "$bits" > "$out/layers_$bits.txt"
  eval_rows "by_layer_$bits" none 40 --layer-formats "$out/layers_$bits.txt"
done
eval_rows settings settings 10 --other-text "$other"
eval_rows seeds seeds 10
eval_rows long few 4 --window 2048
eval_rows heads heads 1 --text "$other"
needle() {  # NAME CONTEXTS DEPTHS
  if [[ -e "$out/$1.json" ]]; then return; fi
  echo "measure.sh: $1"
  "$programs/llama_needle" --model "$float_model" --text "$other" --out "$out/$1.json" \
    --contexts "$2" --depths "$3"
}
if [[ "$quick" == 1 ]]; then
  needle needle 512 0,100
  needle needle_long 512 50
else
  needle needle 512,1000,2000,4000 0,25,50,75,100
  needle needle_long 8000 0,50
fi
