#!/usr/bin/env python3
"""Tables and plots of docs/results.md from what measure.sh measured.

  report.py out/llama docs/results.md

Replaces what stands between the lines `<!-- NAME -->` and `<!-- end -->` by the table NAME, and writes
the plots to the folder images beside it.
"""

import json
import math
import os
import re
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

PEER = "llama.cpp q4_0 + Hadamard"
TOKENS = (256, 1024, 4096, 16384)  # of calibrations, as measure.sh has them
COLORS = {"calibrated": "#1f5fa8", "defaults": "#7fb0e0", "scalar": "#888888", "llama.cpp": "#c8553d"}


def load(folder, name):
    with open(os.path.join(folder, name + ".json")) as file:
        return json.load(file)


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def difference(row, peer):
    """Mean difference of the windows' divergences and its standard error."""
    delta = np.array(row["window_divergences"]) - np.array(peer["window_divergences"])
    return delta.mean(), delta.std(ddof=1) / math.sqrt(len(delta)) if len(delta) > 1 else math.nan


def quality_table(measured, rows=None, peer=None):
    """One line a row: bits, perplexity, divergence, and the paired difference to q4_0."""
    rows = measured["rows"] if rows is None else rows
    if peer is None:
        peer = next((row for row in measured["rows"] if row["name"] == PEER), None)
    plain = measured["fp16"]
    header = ["format", "bits, K / V", "perplexity", "to fp16", "KL divergence, mean", "99 %", "99.9 %",
              "same top token"]
    if peer:
        header.append("KL less q4_0's (standard error)")
    lines = [["fp16", "16 / 16", f"{plain['perplexity']:.3f}", "", "0", "0", "0", "100 %"]
             + ([""] if peer else [])]
    for row in rows:
        line = [row["name"], f"{row['key_bits']:.4g} / {row['value_bits']:.4g}",
                f"{row['perplexity']:.3f}",
                f"{100 * (row['perplexity'] / plain['perplexity'] - 1):+.1f} %",
                f"{row['mean_divergence']:.4f}", f"{row['percentile99_divergence']:.2f}",
                f"{row['percentile999_divergence']:.2f}",
                f"{100 * row['same_top']:.1f} %"]
        if peer:
            mean, error = difference(row, peer)
            line.append("" if row is peer else f"{mean:+.4f} ({error:.4f})")
        lines.append(line)
    return table(header, lines)


def setting_table(measured):
    """Settings at two sizes beside each other."""
    by_name = {row["name"]: row for row in measured["rows"]}
    lines = []
    for name in [row["name"] for row in measured["rows"] if row["group"] == "full_depth 3.25"]:
        what = name.split(", ", 1)[1]
        line = [what]
        for codec in ("full_depth 3.25", "full_depth 4.25"):
            row = by_name[f"{codec}, {what}"]
            line += [f"{row['mean_divergence']:.4f}", f"{row['perplexity']:.2f}",
                     f"{100 * row['same_top']:.1f} %"]
        lines.append(line)
    return table(["setting", "3.25 bits: KL", "perplexity", "same top", "4.25 bits: KL",
                  "perplexity", "same top"], lines)


def seed_table(measured):
    lines = []
    for group in dict.fromkeys(row["group"] for row in measured["rows"]):
        rows = [row for row in measured["rows"] if row["group"] == group]
        divergences = [row["mean_divergence"] for row in rows]
        perplexities = [row["perplexity"] for row in rows]
        lines.append([group, " ".join(f"{d:.4f}" for d in divergences),
                      f"{np.mean(divergences):.4f} +- {np.std(divergences, ddof=1):.4f}",
                      f"{min(perplexities):.2f} .. {max(perplexities):.2f}"])
    return table(["format", "KL divergence by seed", "mean +- standard deviation", "perplexity"],
                 lines)


def worst_table(layers, heads):
    """The layers and heads that cost most when they alone are compressed."""
    lines = []
    for side in ("keys", "values"):
        worst = sorted((row for row in layers["rows"] if row["group"] == side),
                       key=lambda row: -row["mean_divergence"])[:5]
        worst_heads = sorted((row for row in heads["rows"] if row["group"] == side),
                             key=lambda row: -row["mean_divergence"])[:5]
        total = sum(row["mean_divergence"] for row in layers["rows"] if row["group"] == side)
        lines.append([side, f"{total:.4f}",
                      ", ".join(f"{row['layer']:.0f} ({row['mean_divergence']:.4f})"
                                for row in worst),
                      ", ".join(f"{row['layer']:.0f}.{row['head']:.0f}"
                                f" ({row['mean_divergence']:.4f})" for row in worst_heads)])
    return table(["side", "KL, sum over the layers", "worst layers (KL when it alone is compressed)",
                  "worst heads, layer.head"], lines)


