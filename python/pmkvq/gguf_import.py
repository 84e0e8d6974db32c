"""Converts a GGUF file into a Hugging Face style folder (bf16 safetensors).

    python -m pmkvq.gguf_import FILE.gguf OUTDIR

The folder has config.json, model.safetensors, tokenizer.json,
tokenizer_config.json and generation_config.json, so that one importer serves
both kinds of checkpoint. Architectures: llama and qwen2 with the default RoPE.
The folder appears whole or not at all: it is written beside its place and
renamed. Neighbours: gguf_file.py (container), gguf_tokenizer.py (tokenizer),
safetensors_file.py (weights).

Rows of q and k. GGUF's llama files hold them in the order in which ggml's RoPE
pairs neighbours (2i, 2i+1); Hugging Face pairs (i, i + head_dim/2). Row 2i + j
of a head there is row j * head_dim/2 + i here. qwen2 files are not permuted.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass

import numpy as np

from pmkvq.errors import FileError
from pmkvq.gguf_file import GGUFFile
from pmkvq.gguf_tokenizer import special_id, tokenizer_config, tokenizer_json
from pmkvq.safetensors_file import write_bf16

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}

# The largest float32 that rounds to a finite bf16.
_MAX_BF16 = float(np.uint32(0x7F7F7FFF).view(np.float32))


@dataclass(frozen=True)
class Geometry:
    """What the metadata says of the model; names as in config.json."""

    architecture: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    rms_norm_eps: float
    rope_theta: float


@dataclass(frozen=True)
class Source:
    """Where a tensor of the folder comes from.

    name: in the GGUF file.
    shape: as Hugging Face has it.
    permuted_heads: heads whose rows must be put back in order; 0: none.
    """

    name: str
    shape: tuple[int, ...]
    permuted_heads: int = 0


def convert(path, out) -> None:
    """Converts the GGUF file `path` into the new folder `out`.

    Raises:
        FileError: `path` is damaged or unsupported, or `out` exists.
        OSError: `out` cannot be written.
    """
    if os.path.lexists(out):
        raise FileError(out, "output folder", problem="exists already")
    file = GGUFFile(path)
    geometry = read_geometry(file)
    sources = tensor_sources(file, geometry)
    check_tensors(file, sources)
    documents = {
        "config.json": config_json(file, geometry, "lm_head.weight" not in sources),
        "generation_config.json": generation_config(file),
        "tokenizer.json": tokenizer_json(file),
        "tokenizer_config.json": tokenizer_config(file, geometry.context),
    }
    parent = os.path.dirname(os.path.abspath(out))
    os.makedirs(parent, exist_ok=True)
    partial = tempfile.mkdtemp(prefix=".partial-", dir=parent)
    try:
        _write_folder(partial, file, sources, documents)
        os.chmod(partial, 0o755)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_geometry(file: GGUFFile) -> Geometry:
    """Reads and checks the sizes. Raises FileError."""
    architecture = file.metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise FileError(file.path, "general.architecture", " or ".join(_ARCHITECTURES), architecture)
    _check_rope(file, architecture)
    number = _Numbers(file, architecture)
    hidden, heads = number.size("embedding_length"), number.size("attention.head_count")
    kv_heads = number.size("attention.head_count_kv", heads)
    if heads % kv_heads:
        raise FileError(file.path, f"{architecture}.attention.head_count_kv",
                        f"a divisor of head_count {heads}", kv_heads)
    head_dim = number.size("attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if number.size(key, head_dim) != head_dim:
            raise FileError(file.path, f"{architecture}.{key}", f"the head dim {head_dim}", number.size(key))
    if head_dim % 2:
        raise FileError(file.path, f"{architecture}.attention.key_length", "an even number", head_dim)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise FileError(file.path, "tensor token_embd.weight", problem="missing")
    return Geometry(
        architecture=architecture, layers=number.size("block_count"), hidden=hidden,
        intermediate=number.size("feed_forward_length"), heads=heads, kv_heads=kv_heads,
        head_dim=head_dim, vocab=embedding.shape[0], context=number.size("context_length"),
        rms_norm_eps=number.real("attention.layer_norm_rms_epsilon"),
        rope_theta=number.real("rope.freq_base", 10000.0))


def tensor_sources(file: GGUFFile, g: Geometry) -> dict[str, Source]:
    """The folder's tensors, in order, and where each comes from."""
    q, kv = g.heads * g.head_dim, g.kv_heads * g.head_dim
    permuted = g.architecture == "llama"
    sources = {"model.embed_tokens.weight": Source("token_embd.weight", (g.vocab, g.hidden))}
    for layer in range(g.layers):
        here, there = f"model.layers.{layer}.", f"blk.{layer}."
        sources[here + "input_layernorm.weight"] = Source(there + "attn_norm.weight", (g.hidden,))
        for name, rows, heads in (("q", q, g.heads), ("k", kv, g.kv_heads), ("v", kv, 0)):
            heads = heads if permuted else 0
            sources[here + f"self_attn.{name}_proj.weight"] = Source(
                there + f"attn_{name}.weight", (rows, g.hidden), heads)
            if g.architecture == "qwen2":
                sources[here + f"self_attn.{name}_proj.bias"] = Source(
                    there + f"attn_{name}.bias", (rows,))
        sources[here + "self_attn.o_proj.weight"] = Source(there + "attn_output.weight", (g.hidden, q))
        sources[here + "post_attention_layernorm.weight"] = Source(there + "ffn_norm.weight", (g.hidden,))
        for name, shape in (("gate", (g.intermediate, g.hidden)), ("up", (g.intermediate, g.hidden)),
                            ("down", (g.hidden, g.intermediate))):
            sources[here + f"mlp.{name}_proj.weight"] = Source(there + f"ffn_{name}.weight", shape)
    sources["model.norm.weight"] = Source("output_norm.weight", (g.hidden,))
    if "output.weight" in file.tensors:
        sources["lm_head.weight"] = Source("output.weight", (g.vocab, g.hidden))
    return sources


