#!/usr/bin/env bash
# Installs what is missing to build and run the parts named (Debian, Ubuntu); quick and offline
# when nothing is. POLARQUANT_SKIP_INSTALL=1 skips it, for what lies in folders of your own.
#
# usage: install_dependencies.sh [test] [demo] [bench] [llama] [ci] [cross]
set -euo pipefail

if [[ "${POLARQUANT_SKIP_INSTALL:-0}" == 1 ]]; then exit 0; fi

missing=()
need_command() {  # COMMAND PACKAGE
  command -v "$1" > /dev/null || missing+=("$2")
}
need_header() {  # HEADER PACKAGE
  local prefix
  for prefix in /usr /usr/local /opt/homebrew; do
    if [[ -e "$prefix/include/$1" ]]; then return; fi
  done
  missing+=("$2")
}
need_python_module() {  # MODULE PACKAGE
  local python
  for python in python3 /usr/bin/python3; do
    if "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)" \
        2> /dev/null; then
      return
    fi
  done
  missing+=("$2")
}

need_command "${CXX:-c++}" g++
need_command cmake cmake
command -v make > /dev/null || need_command ninja ninja-build
need_header eigen3/Eigen/Core libeigen3-dev
for part in "$@"; do
  case "$part" in
    test)
      need_header gtest/gtest.h libgtest-dev
      need_command python3 python3
      ;;
    demo)
      need_python_module numpy python3-numpy
      need_python_module matplotlib python3-matplotlib
      ;;
    bench)
      need_header benchmark/benchmark.h libbenchmark-dev
      need_command g++ g++  # The baseline is built by both compilers, and the faster counts.
      need_command clang++ clang
      need_python_module numpy python3-numpy
      need_python_module matplotlib python3-matplotlib
      ;;
    llama)
      need_command python3 python3
      if ! python3 -m pip --version > /dev/null 2>&1; then missing+=(python3-pip); fi
      need_python_module numpy python3-numpy
      need_python_module matplotlib python3-matplotlib
      ;;
    ci)
      need_command g++ g++
      need_command clang++ clang
      need_command clang-format clang-format
      need_command ninja ninja-build
      # The sanitizers' run-time library, which Debian's clang only recommends.
      if ! clang++ -x c++ -fsanitize=address -o /dev/null - <<< 'int main() {}' 2> /dev/null; then
        missing+=(libclang-rt-dev)
      fi
      ;;
    cross)
      need_command aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
      need_command qemu-aarch64 qemu-user
      if [[ ! -e /usr/src/googletest ]]; then missing+=(libgtest-dev); fi
      ;;
    *)
      echo "install_dependencies.sh: no part is called '$part' (test, demo, bench, llama, ci, cross)" >&2
      exit 2
      ;;
  esac
done

if [[ ${#missing[@]} == 0 ]]; then exit 0; fi

if ! command -v apt-get > /dev/null; then
  cat >&2 << EOF
This machine lacks what Debian calls: ${missing[*]}
It has no apt-get, so install them yourself and repeat. If they lie where this script does not look,
set POLARQUANT_SKIP_INSTALL=1.
EOF
  exit 1
fi

as_root=()
if [[ "$(id -u)" != 0 ]]; then
  if ! command -v sudo > /dev/null; then
    echo "Installing needs root, and there is no sudo: run as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "installing: ${missing[*]}"
"${as_root[@]}" apt-get -o Acquire::Retries=3 update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get -o Acquire::Retries=3 install -y -qq --no-install-recommends "${missing[@]}"
