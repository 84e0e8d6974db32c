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
from pmkvq.quantize import LEVELS

FORMAT, VERSION = "pmkvq-calibration", 1
PARTS = ("key", "value")
MEASURES = ("sensitivity", "kl")


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
        measure = self.document["settings"]["measure"]
        return np.array([[[0.0, *layer[part][measure]] for part in PARTS]
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
    layers = document.get("layers")
    if not isinstance(layers, list) or len(layers) != model["layers"]:
        raise FileError(path, "layers", f"{model['layers']} layers, as model.layers says",
                        f"{len(layers)} layers" if isinstance(layers, list) else layers)
    for index, layer in enumerate(layers):
        for part in PARTS:
            _check_part(path, f"layers[{index}].{part}",
                        layer.get(part) if isinstance(layer, dict) else None, settings["measure"])


def _object(path, document: dict, field: str) -> dict:
    if not isinstance(document.get(field), dict):
        raise FileError(path, field, "an object", document.get(field))
    return document[field]


def _check_part(path, name: str, part, measure: str) -> None:
    if not isinstance(part, dict):
        raise FileError(path, name, "an object", part)
    clip = part.get("clip")
    if not _is_number(clip) or not 0.7 < clip < 0.9:
        raise FileError(path, f"{name}.clip", "a number in (0.7, 0.9)", clip)
    for field in MEASURES:
        if field not in part and field != measure:
            continue
        loss = part.get(field)
        if not isinstance(loss, list) or len(loss) != len(LEVELS) or \
                not all(_is_number(x) and x >= 0 for x in loss):
            raise FileError(path, f"{name}.{field}",
                            "three finite numbers of at least 0, at 8, 4 and 2 bits", loss)


def _is_number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
