"""A Llama or Qwen2 model in numpy, written from its definition: no cache, no tricks."""

import numpy as np


def logits(weights, tokens, heads, kv_heads, head_dim, rope_theta, rms_norm_eps, layers):
    """Logits after every token.

    Args:
        weights: Hugging Face names to arrays.
        tokens: [n] ids.

    Returns:
        [n, vocab], double precision.
    """
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    n = len(tokens)
    hidden = w["model.embed_tokens.weight"][tokens]
    unseen = np.triu(np.full((n, n), -np.inf), 1)

    def normed(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + rms_norm_eps) * w[name]

    def projected(x, name):
        return x @ w[name + ".weight"].T + w.get(name + ".bias", 0.0)

    def rotated(x):
        angles = np.arange(n)[:, None] * rope_theta ** (-np.arange(0, head_dim, 2) / head_dim)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        a, b = x[..., : head_dim // 2], x[..., head_dim // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    for layer in range(layers):
        here = f"model.layers.{layer}."
        x = normed(hidden, here + "input_layernorm.weight")
        q = rotated(projected(x, here + "self_attn.q_proj").reshape(n, heads, head_dim))
        k = rotated(projected(x, here + "self_attn.k_proj").reshape(n, kv_heads, head_dim))
        v = projected(x, here + "self_attn.v_proj").reshape(n, kv_heads, head_dim)
        outputs = []
        for head in range(heads):
            group = head // (heads // kv_heads)
            scores = q[:, head] @ k[:, group].T / np.sqrt(head_dim) + unseen
            p = np.exp(scores - scores.max(-1, keepdims=True))
            outputs.append(p / p.sum(-1, keepdims=True) @ v[:, group])
        hidden = hidden + projected(np.concatenate(outputs, -1), here + "self_attn.o_proj")
        x = normed(hidden, here + "post_attention_layernorm.weight")
        gate = projected(x, here + "mlp.gate_proj")
        up = projected(x, here + "mlp.up_proj")
        hidden = hidden + projected(gate / (1 + np.exp(-gate)) * up, here + "mlp.down_proj")
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return normed(hidden, "model.norm.weight") @ head.T
