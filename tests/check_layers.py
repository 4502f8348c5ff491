#!/usr/bin/env python3
"""Checks the rules of CONTRIBUTING.md that a compiler does not.

usage: check_layers.py [--root FOLDER] | --self-test

Include directions are the architecture: the folders of include/polarquant are the layers, and a
header includes only headers of its own folder or of a lower one. Tests mirror headers.
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
    "trellis/",
    "codes/",
    "kernels/",
    "codec/",
    "storage/",
    "attention/",
    "calibration/",
    "kv_cache.hpp",
    "kv_cache_batch.hpp",
    "saving/",
    "codec.hpp format.hpp serialization.hpp calibration.hpp",
    "polarquant.hpp",
]
UMBRELLA = "polarquant.hpp"
MAX_LINES = 400

# Headers without a test file of their own stem, and what tests them, or why nothing does.
NO_TEST_OF_ITS_OWN = {
    "attention/cache_tokens.hpp": "the tests of KVCache",
    "attention/compiled_calls.hpp": "names what src/polarquant.cpp compiles",
    "attention/partial_rows.hpp": "partial_attention_test",
    "attention/token_pieces.hpp": "plain aggregates: the tests of KVCache and of tiles",
    "base/compiled.hpp": "macros: src/polarquant.cpp and all our programs are compiled with them",
    "calibration/window_weights.hpp": "calibrator_test",
    "codes/trellis_runs.hpp": "trellis_codec_test",
    "codec/codec_rows.hpp": "codec_batches_test and codec_memory_test",
    "codec/encode_result.hpp": "a plain aggregate: codec_test",
    "format.hpp": "holds no code",
    "kernels/avx2.hpp": "kernels_test and tile_kernels_test, by instruction set",
    "kernels/fixed_tiles.hpp": "fixed_scores_test and fixed_sums_test, by instruction set",
    "kernels/kernel_table.hpp": "a plain aggregate: dispatch_test fills it",
    "kernels/loops/condition.hpp": "conditioning_test, by instruction set",
    "kernels/loops/decode.hpp": "kernels_test and tile_kernels_test, by instruction set",
    "kernels/loops/encode.hpp": "kernels_test and tile_kernels_test, by instruction set",
    "kernels/loops/rotate.hpp": "kernels_test and tile_kernels_test, by instruction set",
    "kernels/neon.hpp": "kernels_test and tile_kernels_test, by instruction set",
    "kernels/scalar.hpp": "kernels_test and tile_kernels_test, by instruction set",
    "kernels/tiles/avx512_centers.hpp": "center_code_test, by instruction set",
    "kernels/tiles/avx512_fixed_blocks.hpp": "fixed_scores_test and fixed_sums_test, by instruction set",
    "kernels/tiles/avx512_fixed_scores.hpp": "fixed_scores_test, by instruction set",
    "kernels/tiles/avx512_fixed_sums.hpp": "fixed_sums_test, by instruction set",
    "kernels/tiles/fixed_blocks.hpp": "fixed_scores_test and fixed_sums_test, by instruction set",
    "kernels/tiles/fixed_indices.hpp": "fixed_scores_test and fixed_sums_test, by instruction set",
    "kernels/words/avx2.hpp": "kernels_test and tile_kernels_test, by instruction set",
    "kernels/words/neon.hpp": "kernels_test and tile_kernels_test, by instruction set",
    "kernels/words/words.hpp": "kernels_test and tile_kernels_test, by instruction set",
    "polarquant.hpp": "holds no code",
    "saving/save.hpp": "serialization_test",
    "saving/saved_info.hpp": "saved_settings_test",
    "saving/saved_file.hpp": "serialization_test, load_damage_test and calibration_file_test",
    "saving/saved_layout.hpp": "serialization_test",
    "trellis/trellis_tables.hpp": "trellis_code_test",
    "storage/head_side.hpp": "the tests of KVCache",
    "storage/kv_append.hpp": "the tests of KVCache",
    "storage/kv_centering.hpp": "kv_cache_centering_test",
    "storage/kv_storage.hpp": "the tests of KVCache",
}

# Where intrinsics may stand: the words of each instruction set, the tiles, the kernel tables.
INTRINSICS = re.compile(r"kernels/(?:words/.*|tiles/.*|[^/]+)")

# In include/, outside comments and strings: (what it is, pattern, which headers may use it and how
# a message calls them).
FORBIDDEN = [
    ("<iostream>", r"#\s*include\s*<iostream>", None, ""),
    ("printing", r"\b(?:v?f?printf|f?puts|putchar)\s*\(", None, ""),
    ("exit", r"\b(?:_[Ee]xit|quick_exit|exit)\s*\(", None, ""),
    ("abort", r"\babort\s*\(", re.compile(r"base/error\.hpp"), "base/error.hpp"),
    ("M_PI", r"\bM_PI(?:_2|_4)?\b", None, ""),
    (
        "intrinsics",
        r"#\s*include\s*[<\"](?:[a-z0-9]*intrin|arm_\w+)\.h[>\"]",
        INTRINSICS,
        "kernels/words/, kernels/tiles/ and kernels/*.hpp",
    ),
]
# In this field `pq` is product quantization.
PREFIX = re.compile(r"\bpq_|\bPQ_|\bpq::|\bnamespace\s+pq\b")

# Above codec/ a codec is any codec: these headers do not know that ours has angles and radii.
FAMILY_BLIND = re.compile(r"(?:storage/|attention/|calibration|saving/|kv_cache).*")
FAMILY_WORD = re.compile(
    r"\w*(?:polar(?!quant)|Polar(?!Quant|KV\\n|Cal\b)|POLAR(?!QUANT)|(?<![a-z])angle|Angle|(?<![A-Z])ANGLE"
    r"|radius|Radius|RADIUS|radii|Radii|RADII|trellis|Trellis|TRELLIS)\w*"
)

# Names that headers of others define as macros. Those that take arguments hit a call, also one of
# std::min: write (std::min)(a, b) and (std::numeric_limits<T>::max)().
MACROS_WITH_ARGUMENTS = """
    min max
    check checkf verify ensure require
    likely unlikely TEXT
