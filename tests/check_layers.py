#!/usr/bin/env python3
"""Checks the rules of CONTRIBUTING.md that a compiler does not.

usage: check_layers.py [--root FOLDER] | --self-test

Include directions are the architecture: a header includes only headers of a lower layer. A new
header needs a place in LAYERS.
"""
import argparse
import pathlib
import re
import sys
import tempfile

# Bottom to top: folders, and the headers that stand above them. Within a folder includes may go
# anywhere but in a circle.
LAYERS = [
    "base/",
    "method/",
    "codes/",
    "kernels/",
    "codec/",
    "storage/",
    "attention/",
    "kv_cache.hpp",
    "kv_cache_batch.hpp",
    "saving/",
    "codec.hpp format.hpp serialization.hpp",
    "polarquant.hpp",
]
UMBRELLA = "polarquant.hpp"
MAX_LINES = 400

# In include/, outside comments and strings: (what it is, pattern, headers that may use it).
FORBIDDEN = [
    ("<iostream>", r"#\s*include\s*<iostream>", set()),
    ("printing", r"\b(?:v?f?printf|f?puts|putchar)\s*\(", set()),
    ("exit", r"\b(?:_[Ee]xit|quick_exit|exit)\s*\(", set()),
    ("abort", r"\babort\s*\(", {"error.hpp"}),
    ("M_PI", r"\bM_PI(?:_2|_4)?\b", set()),
    (
        "intrinsics",
        r"#\s*include\s*[<\"](?:[a-z0-9]*intrin|arm_\w+)\.h[>\"]",
        {
            "kernels/avx2.hpp",
            "kernels/avx512.hpp",
            "kernels/avx2_words.hpp",
            "kernels/avx512_common.hpp",
            "kernels/avx512_fixed_blocks.hpp",
            "kernels/avx512_fixed_scores.hpp",
            "kernels/avx512_fixed_sums.hpp",
            "kernels/avx512_float.hpp",
            "kernels/neon.hpp",
            "kernels/neon_words.hpp",
        },
    ),
]
# In this field `pq` is product quantization.
PREFIX = re.compile(r"\bpq_|\bPQ_|\bpq::|\bnamespace\s+pq\b")

COMMENT_OR_LITERAL = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])'""", re.DOTALL
)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.MULTILINE)


def without_comments(text, strings_too):
    def replace(match):
        token = match.group(0)
        if token[0] in "\"'":
            return '""' if strings_too else token
        return "\n" * token.count("\n") or " "

    return COMMENT_OR_LITERAL.sub(replace, text)


def check_header(name, path, layer_of):
    """Yields the broken rules of one header; `name` is its path under include/polarquant."""
    text = path.read_text(encoding="utf-8", errors="replace")
    with_strings = without_comments(text, strings_too=False)
    code = without_comments(text, strings_too=True)

    if name not in layer_of:
        yield "is in no layer: give it a place in LAYERS of tests/check_layers.py"
    if len(re.findall(r"^#pragma once$", text, re.MULTILINE)) != 1:
        yield "needs one `#pragma once`"
    num_lines = len(text.splitlines())
    if num_lines > MAX_LINES:
        yield f"has {num_lines} lines, more than {MAX_LINES}: split it by concept"
    for what, pattern, allowed in FORBIDDEN:
        source = with_strings if "include" in pattern else code
        if name not in allowed and re.search(pattern, source):
            yield f"uses {what}, which is " + (
                f"for {', '.join(sorted(allowed))} only" if allowed else "not for the library"
            )

    for quote, target in INCLUDE.findall(with_strings):
        if not target.startswith("polarquant/"):
            if quote == '"':
                yield f'includes "{target}": write it as "polarquant/..."'
            continue
        target = target[len("polarquant/") :]
        if target not in layer_of:
            yield f"includes {target}, which is in no layer"
        elif name in layer_of and layer_of[target] >= layer_of[name]:
            yield f"(layer {layer_of[name]}) includes {target} (layer {layer_of[target]})"

    if name == UMBRELLA:
        rest = INCLUDE.sub("", with_strings).replace("#pragma once", "").strip()
        if rest:
            yield f"is the umbrella and holds code: {rest.splitlines()[0]}"


def check(root):
    """Returns the broken rules of a source tree, a line each, sorted."""
    layer_of = {name: layer for layer, names in enumerate(LAYERS) for name in names}
    include = root / "include" / "polarquant"
    headers = sorted(path for path in include.rglob("*") if path.is_file())
    errors = [] if headers else [f"no headers under {include}"]
    for path in headers:
        name = path.relative_to(include).as_posix()
        errors += [f"include/polarquant/{name} {e}" for e in check_header(name, path, layer_of)]

    sources = headers + sorted(
        path
        for folder in ("tests", "bench", "examples")
        for path in (root / folder).rglob("*.[ch]pp")
    )
    for path in sources:
        name = path.relative_to(root).as_posix()
        data = path.read_bytes()
        if not data.isascii():
            line = next(i for i, l in enumerate(data.splitlines(), 1) if not l.isascii())
            errors.append(f"{name}:{line} is not ASCII")
        if PREFIX.search(without_comments(data.decode(errors="replace"), strings_too=True)):
            errors.append(f"{name} uses the prefix `pq`, which means product quantization")
    return errors


