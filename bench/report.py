#!/usr/bin/env python3
"""Runs the benchmarks and makes tables, a page and a plot of their rows.

usage: report.py PROGRAM [--quick] [--filter REGEX] [--rows FILE] [--page FILE] [--plot FILE]

--quick prints the table of goals alone; --filter (of row names) the rows that match. Neither writes
the page or the plot. The rows are kept in a file; --rows makes the tables of such a file again.
"""
import argparse
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

ROW = re.compile(
    r"(?P<operation>\w+)/(?P<format>[^/]+)/(?P<isa>[^/]+)/(?P<head_dim>\d+)/(?P<num_tokens>\d+)"
    r"/(?P<num_queries>\d+)/(?P<regime>hot|memory)"
)

# What, the row without its regime, and for every regime the most (or least, if negative) that the
# measure may be. A row that this machine lacks is left out.
RATIO, NS, SPEED_UP, SHARE = "ratio", "ns per token", "speed-up", "share of a plain sum's bandwidth"
GOALS = [
    ("scores, 1 query, `paper`", "scores/paper/{isa}/128/32768/1", RATIO, (0.45, 0.30)),
    ("the same", "scores/paper/{isa}/128/32768/1", SHARE, (None, -0.80)),
    ("scores, 1 query, 3.25 bits", "scores/full_depth_3.25/{isa}/128/32768/1", RATIO, (0.60, 0.35)),
    ("scores, 1 query, 4.25 bits", "scores/full_depth_4.25/{isa}/128/32768/1", RATIO, (0.70, 0.40)),
    ("scores, 4 queries, `paper`", "scores/paper/{isa}/128/32768/4", RATIO, (0.80, 0.45)),
    ("weighted sum, 1 query", "values/paper/{isa}/128/32768/1", RATIO, (1.0, 0.45)),
    ("attention, 1 query", "attention/paper/{isa}/128/32768/1", RATIO, (0.80, 0.40)),
    ("the same", "attention/paper/{isa}/128/32768/1", NS, (6.0, None)),
    ("the same", "attention/paper/{isa}/128/32768/1", SHARE, (None, -0.80)),
    ("attention, 4 queries", "attention/paper/{isa}/128/32768/4", RATIO, (1.0, 0.65)),
    ("the same", "attention/paper/{isa}/128/32768/4", NS, (13.0, None)),
    ("prefill, 128 queries, to Eigen", "prefill/paper/{isa}/128/32768/128", RATIO, (1.15, None)),
    ("attention, d = 64, 1 query", "attention/paper/{isa}/64/32768/1", RATIO, (0.90, 0.45)),
    ("dot of rows, one call", "dot_rows/paper/{isa}/128/32768/1", RATIO, (1.0, 0.50)),
    ("dot of rows, a call for each", "dot/paper/{isa}/128/32768/1", RATIO, (1.0, None)),
    ("AVX2: scores, 1 query", "scores/paper/avx2-16bit/128/32768/1", RATIO, (0.75, 0.40)),
    ("AVX2: attention, 1 query", "attention/paper/avx2-16bit/128/32768/1", RATIO, (1.0, 0.55)),
    ("encode, Hadamard", "encode_hadamard/paper/{isa}/128/32768/1", NS, (200.0, None)),
    ("encode, Haar", "encode_haar/paper/{isa}/128/32768/1", NS, (450.0, None)),
    ("append one by one, to batches", "append/paper/{isa}/128/2048/1", RATIO, (3.0, None)),
    ("two threads, to one", "threads/paper/{isa}/128/32768/1", SPEED_UP, (-1.85, None)),
    ("1 M tokens, to 16 K", "growth/paper/{isa}/128/1048576/1", RATIO, (1.30, None)),
]


