"""What `pmkvq eval` keeps of a method, and how it prints it.

A record is one line of JSON. Its "settings" say all that its figures depend on: a record
with equal settings is not computed again. Neighbours: evaluate.py.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from pmkvq.errors import FileError

# Positions at which texts are cut for a table.
_EDGES = (0, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_QUARTERS = 4


@functools.cache
def digest_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def digest_model(folder: Path) -> str:
    """Of config and weights."""
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256("".join(map(digest_file, files)).encode()).hexdigest()[:16]


class Records:
    """The lines of an output file, or of none. Raises FileError, OSError."""

    def __init__(self, path: str | None):
        self._path = Path(path) if path else None
        self._records: list[dict] = []
        if self._path and self._path.exists():
            for number, line in enumerate(self._path.read_text(encoding="utf-8").splitlines(), 1):
                self._records.append(self._read(number, line))

    def _read(self, number: int, line: str) -> dict:
        try:
            record = json.loads(line)
            if isinstance(record["settings"], dict):
                return record
        except (ValueError, KeyError, TypeError):
            pass
        raise FileError(f"{self._path}:{number}", "line", "a record of pmkvq eval", line)

    def find(self, settings: dict) -> dict | None:
        return next((record for record in self._records if record["settings"] == settings), None)

    def add(self, record: dict) -> None:
        """Keeps it; the file is written anew and then renamed."""
        self._records.append(record)
        if not self._path:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(self._path.name + ".partial")
        partial.write_text("".join(json.dumps(known) + "\n" for known in self._records), encoding="utf-8")
        os.replace(partial, self._path)


def summarize_programs(found: list[list[int]], answers: list[list[int]]) -> dict:
    """Tokens that are right at their place, exact programs, and where each first goes wrong."""
    total = right = exact = 0
    first_wrong, quarters = [], np.zeros((_QUARTERS, 2), int)
    for tokens, answer in zip(found, answers, strict=True):
        hits = np.zeros(len(answer), bool)
        hits[:len(tokens)] = np.array(tokens[:len(answer)]) == answer[:len(tokens)]
        total += len(hits)
        right += int(hits.sum())
        exact += bool(hits.all())
        first_wrong.append(None if hits.all() else int(np.argmin(hits)))
        quarter = np.arange(len(hits)) * _QUARTERS // len(hits)
        counts = [np.bincount(quarter, hits, _QUARTERS), np.bincount(quarter, None, _QUARTERS)]
        quarters += np.stack(counts, 1).astype(int)
    return {"programs": len(answers), "exact": exact, "tokens": total, "right": right,
            "right_by_quarter": [int(a) / int(b) for a, b in quarters if b], "first_wrong": first_wrong}


def summarize_texts(kl: list[np.ndarray], same: list[np.ndarray]) -> dict:
    """Means over all positions, of each text, and of positions from one edge to the next."""
    buckets = []
    for begin, end in zip(_EDGES, _EDGES[1:]):
        here = [text[begin:end] for text in kl]
        if sum(map(len, here)):
            buckets.append({"from": begin, "to": min(end, max(map(len, kl))), "kl": float(np.concatenate(here).mean()),
                            "same_top": float(np.concatenate([text[begin:end] for text in same]).mean())})
    return {"kl": float(np.concatenate(kl).mean()), "same_top": float(np.concatenate(same).mean()),
            "positions": sum(map(len, kl)),
            "texts": [{"kl": float(a.mean()), "same_top": float(b.mean()), "positions": len(a)}
                      for a, b in zip(kl, same)],
            "by_position": buckets}


def print_table(records: list[dict]) -> None:
    """Bytes are the peak a sequence, everything counted."""
    programs = "accuracy" in records[0]
    header = ["method", "KiB a sequence", "of bf16", "bits at the end"]
    if programs:
        header += ["tokens right", "programs exact"]
    else:
        buckets = records[0]["divergence"]["by_position"]
        header += ["mean KL", "same top", *(f"KL {b['from']}-{b['to']}" for b in buckets)]
    rows = [header, *(_row(record, programs) for record in records)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    for row in rows:
        print("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))), flush=True)


def _row(record: dict, programs: bool) -> list[str]:
    cache = record["cache"]
    row = [record["settings"]["method"], f"{cache['peak'] / cache['sequences'] / 1024:,.0f}",
           f"{100 * cache['peak'] / cache['bf16']:.1f} %", f"{cache['bits']:.3f}"]
    if programs:
        found = record["accuracy"]
        return [*row, f"{100 * found['right'] / found['tokens']:.2f} %", f"{found['exact']} of {found['programs']}"]
    found = record["divergence"]
    return [*row, f"{found['kl']:.5f}", f"{100 * found['same_top']:.2f} %",
            *(f"{b['kl']:.5f}" for b in found["by_position"])]