def self_test():
    """Each violation is caught, by exactly one error, and a clean tree passes."""
    clean = {
        "include/polarquant/version.hpp": "#pragma once\n// printf( and M_PI in a comment\n",
        "include/polarquant/error.hpp": (
            '#pragma once\n#include "polarquant/base/version.hpp"\n'
            "inline void f() { if (c == '\"') std::snprintf(b, 1, \"exit(\"); std::abort(); }\n"
        ),
        "include/polarquant/codec.hpp": "#pragma once\n#include <polarquant/base/error.hpp>\n",
        "include/polarquant/kernels/avx2.hpp": "#pragma once\n#include <immintrin.h>\n",
        "include/polarquant/kernels/dispatch.hpp": (
            '#pragma once\n#include "polarquant/kernels/avx2.hpp"\n'
        ),
        "include/polarquant/polarquant.hpp": (
            '// All of it.\n#pragma once\n\n#include "polarquant/codec/codec.hpp"  // codec\n'
        ),
        "tests/codec_test.cpp": "int main() { return 0; }\n",
    }
    violations = [
        # (file, its text, a part of the one error expected)
        ("codec.hpp", '#pragma once\n#include "polarquant/kv_cache.hpp"\n', ") includes kv_cache.hpp (layer"),
        ("attention.hpp", '#pragma once\n#include "polarquant/attention/head_attention.hpp"\n', "includes att"),
        ("rotation.hpp", '#pragma once\n#include "polarquant/method/polar_transform.hpp"\n', "includes p"),
        ("codec.hpp", '#pragma once\n  #  include <polarquant/kv_cache.hpp>\n', "includes kv_cac"),
        ("codec.hpp", '#pragma once\n#include "polarquant/new.hpp"\n', "new.hpp, which is in no"),
        ("codec.hpp", '#pragma once\n#include "error.hpp"\n', 'write it as "polarquant/'),
        ("new.hpp", "#pragma once\n", "is in no layer"),
        ("kernels/new.hpp", "#pragma once\n", "is in no layer"),
        ("codec.inl", "#pragma once\n", "is in no layer"),
        ("codec.hpp", "// no guard\n", "#pragma once"),
        ("codec.hpp", "#pragma once\n" + "\n" * 400, "401 lines"),
        ("codec.hpp", "#pragma once\n#include <iostream>\n", "<iostream>"),
        ("codec.hpp", '#pragma once\nvoid f() { std::printf("x"); }\n', "printing"),
        ("codec.hpp", '#pragma once\nvoid f() { fprintf(stderr, "x"); }\n', "printing"),
        ("codec.hpp", "#pragma once\nvoid f() { std::exit(1); }\n", "uses exit"),
        ("codec.hpp", "#pragma once\nvoid f() { std::abort(); }\n", "for error.hpp only"),
        ("codec.hpp", "#pragma once\ndouble pi = M_PI;\n", "M_PI"),
        ("codec.hpp", "#pragma once\n#include <immintrin.h>\n", "intrinsics"),
        ("kernels/scalar.hpp", "#pragma once\n#include <arm_neon.h>\n", "intrinsics"),
        ("codec.hpp", "#pragma once\nint pq_bits;\n", "product quantization"),
        ("../../tests/codec_test.cpp", "namespace pq {}\n", "product quantization"),
        ("codec.hpp", "#pragma once\n// \u03c8\n", "codec.hpp:2 is not ASCII"),
        ("../../bench/a.cpp", "// caf\u00e9\n", "bench/a.cpp:1 is not ASCII"),
        ("polarquant.hpp", "#pragma once\nint x;\n", "holds code: int x;"),
        ("polarquant.hpp", "#pragma once\n#define X 1\n", "holds code: #define X 1"),
    ]
    failures = []
    for file, text, expected in [(None, None, None)] + violations:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            files = dict(clean)
            if file:
                files["include/polarquant/" + file] = text
            for name, content in files.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, encoding="utf-8")
            errors = check(root.resolve())
        caught = len(errors) == 1 and expected in errors[0] if file else not errors
        if not caught:
            failures.append(f"{file}: expected {expected!r}, got {errors}")
    with tempfile.TemporaryDirectory() as folder:
        if not check(pathlib.Path(folder)):
            failures.append("a tree without headers passes")
    return failures, len(violations)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default_root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--root", type=pathlib.Path, default=default_root)
    parser.add_argument("--self-test", action="store_true", help="check this script itself")
    arguments = parser.parse_args()

    if arguments.self_test:
        errors, num_violations = self_test()
        success = f"self-test: {num_violations} violations caught, the clean tree passes"
    else:
        errors = check(arguments.root.resolve())
        success = "layers and house rules hold"
    print("\n".join(errors) if errors else success)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