def run(program, arguments, out):
    """Writes Google Benchmark's file of rows."""
    out.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [program, f"--benchmark_out={out}", "--benchmark_out_format=json", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    # What page() tells of the machine, as it was then.
    result = json.loads(out.read_text(encoding="utf-8"))
    result["context"]["load"] = os.getloadavg()[1]
    out.write_text(json.dumps(result, indent=1), encoding="utf-8")


def read(path):
    """Google Benchmark's context, and the rows by name."""
    result = json.loads(path.read_text(encoding="utf-8"))
    rows = {}
    for row in result["benchmarks"]:
        name = row["name"].split("/iterations:")[0]
        row.update(ROW.fullmatch(name).groupdict())
        kernel, _, baseline = row["label"].partition("; ")
        rows[name] = dict(row, kernel=kernel, baseline=baseline)
    return result["context"], rows


# ---- Tables: lists of lines of Markdown ----


def lines_of(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines] + [""]


def measure_of(row, what):
    if what == NS:
        return row["ns_per_token"]
    if what == SHARE:
        return row["share_of_stream"]
    return 1.0 / row["ratio"] if what == SPEED_UP else row["ratio"]


def baseline_of(row):
    if "ratio" not in row:
        return ""
    return f"{row['baseline_ns_per_token']:.2f} ({row['baseline']})"


def error_of(row, counter="error"):
    return f"{row[counter]:.2g}" if row[counter] else ""


def goals(rows, isa):
    cells = []
    for what, stem, measure, limits in GOALS:
        for regime, limit in zip(("hot", "memory"), limits):
            row = rows.get(f"{stem.format(isa=isa)}/{regime}")
            if limit is None or row is None:
                continue
            value = measure_of(row, measure)
            met = value <= limit if limit > 0 else value >= -limit
            cells.append(
                [what, regime, f"{row['ns_per_token']:.2f}", baseline_of(row), measure]
                + [f"{value:.2f}", f"{'at most' if limit > 0 else 'at least'} {abs(limit):.2f}"]
                + ["yes" if met else "**no**", error_of(row), error_of(row, "error_decoded")]
            )
    header = ["what", "from", "ns per token", "baseline", "measure", "measured", "goal", "met"]
    return lines_of(header + ["error", "of arithmetic"], cells)


def details(rows):
    """A row for a row."""
    header = ["operation", "format", "kernels", "d", "tokens", "queries", "from", "ns per token"]
    header += ["baseline", "ratio", "GB/s of code", "bits", "error", "of arithmetic"]
    cells = []
    for row in rows:
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        cells.append(
            [row["operation"], row["format"], row["kernel"], row["head_dim"]]
            + [row["num_tokens"], row["num_queries"], row["regime"], f"{row['ns_per_token']:.2f}"]
            + [baseline_of(row), ratio, f"{row['code_bytes_per_second'] / 1e9:.1f}"]
            + [f"{row['bits']:.3f}", error_of(row), error_of(row, "error_decoded")]
        )
    return lines_of(header, cells)


def widths(rows, isa):
    """Formats and widths: ns per token (ratio to fp16)."""
    columns = [("scores", "1"), ("scores", "4"), ("attention", "1"), ("attention", "4")]
    found = {}
    for row in rows.values():
        key = (row["head_dim"], row["format"])
        if row["num_tokens"] == "32768" and row["regime"] == "hot" and row["isa"] == isa:
            found.setdefault(key, {})[row["operation"], row["num_queries"]] = row
    cells = []
    for (head_dim, form), by_column in found.items():
        if all(column in by_column for column in columns):
            first = by_column[columns[0]]
            cells.append(
                [head_dim, form, f"{first['bits']:.3f}", error_of(first)]
                + [
                    f"{by_column[c]['ns_per_token']:.2f} ({by_column[c]['ratio']:.2f})"
                    for c in columns
                ]
                + [by_column[columns[2]]["kernel"]]
            )
    cells.sort(key=lambda line: int(line[0]))
    header = ["d", "format", "bits", "error of scores"]
    header += [f"{operation}, {queries} q" for operation, queries in columns]
    return lines_of(header + ["kernels"], cells)


def lengths(rows, isa):
    """(tokens, ns per token of fp16, {format: ns per token})."""
    found = {}
    for row in rows.values():
        key = (row["operation"], row["isa"], row["head_dim"], row["num_queries"], row["regime"])
        if key == ("attention", isa, "128", "1", "hot") and row["baseline"].startswith("fp16"):
            entry = found.setdefault(int(row["num_tokens"]), [None, {}])
            if row["format"] == "paper":
                entry[0] = row["baseline_ns_per_token"]
            if row["format"] in ("paper", "full_depth_4.25"):
                entry[1][row["format"]] = row["ns_per_token"]
    return [(n, *found[n]) for n in sorted(found) if found[n][0] and len(found[n][1]) == 2]


def length_table(points):
    formats = list(points[0][2])
    return lines_of(
        ["tokens", "fp16", *formats],
        [
            [f"{n:,}", f"{fp16:.2f}", *(f"{ours[form]:.2f}" for form in formats)]
            for n, fp16, ours in points
        ],
    )


def plot(points, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), dpi=150)
    tokens = [point[0] for point in points]
    axes.plot(tokens, [point[1] for point in points], "o-", color="#888888", label="fp16, by hand")
    for form, color in zip(points[0][2], ("#1f5fa8", "#c8553d")):
        axes.plot(tokens, [point[2][form] for point in points], "o-", color=color, label=form)
    axes.set_xscale("log", base=2)
    ticks = tokens[::2]
    axes.set_xticks(ticks)
    axes.set_xticklabels([f"{n >> 20} M" if n >= 1 << 20 else f"{n >> 10} K" for n in ticks])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens in the cache")
    axes.set_ylabel("ns per token")
    axes.set_title("Attention, one query, head_dim 128, one core")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


# ---- The page ----