def needle_table(cells):
    formats = list(dict.fromkeys(cell["format"] for cell in cells))
    found = {(cell["context"], cell["depth"]) for cell in cells
             if cell["format"] == "fp16" and cell["greedy"]}
    lines = []
    for name in formats:
        own = [cell for cell in cells if cell["format"] == name]
        kept = sum(1 for cell in own
                   if cell["greedy"] and (cell["context"], cell["depth"]) in found)
        lines.append([name, f"{sum(cell['greedy'] for cell in own):.0f} of {len(own)}",
                      f"{kept} of {len(found)}",
                      f"{np.mean([cell['log_probability'] for cell in own]):.2f}",
                      f"{min(cell['log_probability'] for cell in own):.2f}"])
    return table(["format", "cells found by greedy decoding", "of those that fp16 finds",
                  "log-probability of the digits, mean, nats", "worst cell"], lines)


def speed_table(rows):
    lines = []
    base = {}
    for row in rows:
        if row["engine"] == "polarquant" and row["format"] == "fp16":
            base[row["context"]] = row["tokens_per_second"]
    for row in rows:
        lines.append([f"{row['context']:.0f}", row["engine"], row["format"],
                      f"{row['tokens_per_second']:.1f}",
                      f"{row['tokens_per_second'] / base[row['context']]:.2f}",
                      f"{row['prompt_tokens_per_second']:.0f}", f"{row['cache_bytes'] / 1e6:.1f}",
                      f"{row['cache_bytes'] / row['float16_bytes']:.3f}",
                      f"{row['resident_bytes'] / 1e6:.0f}"])
    return table(["context", "engine", "cache", "tokens/s, decoding", "to our fp16",
                  "tokens/s, prompt", "cache, MB", "of fp16's bytes", "resident, MB"], lines)


def plot_quality(measured, path):
    figure, axes = plt.subplots(figsize=(8, 5))
    for group, label, pick in (
            ("calibrated", "polar codes, defaults and a calibration", "full_depth"),
            ("defaults", "polar codes, defaults", "full_depth"),
            ("defaults", "scalar Lloyd-Max, the same defaults", "unbiased_scalar")):
        rows = sorted((row for row in measured["rows"]
                       if row["group"] == group and row["name"].startswith(pick)
                       and "matrices" not in row["name"]),
                      key=lambda row: row["key_bits"])
        color = COLORS["scalar"] if "scalar" in pick else COLORS[group]
        axes.plot([row["key_bits"] for row in rows], [row["mean_divergence"] for row in rows],
                  "o-", label=label, color=color)
    paper = [row for row in measured["rows"]
             if row["name"].startswith("paper") and "matrices" not in row["name"]]
    axes.plot([row["key_bits"] for row in paper], [row["mean_divergence"] for row in paper], "s",
              color="#2b8a3e", label="paper's format, without and with a calibration")
    for row in measured["rows"]:
        if row["group"] != "llama.cpp":
            continue
        axes.plot(row["key_bits"], row["mean_divergence"], "D", color=COLORS["llama.cpp"])
        is_right = row["key_bits"] > 8
        axes.annotate(row["name"], (row["key_bits"], row["mean_divergence"]),
                      xytext=(-10 if is_right else 8, -3), textcoords="offset points", fontsize=9,
                      color=COLORS["llama.cpp"], ha="right" if is_right else "left")
    axes.set_yscale("log")
    axes.set_xlabel("stored bits per coordinate, keys and values alike")
    axes.set_ylabel("KL divergence to the fp16 cache, nats per token")
    axes.set_title("SmolLM2-135M, WikiText-2, windows of 512 tokens")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, loc="lower left")
    save(figure, path)


def text_table(folder):
    """How much text a calibration needs: 3.25 bits, the first ten windows."""
    lines = []
    for name, what in [(f"tokens_{n}", f"{n:,} tokens of all texts") for n in TOKENS] + [
            ("one_text", "16,384 tokens of one text")]:
        rows = load(folder, name)["rows"]
        line = [what] + [f"{row['mean_divergence']:.4f}" for row in rows]
        for row, peer in ((rows[1], rows[0]), (rows[2], rows[1])):
            mean, error = difference(row, peer)
            line.append(f"{mean:+.4f} ({error:.4f})")
        lines.append(line)
    return table(["calibration from", "KL without", "with scales", "with matrices",
                  "scales less none (standard error)", "matrices less scales"], lines)


def plot_texts(folder, path):
    runs = [load(folder, f"tokens_{n}")["rows"] for n in TOKENS]
    figure, axes = plt.subplots(figsize=(7, 4))
    for i, what, style in ((1, "scales", "o-"), (2, "matrices", "s--")):
        axes.plot(TOKENS, [rows[i]["mean_divergence"] for rows in runs], style,
                  color=COLORS["calibrated"], label="with " + what)
    axes.axhline(runs[0][0]["mean_divergence"], color=COLORS["defaults"], label="without")
    axes.set_xscale("log")
    axes.set_xticks(TOKENS, [f"{n:,}" for n in TOKENS])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens of the calibration")
    axes.set_ylabel("KL divergence, nats per token")
    axes.set_title("full_depth 3.25, ten windows of 512 tokens")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def plot_layers(layers, path):
    figure, axes = plt.subplots(figsize=(9, 4))
    for side, offset, color in (("keys", -0.2, "#1f5fa8"), ("values", 0.2, "#c8553d")):
        rows = [row for row in layers["rows"] if row["group"] == side]
        axes.bar([row["layer"] + offset for row in rows], [row["mean_divergence"] for row in rows],
                 0.4, color=color, label=side)
    axes.set_xlabel("layer")
    axes.set_ylabel("KL divergence, nats per token")
    axes.set_title("One layer's keys or values alone at 3.25 bits")
    axes.grid(alpha=0.3, axis="y")
    axes.legend()
    save(figure, path)


