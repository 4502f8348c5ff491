#!/ usr / bin / env python3
"""Draws what the demo wrote: angles.png, mse_vs_bits.png and, with a calibration, channels.png.

usage: plot.py FOLDER
"""
import csv
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

PLAIN = "#c9a06a"
ROTATED = "#3b75af"
LAW = "#111111"
QUERIES = "#b5313a"
#Of each kind of row : its marker, colour, and where its label stands from it, in points.Labels of
#full_depth stand below the curve, the others above it.
STYLES = {
    "q4_0": ({"marker": "D", "markersize": 7, "zorder": 3}, "#d4761c", (8, 1)),
    "scalar": (
        {"marker": "^", "markersize": 12, "markerfacecolor": "none", "zorder": 4},
        "#2f8f4e",
        (6, 9),
    ),
    "paper": ({"marker": "*", "markersize": 13, "zorder": 3}, "#b5313a", (8, 3)),
    "full_depth": ({"marker": "o", "markersize": 7, "zorder": 3}, ROTATED, (-7, -7)),
}


def read(path):
    with open(path, newline="", encoding="ascii") as file:
        return list(csv.DictReader(file))


def column(rows, name):
    return np.array([float(row[name]) for row in rows])


def angle_ticks(axis, upper):
    if upper > 4:
        axis.set_xticks([0, np.pi / 2, np.pi, 3 * np.pi / 2, 2 * np.pi])
        axis.set_xticklabels(["0", "$\\pi/2$", "$\\pi$", "$3\\pi/2$", "$2\\pi$"])
    else:
        axis.set_xticks([0, np.pi / 8, np.pi / 4, 3 * np.pi / 8, np.pi / 2])
        axis.set_xticklabels(["0", "$\\pi/8$", "$\\pi/4$", "$3\\pi/8$", "$\\pi/2$"])


def plot_angles(folder):
    rows = read(folder / "angles.csv")
    levels = sorted({int(row["level"]) for row in rows})
    num_columns = min(3, len(levels))
    num_lines = -(-len(levels) // num_columns)
    figure, axes = plt.subplots(
        num_lines, num_columns, figsize=(4.1 * num_columns, 3.2 * num_lines), squeeze=False
    )
    for axis in axes.flat[len(levels) :]:
        axis.set_visible(False)
    for level, axis in zip(levels, axes.flat):
        own = [row for row in rows if int(row["level"]) == level]
        angle = column(own, "angle")
        half = (angle[1] - angle[0]) / 2
        edges = np.append(angle - half, angle[-1] + half)
        plain = column(own, "without_rotation")
        rotated = column(own, "with_rotation")
        axis.stairs(plain, edges, fill=True, color=PLAIN, alpha=0.55, label="without rotation")
        axis.stairs(rotated, edges, color=ROTATED, linewidth=1.6, label="after one random rotation")
        axis.plot(
            angle, column(own, "exact"), color=LAW, linewidth=1.2, linestyle=(0, (4, 2)),
            label="exact density",
        )
        axis.set_title(f"level {level}")
        axis.set_xlim(0, edges[-1])
        axis.set_ylim(0, 1.12 * max(plain.max(), rotated.max(), column(own, "exact").max()))
        axis.set_xlabel("angle [rad]")
        angle_ticks(axis, edges[-1])
    for axis in axes[:, 0]:
        axis.set_ylabel("density [1/rad]")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.suptitle("Polar angles of the sample's keys", fontsize=13)
    figure.text(
        0.5, 0.012,
        "The density is exact for every key, over all rotations. This is one rotation: what the keys "
        "have in common, such as their mean, leaves ripples in it.",
        ha="center", fontsize=9, color="#555555",
    )
    figure.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.95), ncol=3, frameon=False
    )
    figure.tight_layout(rect=(0, 0.03, 1, 0.93))
    figure.savefig(folder / "angles.png", dpi=130)


def label_of(row):
    return row["format"].replace(" + Hadamard", "\n+ Hadamard").replace("scalar Lloyd-Max, ", "scalar, ")


def plot_point(axis, row, bits, mse):
    kind = next((k for k in STYLES if row["format"].startswith(k)), "paper")
    style, color, offset = STYLES[kind]
    axis.plot(bits, mse, color=color, linestyle="none", markeredgecolor=color, **style)
    axis.annotate(
        label_of(row), (bits, mse), xytext=offset, textcoords="offset points",
        ha="right" if offset[0] < 0 else "left", va="top" if offset[1] < 0 else "bottom",
        fontsize=9, color=color, linespacing=1.1,
    )