""".split()  # Windows; Unreal and macOS; others. tests/consumers/macros.cpp defines them all.
MACROS_WITHOUT = """
    near far small hyper interface IN OUT OPTIONAL ERROR NO_ERROR DELETE CONST VOID STRICT TRUE FALSE
    Bool None Status Success Always True False Above Below
    slots signals emit foreach forever nil YES NO
    unix linux major minor I PI
""".split()  # Windows; X11; Qt and Objective-C; GNU and others.
MACRO_CALL = re.compile(r"\b(?:%s)\s*\(" % "|".join(MACROS_WITH_ARGUMENTS))
MACRO_NAME = re.compile(
    r"(?<!::)\b(?:%s)\b|\b(?:%s)\b"
    % ("|".join(MACROS_WITH_ARGUMENTS), "|".join(MACROS_WITHOUT))
)

# TEST(Suite, Case) and its kin.
TEST_NAMES = re.compile(
    r"^[ \t]*(?:TYPED_)?TEST(?:_[FP])?\s*\(\s*(\w+)\s*,\s*(\w+)\s*\)"
    r"|^[ \t]*INSTANTIATE_TYPED_TEST_SUITE_P\s*\(\s*(\w+)"
    r"|^[ \t]*INSTANTIATE_TEST_SUITE_P\s*\(\s*(\w+)",
    re.MULTILINE,
)
PASCAL_CASE = re.compile(r"[A-Z][A-Za-z0-9]*")

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


def line_of(text, match):
    return text.count("\n", 0, match.start()) + 1


def layer_of(name):
    """The index in LAYERS of a header, given below include/polarquant: its own row before its folder."""
    rows = [(row, index) for index, names in enumerate(LAYERS) for row in names.split()]
    matching = [
        (len(row), index)
        for row, index in rows
        if name == row or (row.endswith("/") and name.startswith(row))
    ]
    return max(matching)[1] if matching else None


def is_folder(layer):
    return LAYERS[layer].endswith("/")


def check_includes(name, includes, header_names):
    """Yields what is wrong with the directions of one header's includes."""
    layer = layer_of(name)
    if layer is None:
        yield "is in no layer: give it a place in LAYERS of tests/check_layers.py"
    for quote, target in includes:
        if not target.startswith("polarquant/"):
            if quote == '"':
                yield f'includes "{target}": write it as "polarquant/..."'
            continue
        target = target[len("polarquant/") :]
        target_layer = layer_of(target)
        if target_layer is None or target not in header_names:
            yield f"includes {target}, which is " + (
                "in no layer" if target_layer is None else "no header"
            )
        elif layer is None or target_layer < layer:
            continue
        elif target_layer > layer or not is_folder(layer):
            yield f"(layer {LAYERS[layer]}) includes {target} (layer {LAYERS[target_layer]})"


