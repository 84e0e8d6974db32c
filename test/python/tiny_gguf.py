"""A synthetic GGUF model of under a million elements, and what it should become.

Its head dim is the smallest that pmkvq-run takes.
"""

import gguf
import numpy as np

LAYERS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 2, 256, 128, 4, 2, 64, 512
ROPE_THETA, RMS_NORM_EPS = 50000.0, 1e-5


def bytes_to_unicode():
    """GPT-2's printable stand-in for every byte value."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + index) for index, byte in enumerate(others)}


MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w"]
SPECIAL = ["<|end|>", "<|start|>"]
TOKENS = SPECIAL + list(bytes_to_unicode().values()) + [merge.replace(" ", "") for merge in MERGES]
TEMPLATE = ("{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' + message['content'] "
            "+ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}")


def permute(rows, heads):
    """Hugging Face's order of RoPE rows to ggml's, row by row from the definition."""
    head_dim = rows.shape[0] // heads
    result = np.empty_like(rows)
    for head in range(heads):
        for i in range(head_dim // 2):
            for j in range(2):
                result[head * head_dim + 2 * i + j] = rows[head * head_dim + j * head_dim // 2 + i]
    return result


def weights(architecture, tied):
    """Hugging Face names to values that are bf16 and differ everywhere."""
    random = np.random.default_rng(0)
    vocab, q, kv = len(TOKENS), HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes = {"model.embed_tokens.weight": (vocab, HIDDEN)}
    for layer in range(LAYERS):
        here = f"model.layers.{layer}."
        shapes[here + "input_layernorm.weight"] = (HIDDEN,)
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            shapes[here + f"self_attn.{name}_proj.weight"] = (rows, HIDDEN)
            if architecture == "qwen2":
                shapes[here + f"self_attn.{name}_proj.bias"] = (rows,)
        shapes[here + "self_attn.o_proj.weight"] = (HIDDEN, q)
        shapes[here + "post_attention_layernorm.weight"] = (HIDDEN,)
        shapes[here + "mlp.gate_proj.weight"] = (INTERMEDIATE, HIDDEN)
        shapes[here + "mlp.up_proj.weight"] = (INTERMEDIATE, HIDDEN)
        shapes[here + "mlp.down_proj.weight"] = (HIDDEN, INTERMEDIATE)
    shapes["model.norm.weight"] = (HIDDEN,)
    if not tied:
        shapes["lm_head.weight"] = (vocab, HIDDEN)
    # Matrices keep the size of what passes through them; biases count.
    return {name: _bf16(random.standard_normal(shape, np.float32) *
                        np.float32(shape[-1] ** -0.5 if len(shape) == 2 else 1))
            for name, shape in shapes.items()}


def _bf16(values):
    return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


_NAMES = {
    "input_layernorm.weight": "attn_norm.weight", "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    **{f"self_attn.{n}_proj.{p}": f"attn_{n}.{p}" for n in "qkv" for p in ("weight", "bias")},
    **{f"mlp.{n}_proj.weight": f"ffn_{n}.weight" for n in ("gate", "up", "down")},
}
_TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight"}


def gguf_name(name):
    if name in _TOP:
        return _TOP[name]
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_NAMES[rest]}"


def write(path, architecture="llama", tied=True, pre="smollm", drop=(), extra=None, edit=None):
    """Writes the model to `path`; returns the weights that it was made from.

    drop: Hugging Face names left out; extra: more tensors by GGUF name;
    edit: called with the writer, to add metadata.
    """
    values = weights(architecture, tied)
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(RMS_NORM_EPS)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_chat_template(TEMPLATE)
    if edit:
        edit(writer)
    for name, value in values.items():
        if name in drop:
            continue
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            value = permute(value, HEADS if "q_proj" in name else KV_HEADS)
        writer.add_tensor(gguf_name(name), value)
    for name, value in (extra or {}).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values