def plot_side(axis, rows, law, side):
    own_law = [row for row in law if row["side"] == side]
    bits = column(own_law, "bits_per_coordinate")
    axis.plot(
        bits, column(own_law, "relative_mse"), color=ROTATED, linewidth=1.3, zorder=1,
        label="full_depth: exact expectation",
    )
    axis.set_yscale("log")
    axis.set_xlim(bits[0] - 0.15, bits[-1] + 0.35)
    axis.set_ylim(bottom=column(own_law, "relative_mse").min() / 2.2)
    beyond = []
    for row in rows:
        mse = float(row[f"{side[:-1]}_mse"])
        # fp16 is exact, or nearly so; what is centred has its error in what the centre leaves.
        if mse < 1e-6 or "defaults" in row["format"]:
            continue
        row_bits = float(row["bits_per_coordinate"])
        if row_bits > bits[-1] + 0.35:
            beyond.append(f"{row['format']}: {row_bits:g} bits, {mse:.2g}")
        else:
            plot_point(axis, row, row_bits, mse)
    if beyond:
        axis.annotate(
            "\n".join(beyond), (0.985, 0.05), xytext=(-34, 0), xycoords="axes fraction",
            textcoords="offset points", ha="right", va="center", fontsize=9, color="#8c564b",
            arrowprops={"arrowstyle": "->", "color": "#8c564b"},
        )
    axis.set_xlabel("bits per coordinate")
    axis.set_title(side)
    axis.yaxis.set_tick_params(labelleft=True)
    axis.grid(True, which="both", color="#e6e6e6", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.legend(loc="upper right", frameon=False, fontsize=9)


def plot_mse(folder):
    rows = read(folder / "table.csv")
    law = read(folder / "law.csv")
    figure, axes = plt.subplots(1, 2, figsize=(12.5, 5.4), sharey=True)
    for axis, side in zip(axes, ("keys", "values")):
        plot_side(axis, rows, law, side)
    axes[0].set_ylabel("relative MSE of the decoded vectors")
    figure.suptitle("Error against size: points are measured on the sample", fontsize=13)
    figure.tight_layout()
    figure.savefig(folder / "mse_vs_bits.png", dpi=130)


def plot_channels(folder):
    rows = read(folder / "channels.csv")
    channels = column(rows, "channel")
    queries = column(rows, "query_energy")
    figure, (energy, error) = plt.subplots(2, 1, figsize=(10, 6.6), sharex=True)
    energy.semilogy(channels, queries, color=QUERIES, marker=".", label="queries")
    energy.semilogy(
        channels, column(rows, "key_energy"), color=ROTATED, marker=".",
        label="keys, less their centres",
    )
    energy.set_ylabel("mean square")
    energy.set_title("Queries do not look where keys are large", fontsize=11)
    plain, calibrated = queries * column(rows, "error"), queries * column(rows, "calibrated_error")
    error.bar(channels, plain, color=PLAIN, width=0.9, label=f"without: {plain.sum():.2g} in all")
    error.bar(
        channels, calibrated, color=ROTATED, width=0.5,
        label=f"with a calibration: {calibrated.sum():.2g}",
    )
    error.set_ylabel("query energy x key error")
    error.set_xlabel("channel (pairs of RoPE are neighbours)")
    error.set_title("Squared error of a score, by the channel it comes from", fontsize=11)
    for axis in (energy, error):
        axis.legend(frameon=False, fontsize=9)
        axis.grid(True, axis="y", color="#e6e6e6", linewidth=0.6)
        axis.set_axisbelow(True)
    figure.suptitle(f"Layer {rows[0]['layer']}, KV head 0, full_depth 3.25", fontsize=13)
    figure.tight_layout()
    figure.savefig(folder / "channels.png", dpi=130)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip().splitlines()[-1])
    folder = pathlib.Path(sys.argv[1])
    try:
        plot_angles(folder)
        plot_mse(folder)
        plots = ["angles.png", "mse_vs_bits.png"]
        if (folder / "channels.csv").exists():
            plot_channels(folder)
            plots.append("channels.png")
    except FileNotFoundError as error:
        sys.exit(f"plot.py: {error.filename} is not there: run polarquant_demo --out {folder} first")
    print("\nplots: " + ", ".join(str(folder / plot) for plot in plots))


if __name__ == "__main__":
    main()
