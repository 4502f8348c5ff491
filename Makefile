# What a newcomer types. The build itself is CMake's (CMakeLists.txt, CMakePresets.json).
#
#   CMAKE_ARGS=...  more arguments of the CMake configuration
#   JOBS=N          parallel compilations and tests

JOBS ?= $(shell nproc 2> /dev/null || echo 2)
# The first Python that has what the plots need; looked up when used, after the installation.
PYTHON ?= $(shell for python in python3 /usr/bin/python3; do \
            $$python -c "import importlib.util as u, sys; \
              sys.exit(not (u.find_spec('numpy') and u.find_spec('matplotlib')))" 2> /dev/null && \
            echo $$python && break; done || echo python3)
SOURCES = $(shell find include src tests bench examples -name '*.hpp' -o -name '*.inl' -o -name '*.cpp' | sort)

ifneq ($(shell command -v ninja),)
export CMAKE_GENERATOR ?= Ninja
endif

.PHONY: help test demo bench llama results sample format check-format clean \
        install-for-test install-for-demo install-for-bench

help:
	@echo "make test                the tests, in a release build"
	@echo "make demo [ARGS=...]     the demo on real keys and values; ARGS=\"--data FOLDER\" takes yours"
	@echo "make bench [ARGS=...]    the benchmarks; ARGS=--quick for the table of goals alone"
	@echo "make llama               llama.cpp, a small model and the programs of examples/llama_cpp/"
	@echo "make results TEXT=FILE OTHER=FILE CALIBRATE=FILE,FILE   docs/results.md again: TEXT judges,"
	@echo "                         OTHER is a haystack, CALIBRATE the texts of calibrations"
	@echo "make sample TEXT=FILE    the demo's sample again, from a text (examples/llama_cpp/)"
	@echo "make format              clang-format on every source"
	@echo "make check-format        fails when a source is not formatted"
	@echo "make clean               removes build/ and out/"

install-for-test:
	@scripts/install_dependencies.sh test

install-for-demo:
	@scripts/install_dependencies.sh demo

install-for-bench:
	@scripts/install_dependencies.sh bench

test: install-for-test
	cmake -S . -B build/test -DPOLARQUANT_BUILD_TESTS=ON -DPOLARQUANT_BUILD_BENCH=OFF $(CMAKE_ARGS)
	cmake --build build/test -j $(JOBS)
	cd build/test && ctest --output-on-failure -j $(JOBS)

demo: install-for-demo
	cmake -S . -B build/demo -DPOLARQUANT_BUILD_TESTS=OFF -DPOLARQUANT_BUILD_BENCH=OFF $(CMAKE_ARGS)
	cmake --build build/demo -j $(JOBS) --target polarquant_demo
	build/demo/examples/polarquant_demo --out out/demo $(ARGS)
	$(PYTHON) examples/demo/plot.py out/demo

bench: install-for-bench
	cmake -S . -B build/bench -DPOLARQUANT_BUILD_BENCH=ON -DPOLARQUANT_BUILD_TESTS=OFF \
	  -DPOLARQUANT_BUILD_EXAMPLES=OFF $(CMAKE_ARGS)
	cmake --build build/bench -j $(JOBS) --target bench_polarquant
	$(PYTHON) bench/report.py build/bench/bench/bench_polarquant $(ARGS)

llama:
	examples/llama_cpp/setup.sh

results: llama
	@test -n "$(TEXT)" -a -n "$(OTHER)" -a -n "$(CALIBRATE)" || \
	  { echo "make results needs TEXT=FILE OTHER=FILE CALIBRATE=FILE,FILE" >&2; exit 2; }
	examples/llama_cpp/measure.sh "$(TEXT)" "$(OTHER)" "$(CALIBRATE)"
	$(PYTHON) examples/llama_cpp/report.py out/llama docs/results.md

sample:
	@test -n "$(TEXT)" || { echo "make sample needs TEXT=FILE" >&2; exit 2; }
	examples/llama_cpp/make_sample.sh "$(TEXT)"

format:
	clang-format -i $(SOURCES)

check-format:
	clang-format --dry-run -Werror $(SOURCES)

clean:
	rm -rf build out