def machine(context, rows):
    """Lines about what was measured on and how it was built."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    model = re.search(r"model name\s*:\s*(.*)", text)
    features = re.search(r"flags\s*:\s*(.*)", text)
    wanted = "avx2 f16c avx512f avx512_vbmi avx512_vbmi2 avx512_vnni avx512_bf16 avx512_fp16"
    have = [f for f in wanted.split() if features and f in features.group(1).split()]
    caches = ", ".join(
        f"L{cache['level']} {cache['size'] / 2**20:.3g} MiB"
        for cache in context["caches"]
        if cache["type"] != "Instruction"
    )
    huge = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    huge = re.search(r"\[(\w+)\]", huge.read_text(encoding="utf-8")) if huge.exists() else None
    streams = [row["stream_bytes_per_second"] for row in rows.values() if row["regime"] == "memory"]
    fetched = [row["fetched_bytes_per_second"] for row in rows.values() if row["regime"] == "memory"]
    lines = [
        f"- {model.group(1) if model else platform.machine()}, {context['num_cpus']} cores"
        f" at {context['mhz_per_cpu'] / 1000:.1f} GHz as the system tells; {caches}"
        f"; {' '.join(have)}",
        f"- {platform.system()} {platform.release().split('-')[0]}; transparent huge pages:"
        f" {huge.group(1) if huge else 'unknown'} (asked for by both sides)",
        f"- library: {context['compiler']}, `{context['flags']}`, no -m flag; Eigen's fp32: the"
        " same with `-O3 -march=native`; fp16: `-O3` by g++ and by clang++, the faster counts",
    ]
    if streams:
        middle = len(streams) // 2
        lines.append(
            f"- memory: {int(context['memory_bytes']) / 1e6:.0f} MB of keys, and as much of values,"
            f" on each side in rotation; a plain sum reads {sorted(streams)[middle] / 1e9:.1f} GB/s"
            f" meanwhile, with prefetching {sorted(fetched)[middle] / 1e9:.1f}"
        )
    lines.append(f"- load in the five minutes before the end, 1 is ours: {context['load']:.1f}")
    return lines + [""]


ABOUT = """\
Written by `make bench`. Every row takes turns with its baseline in the same seconds, 15 rounds of
turns of about 4 ms; times are medians, ratios medians of the rounds' ratios: below 1 we are faster.
Hot: one head again and again. Memory: heads in rotation. Times are per cached token and KV head,
all of its query heads served; for encode, decode and append per vector (append: key and value).
`error` is relative to double on the inputs, Gaussian keys, values and queries (for encode and
decode: the relative MSE); `of arithmetic` relative to double on the decoded vectors. Kernels that
say 16-bit run with `Arithmetic::kFixedPoint`.
"""


def page(context, rows, isa, plot_path, page_path):
    main = main_isa(rows, isa)
    ours = [row for row in rows.values() if is_ours(row) and row["num_tokens"] == "32768"]
    exact = [row for row in ours if not row["isa"].endswith("-16bit") and row["isa"] != main]
    # Without those that the other tables have.
    operations = [
        row
        for row in ours
        if (row["isa"], row["head_dim"], row["regime"]) == (main, "128", "hot")
        and (row["format"] == "paper" or row["operation"] not in ("scores", "attention"))
        and row["operation"] not in ("threads", "append", "growth")
    ]
    operations.sort(key=lambda row: row["operation"])
    lines = ["# Benchmarks", "", ABOUT, *machine(context, rows)]
    lines += ["## Goals", "", *goals(rows, main)]
    lines += ["## Widths and formats", "", "ns per token, hot (ratio to fp16).", ""]
    lines += widths(rows, main)
    lines += ["## Operations", "", *details(operations)]
    if exact:
        lines += ["## Exact arithmetic", "", *details(exact)]
    lines += ["## Other formats", "", *details(r for r in rows.values() if not is_ours(r))]
    points = lengths(rows, main)
    if points:
        image = os.path.relpath(plot_path, page_path.parent)
        lines += ["## Length of the cache", "", f"![ns per token by cache length]({image})", ""]
        lines += length_table(points)
    return "\n".join(lines).rstrip() + "\n"


def is_ours(row):
    return row["format"] == "paper" or row["format"].startswith("full_depth")


def main_isa(rows, isa):
    """The instruction set as the rows with 16-bit arithmetic call it."""
    return f"{isa}-16bit" if any(row["isa"] == f"{isa}-16bit" for row in rows.values()) else isa


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--quick", action="store_true", help="the table of goals alone")
    parser.add_argument("--filter", help="a regular expression of row names")
    parser.add_argument("--rows", type=pathlib.Path, help="a file of rows, instead of a run")
    parser.add_argument("--page", type=pathlib.Path, default=pathlib.Path("docs/benchmarks.md"))
    parser.add_argument(
        "--plot", type=pathlib.Path, default=pathlib.Path("docs/images/time_by_length.png")
    )
    options = parser.parse_args()
    arguments = ["--quick"] if options.quick else []
    if options.filter:
        arguments.append(f"--benchmark_filter={options.filter}")
    rows_path = options.rows or pathlib.Path("out/bench/rows.json")
    if options.rows is None:
        run(options.program, arguments, rows_path)
    context, rows = read(rows_path)
    isa = context["isa"]
    if options.filter:
        print("\n".join(details(rows.values())))
        return
    print("\n".join(machine(context, rows) + goals(rows, main_isa(rows, isa))))
    if options.quick:
        return
    options.page.write_text(page(context, rows, isa, options.plot, options.page), encoding="utf-8")
    plot(lengths(rows, main_isa(rows, isa)), options.plot)
    print(f"wrote {options.page} and {options.plot}")


if __name__ == "__main__":
    sys.exit(main())
