#!/usr/bin/env python3
"""Checks that a program's portable code has no AVX instruction, though it is linked with a unit that
is built with -march=native.

usage: check_portable_code.py OBJDUMP PROGRAM

Functions of the inline namespace of the plain baseline, and main, must do without AVX; kernels made
for an instruction set, whose names say so, may have it.
"""
import re
import subprocess
import sys

BASELINE = re.compile(r"v\d+_\d+_base\w*::")
KERNELS = re.compile(r"Avx2Call|Avx512Call|Avx2Roots|Avx512Roots|detail::avx512::|detail::words::|_fma\(")
FUNCTION = re.compile(r"^[0-9a-f]+ <(.*)>:$")
AVX = re.compile(r"^\s*[0-9a-f]+:\s+(?:\{\w+\} )?v[a-z]\w*\b|%[yz]mm")


def main():
    objdump, program = sys.argv[1:]
    listing = subprocess.run(
        [objdump, "-dC", "--no-show-raw-insn", program], check=True, capture_output=True, text=True
    ).stdout
    num_portable = num_native = 0
    errors = []
    function, is_portable = "", False
    for line in listing.splitlines():
        header = FUNCTION.match(line)
        if header:
            function = header.group(1)
            is_kernel = bool(KERNELS.search(function))
            is_portable = function == "main" or bool(
                BASELINE.search(function) and not is_kernel
            )
            num_portable += is_portable
        elif AVX.search(line):
            if is_portable:
                errors.append(f"{function}: {line.strip()}")
            num_native += "polarquant::" in function and not BASELINE.search(function)
    # It must have seen both: portable functions, and AVX in the other unit's.
    if "ScalarCall" not in listing or num_portable < 20:
        errors.append(f"only {num_portable} portable functions found")
    if num_native == 0:
        errors.append("no AVX instruction in the unit built with -march=native: nothing was tested")
    print("\n".join(errors[:20]) if errors else f"{num_portable} portable functions without AVX")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