def check_circles(includes_of):
    """Yields each circle of includes, once: by its headers, from the first in alphabetical order."""
    done = set()

    def visit(name, trail):
        if name in trail:
            circle = trail[trail.index(name) :]
            first = circle.index(min(circle))
            circle = circle[first:] + circle[:first]
            yield " -> ".join(circle + circle[:1])
        if name in done or name in trail:
            return
        for target in sorted(includes_of.get(name, ())):
            yield from visit(target, trail + [name])
        done.add(name)

    for name in sorted(includes_of):
        yield from visit(name, [])


def check_text(name, text):
    """Yields the rules of style that the text of one header breaks."""
    with_strings = without_comments(text, strings_too=False)
    code = without_comments(text, strings_too=True)

    # An .inl file is one text of the kernels, included once per instruction set.
    num_guards = len(re.findall(r"^#pragma once$", text, re.MULTILINE))
    if name.endswith(".inl"):
        if not name.startswith("kernels/"):
            yield "is a text to be included more than once: only kernels/ has those"
        if num_guards:
            yield "is included more than once and has `#pragma once`"
    elif num_guards != 1:
        yield "needs one `#pragma once`"
    num_lines = len(text.splitlines())
    if num_lines > MAX_LINES:
        yield f"has {num_lines} lines, more than {MAX_LINES}: split it by concept"
    for what, pattern, allowed, where in FORBIDDEN:
        source = with_strings if "include" in pattern else code
        if not (allowed and allowed.fullmatch(name)) and re.search(pattern, source):
            yield f"uses {what}, which is " + (f"for {where} only" if allowed else "not for the library")

    if name == UMBRELLA:
        rest = INCLUDE.sub("", with_strings).replace("#pragma once", "").strip()
        if rest:
            yield f"is the umbrella and holds code: {rest.splitlines()[0]}"


def check_family_words(name, text):
    found = FAMILY_BLIND.fullmatch(name) and FAMILY_WORD.search(text)
    if found:
        yield (
            f"says {found.group(0)!r} in line {line_of(text, found)}: above codec/ a codec is any codec"
        )


def check_macro_names(text):
    # The lines of the preprocessor are macros themselves: `#define`, `#if defined(unix)`.
    code = re.sub(
        r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: "\n" * m.group(0).count("\n"),
        without_comments(text, strings_too=True), flags=re.MULTILINE,
    )
    found = MACRO_CALL.search(code) or MACRO_NAME.search(code)
    if found:
        macro = re.search(r"\w+", found.group(0)).group(0)
        yield (
            f"says `{macro}` in line {line_of(code, found)}, a macro of common headers: name it"
            + (f" otherwise, or write (std::{macro})(...)" if macro in ("min", "max") else " otherwise")
        )


def has_test(name, test_stems):
    """Whether tests/ has a file for a header a/b/c.hpp: c, b_c or a_b_c, and what it adds to that."""
    *folders, stem = name[: name.rindex(".")].split("/")
    stems = ["_".join(folders[i:] + [stem]) for i in range(len(folders) + 1)]
    return any(test == s or test.startswith(s + "_") for test in test_stems for s in stems)


