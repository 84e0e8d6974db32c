"""The calibration file: what is in it, how it is written, what is refused.

docs/calibration.md describes the fields; lib/Import/Calibration.cpp reads them for
the compiler. Neighbours: calibrate.py writes, allocate.py reads.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmkvq.checkpoint import read_json
from pmkvq.errors import FileError
from pmkvq.quantize import LEVELS, PART_LEVELS, Format
from pmkvq.sensitivity import MOST_AGES, MOST_EXPONENT

FORMAT, VERSION = "pmkvq-calibration", 1
PARTS = ("key", "value")
MEASURES = ("sensitivity", "kl")
# How keys fell where divergences were measured; older files do not say: to the nearest codes.
ROUNDINGS = ("feedback", "nearest")


@dataclass(frozen=True)
class Calibration:
    """document: as in the file, checked."""

    path: str
    document: dict

    @property
    def layers(self) -> int:
        return self.document["model"]["layers"]

    def losses(self) -> np.ndarray:
        """[layers, 2, 4]: what keys and values lose at 16, 8, 4 and 2 bits, by the file's measure."""
        return self._table(self.document["settings"]["measure"])

    def divergences(self) -> np.ndarray | None:
        """[layers, 2, 4]: KL in nats a token that a part causes alone at 16, 8, 4 and 2 bits; None: not measured."""
        return self._table("kl") if "kl" in self.document["layers"][0]["key"] else None

    def query_squares(self) -> np.ndarray | None:
        """[layers, kv_heads, head_dim]: mean square of queries' channels after RoPE; None: an older file."""
        if any("query_squares" not in layer for layer in self.document["layers"]):
            return None
        return np.array([layer["query_squares"] for layer in self.document["layers"]])

    def page_shares(self) -> np.ndarray | None:
        """[layers, kv_heads, ages]: how much of a layer's losses one page bears, the newest first; None: an older
        file."""
        if any("page_shares" not in layer for layer in self.document["layers"]):
            return None
        return np.array([layer["page_shares"] for layer in self.document["layers"]])

    def formats(self) -> tuple[Format, Format]:
        """Of keys and values, as they were measured."""
        settings = self.document["settings"]
        return Format.parse(settings["key_format"]), Format.parse(settings["value_format"])

    def _table(self, field: str) -> np.ndarray:
        return np.array([[[0.0, *layer[part][field][:len(LEVELS)]] for part in PARTS]
                         for layer in self.document["layers"]])


def write(path, document: dict) -> None:
    """Writes all or nothing. Raises FileError if the document is not a calibration."""
    check(path, document)
    partial = Path(f"{path}.{os.getpid()}.tmp")
    try:
        partial.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read(path) -> Calibration:
    """Raises FileError, with what was expected and what is."""
    document = read_json(path)
    check(path, document)
    return Calibration(str(path), document)


def check(path, document: dict) -> None:
    """Raises FileError unless all that readers rely on is there and right."""
    if document.get("format") != FORMAT:
        raise FileError(path, "format", FORMAT, document.get("format"))
    if document.get("version") != VERSION:
        raise FileError(path, "version", VERSION, document.get("version"))
    model, settings = _object(path, document, "model"), _object(path, document, "settings")
    if not isinstance(model.get("hash"), str):
        raise FileError(path, "model.hash", "a text", model.get("hash"))
    for field in ("layers", "kv_heads", "head_dim"):
        if type(model.get(field)) is not int or model[field] < 1:
            raise FileError(path, f"model.{field}", "a whole number of at least 1", model.get(field))
    if settings.get("measure") not in MEASURES:
        raise FileError(path, "settings.measure", " or ".join(MEASURES), settings.get("measure"))
    for part in PARTS:
        _check_format(path, f"settings.{part}_format", settings.get(f"{part}_format"))
    if settings.get("rounding", "nearest") not in ROUNDINGS:
        raise FileError(path, "settings.rounding", " or ".join(ROUNDINGS), settings["rounding"])
    if type(settings.get("key_scales", False)) is not bool:
        raise FileError(path, "settings.key_scales", "true or false", settings["key_scales"])
    layers = document.get("layers")
    if not isinstance(layers, list) or len(layers) != model["layers"]:
        raise FileError(path, "layers", f"{model['layers']} layers, as model.layers says",
                        f"{len(layers)} layers" if isinstance(layers, list) else layers)
    for index, layer in enumerate(layers):
        for part in PARTS:
            _check_part(path, f"layers[{index}].{part}", layer.get(part) if isinstance(layer, dict) else None,
                        settings["measure"], PART_LEVELS[PARTS.index(part)])
        if "query_squares" in layer:
            _check_squares(path, f"layers[{index}].query_squares", layer["query_squares"], model)
        if "page_shares" in layer:
            _check_shares(path, f"layers[{index}].page_shares", layer["page_shares"], model)
        scale = layer.get("key_scale")
        if scale is not None:
            _check_scale(path, f"layers[{index}].key_scale", scale, model)
    _check_divergences(path, layers)


