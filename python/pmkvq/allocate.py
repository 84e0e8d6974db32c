"""Which layer gets which bits under a budget: python -m pmkvq allocate.

    python -m pmkvq allocate calibration.json --kv-budget=64MiB --tokens=8192

Prints each layer's floors as pmkvq-run --layer-floors takes them. Neighbours:
allocation.py (the integer program), guardrail.py (what is refused),
calibration_file.py.
"""

from __future__ import annotations

import argparse
import math
import re
import sys

import numpy as np

from pmkvq import allocation, calibration_file, guardrail
from pmkvq.errors import FileError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "kib": 2**10, "mb": 10**6, "mib": 2**20, "gb": 10**9, "gib": 2**30}


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", text)
    if not match or match[2].lower() not in _UNITS or int(float(match[1]) * _UNITS[match[2].lower()]) < 1:
        raise argparse.ArgumentTypeError(f"expected a size, like 300000, 3500KiB or 1.5GB, got '{text}'")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _loss(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, nats a token, got '{text}'")
    return value


def _megabytes(text: str) -> int:
    return _size(text + "MB") if text else _size(text)


def _lengths(text: str) -> list[int]:
    if not re.fullmatch(r"[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*", text):
        raise argparse.ArgumentTypeError(f"expected token counts, like 8192 or 400,8192, got '{text}'")
    return [int(part) for part in text.split(",")]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; the paper's names of options mean the same."""
    parser = argparse.ArgumentParser(prog="pmkvq allocate", description=__doc__.splitlines()[0],
                                     allow_abbrev=False)
    add = parser.add_argument
    add("file", nargs="?", metavar="FILE", help="what calibrate wrote")
    add("--sensitivity_path", "--sensitivity-path", dest="path", help=argparse.SUPPRESS)
    add("--kv-budget", type=_size, dest="budget", metavar="SIZE", help="bytes of all caches, everything counted")
    add("--memory_budget", "--memory-budget", type=_megabytes, dest="budget", help=argparse.SUPPRESS)
    add("--tokens", "--max_len", "--max-len", type=_lengths, required=True, metavar="N[,N...]",
        help="tokens that each sequence has cached at its end")
    add("--levels", "--fbit_choices", "--fbit-choices", default="16,8,4,2", metavar="LIST",
        help="the highest and the lowest of these bound what is chosen (default 16,8,4,2)")
    add("--max-loss", type=_loss, metavar="KL",
        help=f"nats a token that the floors may lose by calibration (default {guardrail.MAX_LOSS})")
    add("--accept-loss", action="store_true", help="print floors whatever they lose")
    options = parser.parse_args(arguments)
    options.file = options.file or options.path
    if options.accept_loss and options.max_loss is not None:
        parser.error("expected one of --max-loss and --accept-loss")
    if not options.file or not options.budget:
        parser.error("expected a FILE and --kv-budget")
    levels = options.levels.split(",")
    if not set(levels) <= {"16", "8", "4", "2"}:
        parser.error(f"--levels: expected some of 16, 8, 4 and 2, got '{options.levels}'")
    options.levels = [int(level) for level in levels]
    return options


def parse_floors(text: str, layers: int, floor: int) -> list[tuple[int, int]]:
    """What pmkvq-run --layer-floors=TEXT --floor=FLOOR means: bits of keys and values a layer. Raises ValueError."""
    floors = [(floor, floor)] * layers
    for part in text.split(",") if text else ():
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?:(16|8|4|2)(?:\+(16|8|4|2))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise ValueError("expected layers and 16, 8, 4 or 2 bits, like 0-3:8, or those of keys and values, like "
                             f"5:4+2, got '{part}'")
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= layers:
            raise ValueError(f"expected layers 0 to {layers - 1}, got '{part}'")
        floors[first:last + 1] = [(int(match[3]), int(match[4] or match[3]))] * (last + 1 - first)
    return floors


def floors_text(levels) -> str:
    """[layers, 2] as pmkvq-run --layer-floors takes it; equal neighbours are one range."""
    ranges: list[list] = []
    for layer, (key, value) in enumerate(np.asarray(levels).tolist()):
        bits = str(key) if key == value else f"{key}+{value}"
        if ranges and ranges[-1][2] == bits:
            ranges[-1][1] = layer
        else:
            ranges.append([layer, layer, bits])
    return ",".join(f"{first}:{bits}" if first == last else f"{first}-{last}:{bits}"
                    for first, last, bits in ranges)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    try:
        calibration = calibration_file.read(options.file)
        model = calibration.document["model"]
        geometry = allocation.Geometry(model["layers"], model["kv_heads"], model["head_dim"],
                                       formats=calibration.formats())
        blocks = geometry.blocks(options.budget, options.tokens)
        losses = calibration.losses()
        levels = allocation.allocate(losses, blocks, min(options.levels), max(options.levels))
        if not options.accept_loss:
            guardrail.check(calibration, levels, options.max_loss)
    except (FileError, allocation.Infeasible, guardrail.LossError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(floors_text(levels))
    print(f"loss {allocation.loss_of(losses, levels):.6g}; {(levels // 2).sum()} of {blocks} blocks a page",
          file=sys.stderr)
    return 0