def check_tests(header_names, test_stems, exceptions):
    """Yields headers without a test, and exceptions without a reason to be."""
    for name in sorted(header_names):
        tested = has_test(name, test_stems)
        if layer_of(name) is not None and not tested and name not in exceptions:
            yield (
                f"include/polarquant/{name} has no test: write tests/{pathlib.Path(name).stem}_test.cpp"
                " or say in NO_TEST_OF_ITS_OWN of tests/check_layers.py why not"
            )
        if tested and name in exceptions:
            yield f"{name} has a test: take it out of NO_TEST_OF_ITS_OWN"
    for name in sorted(set(exceptions) - set(header_names)):
        yield f"{name} is no header: take it out of NO_TEST_OF_ITS_OWN"


def check_test_names(text):
    for match in TEST_NAMES.finditer(text):
        for word in filter(None, match.groups()):
            if not PASCAL_CASE.fullmatch(word):
                yield f"{line_of(text, match)} names a test {word}: write it in PascalCase"
                return


def check(root, no_test=NO_TEST_OF_ITS_OWN):
    """Returns the broken rules of a source tree, a line each."""
    include = root / "include" / "polarquant"
    headers = sorted(p for p in include.rglob("*") if p.is_file() and p.suffix != ".md")
    errors = [] if headers else [f"no headers under {include}"]
    names = {path.relative_to(include).as_posix() for path in headers}
    includes_of = {}
    for path in headers:
        name = path.relative_to(include).as_posix()
        text = path.read_text(encoding="utf-8", errors="replace")
        includes = INCLUDE.findall(without_comments(text, strings_too=False))
        # A circle through two layers has an include that points up, which is an error already.
        includes_of[name] = {
            target
            for target in names.intersection(t[len("polarquant/") :] for _, t in includes)
            if layer_of(target) == layer_of(name)
        }
        for problems in (
            check_includes(name, includes, names),
            check_text(name, text),
            check_family_words(name, text),
            check_macro_names(text),
        ):
            errors += [f"include/polarquant/{name} {problem}" for problem in problems]
    errors += [f"includes go in a circle: {circle}" for circle in check_circles(includes_of)]

    tests = sorted((root / "tests").glob("*_test.cpp"))
    if headers:
        errors += check_tests(names, {p.name[: -len("_test.cpp")] for p in tests}, no_test)
    for path in sorted((root / "tests").rglob("*.cpp")):
        text = without_comments(path.read_text(encoding="utf-8", errors="replace"), strings_too=False)
        name = path.relative_to(root).as_posix()
        errors += [f"{name}:{problem}" for problem in check_test_names(text)]

    macros = root / "tests" / "consumers" / "macros.cpp"
    if macros.exists():
        defined = set(re.findall(r"^#define (\w+)", macros.read_text(), re.MULTILINE))
        for name in sorted(defined.symmetric_difference(MACROS_WITH_ARGUMENTS + MACROS_WITHOUT)):
            errors.append(f"tests/consumers/macros.cpp and check_layers.py disagree about `{name}`")

    sources = headers + sorted(
        path
        for folder in ("src", "tests", "bench", "examples")
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
        "include/polarquant/base/version.hpp": "#pragma once\n// printf( and M_PI in a comment\n",
        "include/polarquant/base/error.hpp": (
            '#pragma once\n#include "polarquant/base/version.hpp"\n'
            "inline void f() { if (c == '\"') std::snprintf(b, 1, \"exit(\"); std::abort(); }\n"
        ),
        "include/polarquant/codec/codec.hpp": (
            "#pragma once\n#include <polarquant/base/error.hpp>\n"
            "#include <polarquant/codec/encoder.hpp>\n// An angle.\nint m = (std::max)(1, 2);\n"
        ),
        "include/polarquant/codec/encoder.hpp": "#pragma once\nint f(int new_max, int checks);\n",
        "include/polarquant/codec.hpp": '#pragma once\n#include "polarquant/codec/codec.hpp"\n',
        "include/polarquant/method/README.md": "The order to read in: \u03c8.\n",
        "include/polarquant/storage/pages.hpp": (
            "#pragma once\n// A triangle of PolarQuant.\n#include <polarquant/codec/codec.hpp>\n"
        ),
        "include/polarquant/kernels/avx2.hpp": "#pragma once\n#include <immintrin.h>\n",
        "include/polarquant/kernels/tiles/sums.inl": '#include "polarquant/base/error.hpp"\n',
        "include/polarquant/kernels/dispatch.hpp": (
            '#pragma once\n#include "polarquant/kernels/avx2.hpp"\n'
            '#include "polarquant/kernels/tiles/sums.inl"\n#if defined(unix)\n#endif\n'
        ),
        "include/polarquant/polarquant.hpp": (
            '// All of it.\n#pragma once\n\n#include "polarquant/codec/codec.hpp"  // codec\n'
        ),
        "tests/codec_test.cpp": "TEST(CodecTest, SaysSo) {}\nTYPED_TEST_SUITE(Codec, Types);\n",
        "tests/codec_encoder_test.cpp": "// TEST(codec, comment)\nTEST_P(Codec2, X86) {}\n",
        "tests/pages_of_memory_test.cpp": "int main() { return 0; }\n",
        "tests/tiles_sums_test.cpp": "int main() { return 0; }\n",
        "tests/kernels_dispatch_test.cpp": "int main() { return 0; }\n",
    }
    no_test = {
        "base/version.hpp": "a number",
        "base/error.hpp": "tested by all",
        "kernels/avx2.hpp": "tested with all instruction sets",
        "polarquant.hpp": "holds no code",
    }
    violations = [
        # (file, its text, a part of the one error expected)
        ("base/error.hpp", '#pragma once\n#include "polarquant/codec/codec.hpp"\n', "includes codec/codec.hpp (layer codec/)"),
        ("base/error.hpp", "#pragma once\n  #  include <polarquant/codec/encoder.hpp>\n", "includes codec/encoder"),
        ("codec/codec.hpp", '#pragma once\n#include "polarquant/codec.hpp"\n', "includes codec.hpp (layer codec.hpp "),
        ("codec/encoder.hpp", '#pragma once\n#include "polarquant/codec/codec.hpp"\n',
         "circle: codec/codec.hpp -> codec/encoder.hpp -> codec/codec.hpp"),
        ("codec/encoder.hpp", '#pragma once\n#include "polarquant/codec/encoder.hpp"\n', "circle"),
        ("kernels/tiles/sums.inl", '#include "polarquant/kernels/dispatch.hpp"\n', "circle"),
        ("codec/codec.hpp", '#pragma once\n#include "polarquant/new.hpp"\n', "new.hpp, which is in no"),
        ("codec/codec.hpp", '#pragma once\n#include "polarquant/base/new.hpp"\n', "base/new.hpp, which is no h"),
        ("codec/codec.hpp", '#pragma once\n#include "error.hpp"\n', 'write it as "polarquant/'),
        ("new.hpp", "#pragma once\n", "is in no layer"),
        ("new/codec.hpp", "#pragma once\n", "is in no layer"),
        ("codec/new.hpp", "#pragma once\n", "codec/new.hpp has no test"),
        ("kernels/loops/codec_part.hpp", "#pragma once\n", "has no test"),
        ("../../tests/version_test.cpp", "\n", "base/version.hpp has a test: take it out"),
        ("codec/codec.inl", "#include <polarquant/codec/encoder.hpp>\n", "only kernels/ has those"),
        ("kernels/tiles/sums.inl", "#pragma once\n", "included more than once and has"),
        ("codec/codec.hpp", "// no guard\n", "#pragma once"),
        ("codec/codec.hpp", "#pragma once\n" + "\n" * 400, "401 lines"),
        ("codec/codec.hpp", "#pragma once\n#include <iostream>\n", "<iostream>"),
        ("codec/codec.hpp", '#pragma once\nvoid f() { std::printf("x"); }\n', "printing"),
        ("codec/codec.hpp", '#pragma once\nvoid f() { fprintf(stderr, "x"); }\n', "printing"),
        ("codec/codec.hpp", "#pragma once\nvoid f() { std::exit(1); }\n", "uses exit"),
        ("codec/codec.hpp", "#pragma once\nvoid f() { std::abort(); }\n", "for base/error.hpp only"),
        ("codec/codec.hpp", "#pragma once\ndouble pi = M_PI;\n", "M_PI"),
        ("codec/codec.hpp", "#pragma once\n#include <immintrin.h>\n", "intrinsics"),
        ("kernels/loops/codec.hpp", "#pragma once\n#include <arm_neon.h>\n", "intrinsics"),
        ("codec/codec.hpp", "#pragma once\nint pq_bits;\n", "product quantization"),
        ("../../tests/codec_test.cpp", "namespace pq {}\n", "product quantization"),
        ("codec/codec.hpp", "#pragma once\n// \u03c8\n", "codec.hpp:2 is not ASCII"),
        ("../../bench/a.cpp", "// caf\u00e9\n", "bench/a.cpp:1 is not ASCII"),
        ("polarquant.hpp", "#pragma once\nint x;\n", "holds code: int x;"),
        ("polarquant.hpp", "#pragma once\n#define X 1\n", "holds code: #define X 1"),
        ("storage/pages.hpp", "#pragma once\n\n// Its radius.\n", "says 'radius' in line 3"),
        ("storage/pages.hpp", "#pragma once\nint kAngleBits;\n", "says 'kAngleBits'"),
        ("storage/pages.hpp", "#pragma once\nPolarCodec c;\n", "says 'PolarCodec'"),
        ("kv_cache.hpp", "#pragma once\n// Polar codes.\n", "says 'Polar'"),
        ("codec/codec.hpp", "#pragma once\n\nvoid check(int x);\n", "says `check` in line 3"),
        ("codec/codec.hpp", "#pragma once\nint a = std::min(1, 2);\n", "or write (std::min)(...)"),
        ("codec/codec.hpp", "#pragma once\nint a = Limits::max();\n", "says `max`"),
        ("codec/codec.hpp", "#pragma once\nint max = 3;\n", "says `max`"),
        ("codec/codec.hpp", "#pragma once\nenum E { None };\n", "says `None`"),
        ("../../tests/codec_test.cpp", "\nTEST(CodecTest, says_so) {}\n", "codec_test.cpp:2 names a test says_so"),
        ("../../tests/codec_test.cpp", "TYPED_TEST(codecs, SaysSo) {}\n", "names a test codecs"),
        ("../../tests/codec_test.cpp", "INSTANTIATE_TEST_SUITE_P(\n    all, X, 1);\n", "names a test all"),
    ]
    failures = []
    for file, text, expected in [(None, None, None)] + violations:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder).resolve()
            files = dict(clean)
            if file:
                files[(root / "include/polarquant" / file).resolve().relative_to(root).as_posix()] = text
            tests = dict(no_test)
            if file == "kv_cache.hpp":
                tests[file] = "another rule is at stake"
            for name, content in files.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, encoding="utf-8")
            errors = check(root, tests)
        caught = len(errors) == 1 and expected in errors[0] if file else not errors
        if not caught:
            failures.append(f"{file}: expected {expected!r}, got {errors}")
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        if not check(root):
            failures.append("a tree without headers passes")
        # Both lists of macros are one.
        macros = root / "tests/consumers/macros.cpp"
        macros.parent.mkdir(parents=True)
        names = MACROS_WITH_ARGUMENTS + MACROS_WITHOUT
        macros.write_text("".join(f"#define {name} @\n" for name in names[1:]))
        if not any(f"disagree about `{names[0]}`" in error for error in check(root)):
            failures.append("a macro that macros.cpp does not define passes")
        macros.write_text("".join(f"#define {name} @\n" for name in names))
        header = root / "include/polarquant/storage/a.hpp"
        header.parent.mkdir(parents=True)
        header.write_text("#pragma once\n")
        tests = {"storage/a.hpp": "reason"}
        if len(check(root, {**tests, "storage/b.hpp": "gone"})) != 1:
            failures.append("an exception for no header passes")
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
    print("\n".join(errors or [success]))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
