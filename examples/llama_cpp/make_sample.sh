#!/usr/bin/env bash
# Makes the data sample again: queries, keys and values of SmolLM2-135M over the start of a text.
#
#   examples/llama_cpp/make_sample.sh TEXT [FOLDER] [OUT]
#
# TEXT is a plain-text file; FOLDER, for downloads and builds, is build/llama of the project by
# default; OUT is data/smollm2-135m. Needs the network the first time.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
text="${1:-}"
folder="${2:-$root/build/llama}"
out="${3:-$root/data/smollm2-135m}"

if [ ! -f "$text" ] || [ ! -r "$text" ]; then
  echo "make_sample.sh: '$text' is not a readable text file; usage: make sample TEXT=FILE" >&2
  exit 1
fi
# Not tuned to this machine, so that others repeat its rounding.
LLAMA_NATIVE=OFF "$here/setup.sh" "$folder"
"$folder/programs/capture_kv" --model "$folder/smollm2-135m-f32.gguf" --text "$text" --out "$out" \
  --layers 0,15,29 --tokens 1000 --queries 190