def check_tensors(file: GGUFFile, sources: dict[str, Source]) -> None:
    """The file has exactly these tensors, in these shapes. Raises FileError."""
    for source in sources.values():
        tensor = file.tensors.get(source.name)
        if tensor is None:
            raise FileError(file.path, f"tensor {source.name}", problem="missing")
        if tensor.shape != source.shape:
            raise FileError(file.path, f"tensor {source.name}", f"shape {source.shape}",
                            f"shape {tensor.shape}")
    extra = sorted(set(file.tensors) - {source.name for source in sources.values()})
    if extra:
        raise FileError(file.path, f"tensor {extra[0]}", problem="not part of a supported model")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    rows = file.tensors["token_embd.weight"].shape[0]
    if isinstance(tokens, list) and len(tokens) != rows:
        raise FileError(file.path, "tokenizer.ggml.tokens", f"{rows} tokens (rows of token_embd.weight)",
                        len(tokens))


def config_json(file: GGUFFile, g: Geometry, tied: bool) -> dict:
    """config.json. RoPE stands in it in the form of transformers 4 and in that of 5."""
    config = {
        "architectures": [_ARCHITECTURES[g.architecture]], "model_type": g.architecture,
        "hidden_size": g.hidden, "intermediate_size": g.intermediate,
        "num_hidden_layers": g.layers, "num_attention_heads": g.heads,
        "num_key_value_heads": g.kv_heads, "head_dim": g.head_dim, "vocab_size": g.vocab,
        "max_position_embeddings": g.context, "rms_norm_eps": g.rms_norm_eps,
        "rope_theta": g.rope_theta,
        "rope_parameters": {"rope_theta": g.rope_theta, "rope_type": "default"},
        "hidden_act": "silu", "tie_word_embeddings": tied, "torch_dtype": "bfloat16",
        "bos_token_id": special_id(file, "bos"), "eos_token_id": special_id(file, "eos"),
    }
    return {key: value for key, value in config.items() if value is not None}


def generation_config(file: GGUFFile) -> dict:
    """generation_config.json; generation stops at end of text and at end of turn."""
    stops = dict.fromkeys(special_id(file, name) for name in ("eos", "eot"))
    stops = [index for index in stops if index is not None]
    config = {"bos_token_id": special_id(file, "bos"), "pad_token_id": special_id(file, "padding"),
              "eos_token_id": stops[0] if len(stops) == 1 else stops or None}
    return {key: value for key, value in config.items() if value is not None}


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Puts rows in ggml's RoPE order back into Hugging Face's.

    Args:
        rows: [heads * head_dim, ...].
    """
    split = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


class _Numbers:
    """Checked numbers of the metadata of one architecture."""

    def __init__(self, file: GGUFFile, architecture: str):
        self._file, self._prefix = file, architecture + "."

    def size(self, key: str, default: int | None = None) -> int:
        value = self._file.metadata.get(self._prefix + key, default)
        if type(value) is not int or not 0 < value < 1 << 31:
            raise FileError(self._file.path, self._prefix + key, "a positive number",
                            "nothing" if value is None else value)
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self._file.metadata.get(self._prefix + key, default)
        if type(value) is not float or not 0 < value < math.inf:
            raise FileError(self._file.path, self._prefix + key, "a positive real number",
                            "nothing" if value is None else value)
        # The file holds a float32: take the shortest decimal that means it.
        return float(str(np.float32(value)))


def _check_rope(file: GGUFFile, architecture: str):
    key = f"{architecture}.rope.scaling.type"
    if file.metadata.get(key, "none") != "none":
        raise FileError(file.path, key, "none", file.metadata[key])


def _write_folder(folder: str, file: GGUFFile, sources: dict[str, Source], documents: dict):
    for name, document in documents.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
            json.dump(document, out, ensure_ascii=False, indent=1)
            out.write("\n")
    write_bf16(os.path.join(folder, "model.safetensors"),
               {name: source.shape for name, source in sources.items()},
               lambda name: _tensor_values(file, sources[name]))


def _tensor_values(file: GGUFFile, source: Source) -> np.ndarray:
    values = file.values(file.tensors[source.name])
    # A NaN fails this too.
    if not np.abs(values).max() <= _MAX_BF16:
        raise FileError(file.path, f"tensor {source.name}", "finite values within bf16", "others")
    return unpermute(values, source.permuted_heads) if source.permuted_heads else values


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m pmkvq.gguf_import FILE.gguf OUTDIR", file=sys.stderr)
        return 2
    try:
        convert(*arguments)
    except FileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or arguments[1]}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
