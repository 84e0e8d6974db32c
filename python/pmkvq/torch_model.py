"""A decoder of the Llama family in torch, with its keys and values in reach.

Written for calibration: weights are constants, gradients go to keys and values.
Neighbours: checkpoint.py (weights), calibrate.py; lib/Import/ImportModel.cpp is the
compiler's own reading of the same models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pmkvq.checkpoint import Checkpoint
from pmkvq.errors import FileError
from pmkvq.quantize import PAGE, SINK, count_pages

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
# Positions whose logits are in memory at a time.
_CHUNK = 256


@dataclass
class Attention:
    """What one layer attends with, after RoPE: [heads, tokens, head_dim]."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


class Model:
    """Raises FileError for what it does not support.

    interpolation: RoPE's angles are multiplied by it.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu", interpolation: float = 1.0):
        config, path = checkpoint.config, checkpoint.folder / "config.json"
        kind = config.get("model_type")
        if kind not in ARCHITECTURES:
            raise FileError(path, "model_type", " or ".join(ARCHITECTURES), kind)
        if config.get("hidden_act", "silu") != "silu":
            raise FileError(path, "hidden_act", "silu", config["hidden_act"])
        self.layers = checkpoint.size("num_hidden_layers")
        self.heads = checkpoint.size("num_attention_heads")
        self.kv_heads = checkpoint.size("num_key_value_heads", self.heads)
        self.head_dim = checkpoint.size("head_dim", checkpoint.size("hidden_size") // self.heads)
        self.vocab = checkpoint.size("vocab_size")
        self.epsilon = float(config.get("rms_norm_eps", 1e-6))
        self.device = device
        self.angles = interpolation * _frequencies(checkpoint, self.head_dim).to(device)
        self._weights = {name: torch.from_numpy(tensor.float32()).to(device)
                         for name, tensor in checkpoint.tensors.items()}
        # Whether each head of keys is normalized before RoPE.
        self.key_norms = "model.layers.0.self_attn.k_norm.weight" in self._weights
        self._check(checkpoint)

    def _check(self, checkpoint: Checkpoint) -> None:
        hidden = checkpoint.size("hidden_size")
        for layer in range(self.layers):
            for name, rows in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads)):
                full = f"model.layers.{layer}.self_attn.{name}_proj.weight"
                found = self._weights.get(full)
                if found is None or tuple(found.shape) != (rows * self.head_dim, hidden):
                    raise FileError(checkpoint.folder, f"tensor {full}", (rows * self.head_dim, hidden),
                                    "none" if found is None else tuple(found.shape))

    # -- pieces ----------------------------------------------------------------

    def _linear(self, x, name):
        return F.linear(x, self._weights[name + ".weight"], self._weights.get(name + ".bias"))

    def _norm(self, x, name):
        return F.rms_norm(x, x.shape[-1:], self._weights[name + ".weight"], self.epsilon)

    def _turn(self, x, cos, sin):
        half = x.shape[-1] // 2
        a, b = x[..., :half], x[..., half:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def rotary(self, tokens: int):
        angles = torch.arange(tokens, device=self.device, dtype=torch.float32)[:, None] * self.angles
        return angles.cos(), angles.sin()

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._weights["model.embed_tokens.weight"][tokens]

    def project(self, layer: int, hidden: torch.Tensor, rotary) -> Attention:
        """Queries, keys and values of a layer. hidden: [tokens, hidden]."""
        here = f"model.layers.{layer}."
        x = self._norm(hidden, here + "input_layernorm")

        def heads(name, count):
            y = self._linear(x, f"{here}self_attn.{name}_proj").view(-1, count, self.head_dim)
            if f"{here}self_attn.{name}_norm.weight" in self._weights:
                y = self._norm(y, f"{here}self_attn.{name}_norm")
            return y.transpose(0, 1)

        q, k = self._turn(heads("q", self.heads), *rotary), self._turn(heads("k", self.kv_heads), *rotary)
        return Attention(q, k, heads("v", self.kv_heads))

    def attend(self, a: Attention) -> torch.Tensor:
        """[heads, tokens, head_dim]."""
        return F.scaled_dot_product_attention(a.q[None], a.k[None], a.v[None], is_causal=True,
                                              enable_gqa=self.heads != self.kv_heads)[0]

    def attend_cached(self, a: Attention, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """The same over a cache: each query sees `k` and `v` where tokens are in pages by then, else its own.

        Args:
            k, v: [kv_heads, tokens, head_dim], keys and values as the cache gives them back.
        """
        tokens, out = a.q.shape[1], torch.empty_like(a.q)
        at = torch.arange(tokens, device=a.q.device)
        ends = SINK + PAGE * torch.tensor([count_pages(t + 1) for t in range(tokens)], device=a.q.device)
        q = a.q.view(self.kv_heads, -1, tokens, self.head_dim) / math.sqrt(self.head_dim)
        for begin in range(0, tokens, _CHUNK):
            end = min(begin + _CHUNK, tokens)
            in_page = (at[:end] >= SINK) & (at[:end] < ends[begin:end, None])
            own, stored = (q[:, :, begin:end] @ x[:, None, :end].mT for x in (a.k, k))
            scores = torch.where(in_page, stored, own).masked_fill_(at[:end] > at[begin:end, None], -math.inf)
            weights = scores.softmax(-1)
            part = (weights * in_page) @ v[:, None, :end] + (weights * ~in_page) @ a.v[:, None, :end]
            out[:, begin:end] = part.reshape(self.heads, end - begin, self.head_dim)
        return out

    @torch.no_grad()
    def page_squares(self, a: Attention, every: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Squares of attention that pages receive, by age: the newest page is the one before the window.

        Args:
            every: of so many queries one is looked at.

        Returns:
            Sums over the queries, and over a page's tokens and a kv head's queries, [kv_heads, ages]; the queries
            that had a page of this age, [ages]. Double precision.
        """
        tokens, group = a.q.shape[1], self.heads // self.kv_heads
        rows = torch.arange(min(SINK + PAGE, tokens), tokens, every, device=a.q.device)
        made = torch.tensor([count_pages(int(row) + 1) for row in rows], dtype=torch.int64, device=rows.device)
        count = int(made.max()) if len(rows) else 0
        q = a.q[:, rows].view(self.kv_heads, group * len(rows), self.head_dim) / math.sqrt(self.head_dim)
        scores = (q @ a.k.mT).view(self.kv_heads, group, len(rows), tokens)
        unseen = torch.arange(tokens, device=rows.device) > rows[:, None]
        squares = scores.masked_fill_(unseen, -math.inf).softmax(-1).square_().sum(1)
        pages = squares[..., SINK:SINK + PAGE * count].view(self.kv_heads, len(rows), count, PAGE).sum(-1).double()
        # Ages from 1 on; pages that a row does not have yet are at most 0.
        ages = (made[:, None] - torch.arange(count, device=rows.device)).clamp_min(0).flatten()
        sums = pages.new_zeros((self.kv_heads, count + 1))
        sums.index_add_(1, ages, pages.flatten(1))
        return sums[:, 1:], torch.bincount(ages, minlength=count + 1)[1:].double()

    def finish(self, layer: int, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The hidden state after the layer. attended: [heads, tokens, head_dim]."""
        here = f"model.layers.{layer}."
        out = attended.transpose(0, 1).reshape(hidden.shape[0], -1)
        hidden = hidden + self._linear(out, here + "self_attn.o_proj")
        x = self._norm(hidden, here + "post_attention_layernorm")
        inner = F.silu(self._linear(x, here + "mlp.gate_proj")) * self._linear(x, here + "mlp.up_proj")
        return hidden + self._linear(inner, here + "mlp.down_proj")

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        table = self._weights.get("lm_head.weight", self._weights["model.embed_tokens.weight"])
        return F.linear(self._norm(hidden, "model.norm"), table)

    # -- passes ----------------------------------------------------------------

    def gradients(self, tokens: list[int]) -> tuple[float, list[Attention]]:
        """One sample's loss, nats a token, and the layers' attention; `grad` of k and v is set."""
        ids = torch.tensor(tokens, device=self.device)
        rotary, layers = self.rotary(len(tokens)), []
        hidden = self.embed(ids).clone().requires_grad_()
        for layer in range(self.layers):
            a = self.project(layer, hidden, rotary)
            a.k.retain_grad()
            a.v.retain_grad()
            layers.append(a)
            hidden = self.finish(layer, hidden, self.attend(a))
        # The vocabulary is the widest of all: chunk by chunk, back to the hidden state alone.
        top = hidden.detach().requires_grad_()
        total = 0.0
        for at in range(0, len(tokens) - 1, _CHUNK):
            end = min(at + _CHUNK, len(tokens) - 1)
            loss = F.cross_entropy(self.logits(top[at:end]), ids[at + 1:end + 1], reduction="sum")
            (loss / (len(tokens) - 1)).backward()
            total += loss.item()
        hidden.backward(top.grad)
        return total / (len(tokens) - 1), layers

    @torch.inference_mode()
    def inputs(self, tokens: list[int]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The hidden state before every layer, and after the last."""
        rotary = self.rotary(len(tokens))
        hidden, before = self.embed(torch.tensor(tokens, device=self.device)), []
        for layer in range(self.layers):
            before.append(hidden)
            hidden = self.finish(layer, hidden, self.attend(self.project(layer, hidden, rotary)))
        return before, hidden

    @torch.inference_mode()
    def run_from(self, layer: int, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The last hidden state, with `attended` as what comes of the attention of `layer`."""
        rotary = self.rotary(hidden.shape[0])
        hidden = self.finish(layer, hidden, attended)
        for later in range(layer + 1, self.layers):
            hidden = self.finish(later, hidden, self.attend(self.project(later, hidden, rotary)))
        return hidden

    @torch.inference_mode()
    def predictions(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logarithms of the next tokens' probabilities, [tokens, vocabulary]. hidden: the last state."""
        return torch.cat([F.log_softmax(self.logits(hidden[at:at + _CHUNK]), -1)
                          for at in range(0, hidden.shape[0], _CHUNK)])

    @torch.inference_mode()
    def divergence(self, expected: torch.Tensor, hidden: torch.Tensor) -> float:
        """KL of the predictions that follow from a last hidden state, nats a token. expected: predictions()."""
        total = 0.0
        for at in range(0, hidden.shape[0], _CHUNK):
            p, q = expected[at:at + _CHUNK], F.log_softmax(self.logits(hidden[at:at + _CHUNK]), -1)
            total += (p.exp() * (p - q)).sum(-1).double().sum().item()
        return max(0.0, total / hidden.shape[0])


def _frequencies(checkpoint: Checkpoint, head_dim: int) -> torch.Tensor:
    """Radians that each pair turns a token, float32. Raises FileError."""
    config, path = checkpoint.config, checkpoint.folder / "config.json"
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    base = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if kind == "linear":
        base = base / rope["factor"]
    elif kind == "llama3":
        base = _llama3(base, rope)
    elif kind != "default":
        raise FileError(path, "rope_type", "default or linear or llama3", kind)
    return base.float()


def _llama3(base: torch.Tensor, rope: dict) -> torch.Tensor:
    """Long waves are slowed by the factor, short ones stay, those between are mixed."""
    low, high, length = (rope[name] for name in ("low_freq_factor", "high_freq_factor",
                                                 "original_max_position_embeddings"))
    turns = length * base / (2 * math.pi)
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return base / rope["factor"] * (1 - smooth) + base * smooth
