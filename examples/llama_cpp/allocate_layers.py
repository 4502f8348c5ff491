#!/usr/bin/env python3
"""Gives each layer's keys and values as many bits as they need.

  allocate_layers.py layers.json BITS > formats.txt

Reads what `llama_eval --rows layers` measured: the divergence s when one side of one layer alone is
compressed. Error falls by a factor of four a bit, so the sum of s * 4^-b within a mean of BITS bits is
least for b = BITS + log4(s / geometric mean of s). Steps of one byte per vector, taken greedily:
each goes where it lowers the sum most. Prints a line for each layer, KEYS/VALUES, for
`llama_eval --layer-formats`. Measure the layers on another text than the one you judge by.
"""

import json
import sys

LEAST, MOST = 2.0, 5.5  # bits per coordinate


def allocate(sensitivities, bits, head_dim):
    step = 8.0 / head_dim
    given = {side: LEAST for side in sensitivities}
    budget = round((bits - LEAST) / step) * len(sensitivities)
    for _ in range(budget):
        open_sides = [side for side in given if given[side] + step <= MOST]
        best = max(open_sides, key=lambda side: sensitivities[side] * 4.0 ** -given[side])
        given[best] += step
    return given


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1]) as file:
        measured = json.load(file)
    sensitivities = {(int(row["layer"]), row["group"]): max(row["mean_divergence"], 1e-9)
                     for row in measured["rows"] if row["layer"] >= 0 and row["head"] < 0}
    given = allocate(sensitivities, float(sys.argv[2]), measured["head_dim"])
    for layer in range(measured["num_layers"]):
        print(f"full_depth {given[layer, 'keys']:g}/full_depth {given[layer, 'values']:g}")


if __name__ == "__main__":
    main()
