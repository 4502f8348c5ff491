#!/usr/bin/env python3
"""Decodes trellis codes from docs/format.md alone, and compares with what the library decodes."""

import pathlib
import re
import struct
import sys

root = pathlib.Path(__file__).resolve().parent.parent
text = (root / "include/polarquant/trellis/trellis_tables.hpp").read_text()
tables = {}
for bits, memory, step in re.findall(r"kTrellisTable\d = \{(\d), (\d), ([\d.e-]+),", text):
    values = re.search(r"kTrellisValues%s\[\] = \{([^}]*)\}" % bits, text).group(1)
    tables[int(bits)] = (int(memory), float(step), [int(v) for v in values.split(",")])


def decode(code, width, bits):
    norm = struct.unpack("<f", b"\0\0" + code[:2])[0]
    unit = 8 if width < 32 else 16
    fewer = -(-width // (2 * unit)) * unit
    rate = lambda i: int(bits) + (bits % 1 != 0 and i >= fewer)
    sizes = [min(8, width - first) for first in range(0, width, 8)]
    lengths = [n if bits == 8 else 1 + -(-n * (rate(8 * g) - 1) // 8) for g, n in enumerate(sizes)]
    place, numbers, low = 2, [], 0
    groups = [0] * len(sizes)
    for even in range(0, len(sizes), 2):
        pair = range(even, min(even + 2, len(sizes)))
        for byte, group in sorted((b, g) for g in pair for b in range(lengths[g])):
            groups[group] |= code[place] << 8 * byte
            place += 1
    for i in range(width):
        stream, j, b = groups[i // 8], i % 8, rate(i)
        if bits == 8:
            numbers.append(norm * struct.unpack("b", bytes([stream >> 8 * j & 255]))[0])
            continue
        memory, step, values = tables[b]
        low = low >> 1 | (stream >> j & 1) << 15
        high = stream >> 8 + (b - 1) * j & (1 << b - 1) - 1
        numbers.append(norm * step * values[high << memory + 1 | low >> 15 - memory])
    return numbers


for line in (root / "tests/saved/trellis_codes.txt").read_text().splitlines():
    width, bits, code, *expected = line.split()
    for own, right in zip(decode(bytes.fromhex(code), int(width), float(bits)), map(float, expected), strict=True):
        if abs(own - right) > 1e-6 * abs(right):
            sys.exit(f"{width} wide, {bits} bits: {own} in place of {right}")
