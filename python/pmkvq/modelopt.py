"""Floors of layers to and from NVIDIA ModelOpt's schema: python -m pmkvq export-modelopt, import-modelopt.

    python -m pmkvq export-modelopt MODEL --layer-floors=0-3:8,4-5:16 -o hf_quant_config.json
    python -m pmkvq import-modelopt MODEL hf_quant_config.json

ModelOpt names one format a layer, in `quantization.kv_cache_quantized_layers` of
hf_quant_config.json; layers that are not there stay in 16 bits (NVIDIA/Model-Optimizer,
pull request 2272, schema version 1; modelopt/torch/export/quant_utils.py). Most of its
formats are not pmkvq's and are refused, unless the width alone is asked for.
Neighbours: allocate.py (floors as text), docs/calibration.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

from pmkvq.allocate import floors_text, parse_floors
from pmkvq.checkpoint import Checkpoint, read_json
from pmkvq.errors import FileError

VERSION = 1
_MIXED = "MIXED_PRECISION"
_LAYERS = "quantization.kv_cache_quantized_layers"

# ModelOpt's formats: bits of keys and values, and why pmkvq has no such format.
ALGORITHMS: dict[str, tuple[tuple[int, int], str | None]] = {
    "INT8": ((8, 8), None),
    "FP8": ((8, 8), "8-bit floating point (e4m3); pmkvq's 8 bits are whole numbers"),
    "NVFP4": ((4, 4), "4-bit floating point (e2m1) in blocks of 16; pmkvq's 4 bits are whole numbers"),
    "NVFP4_AFFINE": ((4, 4), "4-bit floating point (e2m1) with a bias; pmkvq's 4 bits are whole numbers"),
    "FP8_K_NVFP4_V": ((8, 4), "floating point (e4m3 keys, e2m1 values); pmkvq's bits are whole numbers"),
}
# What stands for a width where the format may be another.
_BY_WIDTH = {(8, 8): "FP8", (4, 4): "NVFP4", (8, 4): "FP8_K_NVFP4_V"}

Floors = list[tuple[int, int]]


class NotExpressible(ValueError):
    """A layer's floors or format have no counterpart; says which and why."""


def to_modelopt(floors: Floors, names: list[str], by_width: bool = False) -> dict:
    """hf_quant_config.json of these floors.

    Args:
        floors: bits of keys and values a layer. names: of the layers' attention modules.
        by_width: 8 and 4 bits become ModelOpt's floating-point formats of that width.

    Raises:
        NotExpressible
    """
    layers = {name: {"quant_algo": _algorithm(layer, bits, by_width)}
              for layer, (name, bits) in enumerate(zip(names, floors, strict=True)) if bits != (16, 16)}
    used = {entry["quant_algo"] for entry in layers.values()}
    uniform = len(used) == 1 and len(layers) == len(floors)
    quantization = {"quant_algo": None, "kv_cache_quant_algo": used.pop() if uniform else _MIXED if used else None}
    if layers:
        quantization |= {"kv_cache_quantized_layers": layers, "kv_cache_schema_version": VERSION}
    return {"producer": {"name": "pmkvq"}, "quantization": quantization}


def _algorithm(layer: int, bits: tuple[int, int], by_width: bool) -> str:
    if by_width and bits in _BY_WIDTH:
        return _BY_WIDTH[bits]
    if bits == (8, 8):
        return "INT8"
    key, value = bits
    here = f"layer {layer}: keys at {key} and values at {value} bits: "
    if 2 in bits:
        raise NotExpressible(here + "ModelOpt has no format of 2 bits")
    if bits in _BY_WIDTH:
        name = _BY_WIDTH[bits]
        raise NotExpressible(f"{here}ModelOpt's {name} is {ALGORITHMS[name][1]}; --by-width takes it all the same")
    raise NotExpressible(here + "ModelOpt has one format for both, but for keys at 8 and values at 4 bits")


def from_modelopt(path, document: dict, names: list[str], by_width: bool = False) -> Floors:
    """Bits of keys and values a layer, as hf_quant_config.json has them.

    Args:
        path: of the document, for messages. names: of the layers' attention modules.
        by_width: floating-point formats become pmkvq's of that width.

    Raises:
        FileError: not such a file, or not of this model.
        NotExpressible
    """
    quantization = document.get("quantization")
    if not isinstance(quantization, dict):
        raise FileError(path, "quantization", "an object, as in ModelOpt's hf_quant_config.json", quantization)
    whole = quantization.get("kv_cache_quant_algo")
    if whole is not None and whole not in (*ALGORITHMS, _MIXED):
        raise FileError(path, "quantization.kv_cache_quant_algo", f"null, {_MIXED} or {_known()}", whole)
    layers = quantization.get("kv_cache_quantized_layers")
    if layers is None:
        if whole == _MIXED:
            raise FileError(path, _LAYERS, f"formats of layers, as kv_cache_quant_algo {_MIXED} says", None)
        found = [whole] * len(names)
    else:
        found = _read_layers(path, quantization, layers, whole, names)
    return [_bits(layer, algorithm, by_width) for layer, algorithm in enumerate(found)]


