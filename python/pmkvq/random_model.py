"""A model of random weights in a given shape, and token ids to feed it.

    python -m pmkvq.random_model FOLDER --layers=1 --hidden=4096 --inner=14336 --heads=32 --kv-heads=8

For what depends on a model's shape alone: how long a layer of a large model takes to
calibrate (docs/calibration.md). Neighbours: safetensors_file.py, calibrate.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from pathlib import Path

import numpy as np

from pmkvq.safetensors_file import write_bf16

# Lines of token ids beside the model, and ids of each.
_SAMPLES, _TOKENS = 4, 2048


def shapes(options) -> dict[str, tuple[int, ...]]:
    """Of a Llama's tensors, by name."""
    width, hidden = options.hidden // options.heads, options.hidden
    found = {"model.embed_tokens.weight": (options.vocab, hidden), "model.norm.weight": (hidden,),
             "lm_head.weight": (options.vocab, hidden)}
    for layer in range(options.layers):
        here = f"model.layers.{layer}."
        for name, heads in (("q", options.heads), ("k", options.kv_heads), ("v", options.kv_heads)):
            found[f"{here}self_attn.{name}_proj.weight"] = (heads * width, hidden)
        found[f"{here}self_attn.o_proj.weight"] = (hidden, hidden)
        for name in ("gate", "up"):
            found[f"{here}mlp.{name}_proj.weight"] = (options.inner, hidden)
        found[f"{here}mlp.down_proj.weight"] = (hidden, options.inner)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{here}{name}.weight"] = (hidden,)
    return found


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor, float32; hidden states keep their size from layer to layer."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return random.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))


def write(folder: Path, options) -> None:
    """config.json, model.safetensors and samples.jsonl. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    found = shapes(options)
    (folder / "config.json").write_text(json.dumps({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
        "hidden_size": options.hidden, "intermediate_size": options.inner, "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads, "num_key_value_heads": options.kv_heads, "vocab_size": options.vocab,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
    }, indent=2) + "\n")
    write_bf16(folder / "model.safetensors", found, lambda name: weight(name, found[name]))
    ids = np.random.default_rng(0).integers(0, options.vocab, (_SAMPLES, _TOKENS)).tolist()
    (folder / "samples.jsonl").write_text("".join(json.dumps({"tokens": line}) + "\n" for line in ids))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pmkvq.random_model", description=__doc__.splitlines()[0],
                                     allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    for name, value in (("layers", 1), ("hidden", 4096), ("inner", 14336), ("heads", 32), ("kv-heads", 8),
                        ("vocab", 32000)):
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"(default {value})")
    options = parser.parse_args(arguments)
    if min(options.layers, options.hidden, options.inner, options.heads, options.kv_heads, options.vocab) < 1:
        parser.error("expected numbers of at least 1")
    if options.hidden % options.heads or options.heads % options.kv_heads:
        parser.error(f"expected --hidden as a multiple of --heads, and that of --kv-heads, got {options.hidden}, "
                     f"{options.heads} and {options.kv_heads}")
    return options


if __name__ == "__main__":
    options = parse(sys.argv[1:])
    write(options.folder, options)
