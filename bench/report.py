#!/usr/bin/env python3
"""Runs the benchmarks and makes tables of their rows.

usage: report.py PROGRAM [--quick] [--filter REGEX]

--quick prints the rows of the table of goals and writes nothing; --filter (of row names) too.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

# Row (without /hot or /memory): the goals, as ratios to fp16's time, hot and from memory.
GOALS = {
    "scores/paper/avx512-16bit/128/32768/1": (0.45, 0.30),
    "scores/paper/avx512-16bit/128/32768/4": (0.80, 0.45),
    "values/paper/avx512-16bit/128/32768/1": (1.0, 0.45),
    "attention/paper/avx512-16bit/128/32768/1": (0.80, 0.40),
    "attention/paper/avx512-16bit/128/32768/4": (1.0, 0.65),
}


def run(program, arguments):
    """The rows of a run, by name."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "rows.json"
        subprocess.run(
            [program, f"--benchmark_out={out}", "--benchmark_out_format=json", *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        rows = json.loads(out.read_text(encoding="utf-8"))["benchmarks"]
    return {row["name"].split("/iterations:")[0]: row for row in rows}


def goal_of(name):
    stem, regime = name.rsplit("/", 1)
    if stem not in GOALS:
        return None
    return GOALS[stem][regime == "memory"]


def table(rows):
    """Lines of a Markdown table."""
    yield "| row | ns per token | fp16 | ratio | goal | GB/s of code | bits | error | of decoding |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, row in rows.items():
        goal = goal_of(name)
        compiler = row["label"].rsplit(" ", 1)[1]
        yield (
            f"| {name} | {row['ns_per_token']:.2f} | {row['fp16_ns_per_token']:.2f} ({compiler})"
            f" | {row['ratio']:.2f} | {'' if goal is None else f'{goal:.2f}'}"
            f" | {row['code_bytes_per_second'] / 1e9:.1f} | {row['bits']:.3f}"
            f" | {row['error']:.3f} | {row['error_decoded']:.1e} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--quick", action="store_true", help="the rows of the table of goals alone")
    parser.add_argument("--filter", default="", help="a regular expression of row names")
    options = parser.parse_args()
    arguments = ["--quick"] if options.quick else []
    if options.filter:
        arguments.append(f"--benchmark_filter={options.filter}")
    print("\n".join(table(run(options.program, arguments))))


if __name__ == "__main__":
    sys.exit(main())