def plot_needle(cells, path):
    formats = list(dict.fromkeys(cell["format"] for cell in cells))
    contexts = sorted({cell["context"] for cell in cells})
    depths = sorted({cell["depth"] for cell in cells})
    figure, all_axes = plt.subplots(1, len(formats), figsize=(3.1 * len(formats), 3.6),
                                    layout="constrained")
    for axes, name in zip(np.atleast_1d(all_axes), formats):
        grid = np.full((len(depths), len(contexts)), np.nan)
        for cell in cells:
            if cell["format"] != name:
                continue
            i, j = depths.index(cell["depth"]), contexts.index(cell["context"])
            grid[i, j] = cell["log_probability"]
            axes.text(j, i, f"{cell['log_probability']:.1f}" + ("" if cell["greedy"] else " x"),
                      ha="center", va="center", fontsize=7,
                      color="white" if cell["log_probability"] < -4 else "black")
        image = axes.imshow(grid, vmin=-8, vmax=0, cmap="RdYlGn", aspect="auto")
        axes.set_xticks(range(len(contexts)), [f"{c:.0f}" for c in contexts], fontsize=8)
        axes.set_yticks(range(len(depths)), [f"{d:.0f} %" for d in depths], fontsize=8)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("context, tokens", fontsize=8)
    np.atleast_1d(all_axes)[0].set_ylabel("depth of the passkey", fontsize=8)
    figure.colorbar(image, ax=all_axes, label="log-probability, nats; x: not found", shrink=0.9)
    save(figure, path)


def plot_speed(rows, path):
    figure, axes = plt.subplots(figsize=(9, 4.5))
    labels = {"polarquant": "our engine", "llama.cpp": "llama.cpp"}
    for engine, style in (("polarquant", "o-"), ("llama.cpp", "D--")):
        for name in dict.fromkeys(row["format"] for row in rows if row["engine"] == engine):
            own = [row for row in rows if row["engine"] == engine and row["format"] == name]
            axes.plot([row["context"] for row in own], [row["tokens_per_second"] for row in own],
                      style, label=f"{labels[engine]}, {name}" +
                      (" bits" if name.replace(".", "").isdigit() else ""))
    contexts = sorted({row["context"] for row in rows})
    axes.set_xscale("log")
    axes.set_xticks(contexts, [f"{c:,.0f}" for c in contexts])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("context, tokens")
    axes.set_ylabel("tokens per second, decoding")
    axes.set_title("SmolLM2-135M (Q4_1 weights), two threads")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    save(figure, path)


def save(figure, path):
    if figure.get_layout_engine() is None:
        figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def insert(text, name, content):
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(text):
        sys.exit(f"report.py: there is no place for the table '{name}'")
    return pattern.sub(lambda match: match.group(1) + content + "\n" + match.group(2), text)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, path = sys.argv[1:]
    images = os.path.join(os.path.dirname(path), "images")
    measured = load(folder, "main")
    peer = next(row for row in measured["rows"] if row["name"] == PEER)
    by_layer = []
    for bits in ("3.25", "4.25"):
        row = load(folder, "by_layer_" + bits)["rows"][-1]
        by_layer.append(dict(row, name=f"full_depth {bits} on average by layer, calibrated with matrices"))
    settings, layers = load(folder, "settings"), load(folder, "layers")
    cells = load(folder, "needle")["cells"] + load(folder, "needle_long")["cells"]
    with open(os.path.join(folder, "speed.jsonl")) as file:
        speed = [json.loads(line) for line in file]
    with open(path) as file:
        text = file.read()
    text = insert(text, "quality", quality_table(measured, measured["rows"] + by_layer, peer))
    text = insert(text, "settings", setting_table(settings))
    text = insert(text, "mixed", quality_table(
        settings, [row for row in settings["rows"] if row["group"] == "mixed"]))
    text = insert(text, "seeds", seed_table(load(folder, "seeds")))
    text = insert(text, "long", quality_table(load(folder, "long")))
    text = insert(text, "fitted", quality_table(load(folder, "fitted")))
    text = insert(text, "texts", text_table(folder))
    text = insert(text, "worst", worst_table(layers, load(folder, "heads")))
    text = insert(text, "needle", needle_table(cells))
    text = insert(text, "speed", speed_table(speed))
    plot_quality(measured, os.path.join(images, "kl_by_bits.png"))
    plot_texts(folder, os.path.join(images, "kl_by_calibration.png"))
    plot_layers(layers, os.path.join(images, "kl_by_layer.png"))
    plot_needle(cells, os.path.join(images, "needle.png"))
    plot_speed(speed, os.path.join(images, "engine_speed.png"))
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    main()
