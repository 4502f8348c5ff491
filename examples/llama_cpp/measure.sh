#!/usr/bin/env bash
# Everything that docs/results.md reports, from the programs that setup.sh built; some hours on two
# cores. What is there already is not measured again.
#
#   examples/llama_cpp/measure.sh TEXT OTHER CALIBRATE [FOLDER] [OUT]
#
# TEXT is what the formats are judged by (WikiText-2's test split), OTHER another text: means and
# the haystack come from it. CALIBRATE are the texts of the calibrations, more than one with commas
# between them; none of them is TEXT or OTHER. FOLDER is build/llama, OUT is out/llama by default. POLARQUANT_QUICK=1 measures a few tokens of everything, to see that it works.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
text="${1:-}"
other="${2:-}"
calibrate="${3:-}"
folder="${4:-$root/build/llama}"
out="${5:-$root/out/llama}"
programs="$folder/programs"
# Weights as floats: 8-bit activations would add noise of their own. Speed is of the model as it is.
float_model="$folder/smollm2-135m-f32.gguf"
model="$folder/smollm2-135m.gguf"
quick="${POLARQUANT_QUICK:-0}"
IFS=, read -r -a calibration_texts <<< "$calibrate"
for file in "$text" "$other" "${calibration_texts[@]:-}"; do
  if [[ ! -f "$file" ]]; then
    echo "measure.sh: '$file' is not a text file;" \
         "usage: measure.sh TEXT OTHER CALIBRATE [FOLDER] [OUT]" >&2
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

calibration() {  # NAME TEXTS [FLAG VALUE]...
  local name="$1" texts="$2"
  shift 2
  if [[ -e "$out/$name.calibration" ]]; then return; fi
  echo "measure.sh: calibration $name"
  "$programs/llama_calibrate" --model "$float_model" --text "$texts" \
    --out "$out/$name.calibration" --tokens 16384 "$@"
}

calibration scales "$calibrate"
calibration matrices "$calibrate" --kind matrices
scales=(--calibration "$out/scales.calibration")
both=(--calibration "$out/scales.calibration,$out/matrices.calibration")
eval_rows main main 40 "${both[@]}"
eval_rows layers layers 3 --text "$other"
# Of the wanted average 0.066 are the centres'.
for bits in 3.25 4.25; do
  calibration "layers_$bits" "$calibrate" --kind matrices \
    --average-bits "$(python3 -c "print($bits - 8 * 34 / (64 * 64))")"
  eval_rows "by_layer_$bits" none 40 --calibration "$out/layers_$bits.calibration"
done
# How much text a calibration needs, and of how many kinds.
amount() {  # NAME TEXTS [FLAG VALUE]...
  calibration "$1_scales" "${@:2}"
  calibration "$1_matrices" "${@:2}" --kind matrices
  eval_rows "$1" none 10 --pairs "full_depth 3.25/full_depth 3.25" \
    --calibration "$out/$1_scales.calibration,$out/$1_matrices.calibration"
}
for tokens in 256 1024 4096 16384; do
  # A window of each text at least: shorter ones where there are few tokens.
  window=$((tokens / ${#calibration_texts[@]}))
  window=$((window < 2048 ? window : 2048))
  amount "tokens_$tokens" "$calibrate" --tokens "$tokens" --window "$window"
done
amount one_text "${calibration_texts[0]}"
eval_rows settings settings 10 --other-text "$other"
eval_rows seeds seeds 10
eval_rows long few 8 --window 2048 "${both[@]}"
eval_rows fitted fitted 10 --fit-texts "$calibrate" "${scales[@]}" \
  --pairs "full_depth 2.25/full_depth 2.25,full_depth 3.25/full_depth 3.25"
eval_rows heads heads 1 --text "$other"
needle() {  # NAME CONTEXTS DEPTHS
  if [[ -e "$out/$1.json" ]]; then return; fi
  echo "measure.sh: $1"
  "$programs/llama_needle" --model "$float_model" --text "$other" --out "$out/$1.json" \
    --contexts "$2" --depths "$3" "${scales[@]}"
}
if [[ "$quick" == 1 ]]; then
  needle needle 512 0,100
  needle needle_long 512 50
else
  needle needle 512,1000,2000,4000 0,25,50,75,100
  needle needle_long 8000 0,50
fi