def _object(path, document: dict, field: str) -> dict:
    if not isinstance(document.get(field), dict):
        raise FileError(path, field, "an object", document.get(field))
    return document[field]


def _check_part(path, name: str, part, measure: str, levels: tuple[int, ...]) -> None:
    """levels: with the lowest of values, which older files do not have."""
    if not isinstance(part, dict):
        raise FileError(path, name, "an object", part)
    clip = part.get("clip")
    if not _is_number(clip) or not 0.7 < clip < 0.9:
        raise FileError(path, f"{name}.clip", "a number in (0.7, 0.9)", clip)
    for field in MEASURES:
        if field not in part and field != measure:
            continue
        loss = part.get(field)
        if not isinstance(loss, list) or len(loss) not in {len(LEVELS), len(levels)} or \
                not all(_is_number(x) and x >= 0 for x in loss):
            wanted = "finite numbers of at least 0, at 8, 4 and 2 bits"
            raise FileError(path, f"{name}.{field}", wanted + (", maybe 1" if len(levels) > len(LEVELS) else ""), loss)


def _check_format(path, name: str, value) -> None:
    try:
        Format.parse(value if isinstance(value, str) else "")
    except ValueError:
        raise FileError(path, name, "a format like <per_channel, hadamard>", value) from None


def _check_squares(path, name: str, rows, model: dict) -> None:
    dim = model["head_dim"]
    if not isinstance(rows, list) or len(rows) != model["kv_heads"] or \
            not all(isinstance(row, list) and len(row) == dim for row in rows) or \
            not all(_is_number(x) and x >= 0 for row in rows for x in row):
        raise FileError(path, name, f"[{model['kv_heads']}][{dim}] finite numbers of at least 0", rows)


def _check_shares(path, name: str, rows, model: dict) -> None:
    if not isinstance(rows, list) or len(rows) != model["kv_heads"] or \
            not all(isinstance(row, list) and len(row) == len(rows[0]) for row in rows) or \
            not 1 <= len(rows[0]) <= MOST_AGES or \
            not all(_is_number(x) and x >= 0 for row in rows for x in row):
        raise FileError(path, name, f"[{model['kv_heads']}][1 to {MOST_AGES} pages] finite numbers of at least 0", rows)


def _check_scale(path, name: str, scale, model: dict) -> None:
    """Exponents: whole numbers, [kv_heads][head_dim], equal in the channels that RoPE turns together."""
    rows, dim = scale.get("exponents") if isinstance(scale, dict) else None, model["head_dim"]
    if not isinstance(rows, list) or len(rows) != model["kv_heads"] or \
            not all(isinstance(row, list) and len(row) == dim for row in rows) or \
            not all(type(x) is int and abs(x) <= MOST_EXPONENT for row in rows for x in row):
        raise FileError(path, f"{name}.exponents", f"[{model['kv_heads']}][{dim}] whole numbers from "
                        f"-{MOST_EXPONENT} to {MOST_EXPONENT}", rows)
    for head, row in enumerate(rows):
        if row[:dim // 2] != row[dim // 2:]:
            raise FileError(path, f"{name}.exponents[{head}]", f"equal numbers for channels i and i + {dim // 2}, which "
                            "RoPE turns together", row)


def _check_divergences(path, layers: list[dict]) -> None:
    """All parts of all layers have them, or none."""
    has = [(f"layers[{i}].{part}.kl", "kl" in layer[part]) for i, layer in enumerate(layers) for part in PARTS]
    missing = next((name for name, there in has if not there), None)
    if missing and any(there for _, there in has):
        raise FileError(path, missing, "three numbers, as other parts have them", None)


def _is_number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