def _read_layers(path, quantization: dict, layers, whole: str | None, names: list[str]) -> list[str | None]:
    """The format of every layer, None for 16 bits."""
    version = quantization.get("kv_cache_schema_version", VERSION)
    if type(version) is not int or version != VERSION:
        raise FileError(path, "quantization.kv_cache_schema_version", VERSION, version)
    if not isinstance(layers, dict):
        raise FileError(path, _LAYERS, "an object", layers)
    found: list[str | None] = [None] * len(names)
    for name, entry in layers.items():
        layer = _layer_of(path, name, names)
        algorithm = entry.get("quant_algo") if isinstance(entry, dict) else None
        if algorithm not in ALGORITHMS:
            raise FileError(path, f"{_LAYERS}[{name}].quant_algo", _known(), algorithm)
        if whole not in (_MIXED, algorithm):
            raise FileError(path, f"{_LAYERS}[{name}].quant_algo", f"{whole}, as kv_cache_quant_algo says", algorithm)
        if found[layer] is not None:
            raise FileError(path, f"{_LAYERS}[{name}]", problem=f"layer {layer} has a format already")
        found[layer] = algorithm
    return found


def _layer_of(path, name: str, names: list[str]) -> int:
    """A module's layer; what stands before "layers" differs between exports of one model."""
    match = re.fullmatch(r"(?:.+\.)?layers\.(\d{1,4})\.(?:self_attn|attention)", name)
    if not match or int(match[1]) >= len(names):
        raise FileError(path, f"{_LAYERS}[{name}]", f"the attention of a layer, {names[0]} to {names[-1]}", name)
    return int(match[1])


def _bits(layer: int, algorithm: str | None, by_width: bool) -> tuple[int, int]:
    if algorithm is None:
        return 16, 16
    bits, reason = ALGORITHMS[algorithm]
    if reason and not by_width:
        raise NotExpressible(f"layer {layer}: {algorithm} is {reason}; --by-width takes the width alone")
    return bits


def _known() -> str:
    return ", ".join(ALGORITHMS)


def attention_names(checkpoint: Checkpoint) -> list[str]:
    """Names of the layers' attention modules. Raises FileError."""
    names = []
    for layer in range(checkpoint.size("num_hidden_layers")):
        name = f"model.layers.{layer}.self_attn"
        if not any(f"{name}.{part}.weight" in checkpoint.tensors for part in ("k_proj", "qkv_proj")):
            raise FileError(checkpoint.folder, f"tensor {name}.k_proj.weight",
                            problem="missing; num_hidden_layers says that there is such a layer")
        names.append(name)
    return names


def _write(path, document: dict) -> None:
    """All or nothing; to stdout without a path."""
    text = json.dumps(document, indent=4) + "\n"
    if not path:
        sys.stdout.write(text)
        return
    partial = Path(f"{path}.{os.getpid()}.tmp")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"pmkvq {name}", description=description, allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="a folder in Hugging Face's layout")
    return parser


def _run(action) -> int:
    try:
        action()
    except (FileError, NotExpressible) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def export_main(arguments: list[str]) -> int:
    parser = _parser("export-modelopt", "Writes floors of layers as ModelOpt's hf_quant_config.json.")
    parser.add_argument("--layer-floors", default="", metavar="0-3:8,5:4+2",
                        help="as pmkvq-run takes them and pmkvq allocate prints them")
    parser.add_argument("--floor", type=int, default=2, choices=(2, 4, 8, 16), help="of all other layers (default 2)")
    parser.add_argument("--by-width", action="store_true",
                        help="write FP8 for 8 bits and NVFP4 for 4, which are other formats of that width")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: stdout")
    options = parser.parse_args(arguments)

    def action():
        names = attention_names(Checkpoint(options.model))
        try:
            floors = parse_floors(options.layer_floors, len(names), options.floor)
        except ValueError as error:
            parser.error(f"--layer-floors: {error}")
        _write(options.output, to_modelopt(floors, names, options.by_width))

    return _run(action)


def import_main(arguments: list[str]) -> int:
    parser = _parser("import-modelopt", "Prints ModelOpt's formats of layers as pmkvq-run --layer-floors takes them.")
    parser.add_argument("file", metavar="FILE", help="hf_quant_config.json")
    parser.add_argument("--by-width", action="store_true",
                        help="take FP8 as 8 bits and NVFP4 as 4, though pmkvq's formats are others")
    options = parser.parse_args(arguments)

    def action():
        names = attention_names(Checkpoint(options.model))
        print(floors_text(from_modelopt(options.file, read_json(options.file), names, options.by_width)))

    return _run(action)
