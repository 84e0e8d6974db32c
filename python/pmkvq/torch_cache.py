"""A model in torch whose cache passes through a baseline's codes.

transformers computes the model, in float32 over its bf16 weights; keys and values go
into a PagedCache, which returns what attention would read back from codes. The only
place beside figures_smollm2.py where torch is used. Neighbours: baselines.py (what
decodes), cache_plan.py (which level when), evaluate.py.

Rows are fed as pmkvq-run feeds them: one by one, or as many at a time as end before
the next page is made, which gives the same attention. So a prompt is read back from
codes like all that follows, and never more bytes are held than the method may hold.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the model's folder
import torch
import transformers

from pmkvq.baselines import KEY, VALUE, Scheme
from pmkvq.cache_plan import PAGE_TOKENS, Geometry, Limits, Plan

_ATTENTION = "pmkvq_paged"


class PagedCache:
    """Keys and values of equally long sequences: what was put in, and what is read back.

    Args:
        sequences: how many. tokens: the most that each will hold.
    """

    def __init__(self, geometry: Geometry, scheme: Scheme, limits: Limits, sequences: int, tokens: int):
        self._geometry, self._scheme, self._limits = geometry, scheme, limits
        # One sequence's budget: all have the same levels.
        self._plan = Plan(geometry, limits, 1, tokens)
        shape = (2, sequences, geometry.kv_heads, tokens, geometry.head_dim)
        self._given = [torch.empty(shape, dtype=torch.bfloat16) for _ in range(geometry.layers)]
        self._read = [torch.empty(shape) for _ in range(geometry.layers)]
        self.tokens = 0
        self.points = [[0, self._plan.bytes]]

    def bits(self) -> float:
        """Bits an element of pages, parameters included."""
        return self._plan.bits()

    def room(self) -> int:
        """Tokens that may come before the next page is made; none: it is made first."""
        window = self.tokens - self._geometry.sink
        return PAGE_TOKENS - (window % PAGE_TOKENS if window >= PAGE_TOKENS else window)

    def prepare(self, count: int) -> None:
        """Makes the page that the next `count` tokens push out of the window."""
        window = self.tokens - self._geometry.sink
        if count and window > 0 and window % PAGE_TOKENS == 0:
            before = self._plan.levels
            self._plan.add_page()
            self._write(before, self._plan.levels)
            self.points.append([self.tokens + 1, self._plan.bytes])

    def _write(self, before: np.ndarray, after: np.ndarray) -> None:
        """Decodes the pages that are new or have fallen."""
        for part in (KEY, VALUE):
            if part == VALUE and self._scheme.slides:
                continue
            floor = self._limits.floor[part]
            old, new = np.maximum(before, floor), np.maximum(after, floor)
            old = np.concatenate([old, np.full_like(new[len(old):], 0)])
            for page, _, layer, head in np.argwhere(old != new):
                begin = self._geometry.sink + PAGE_TOKENS * page
                rows = slice(begin, begin + PAGE_TOKENS)
                x = self._given[layer][part, :, head, rows].float()
                self._read[layer][part, :, head, rows] = self._scheme.decode(x, part, int(new[page, 0, layer, head]))

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Rows [sequences, kv_heads, count, head_dim] of one layer."""
        here = slice(self.tokens, self.tokens + keys.shape[2])
        for part, x in ((KEY, keys), (VALUE, values)):
            self._given[layer][part, :, :, here] = x
            self._read[layer][part, :, :, here] = self._scheme.store(self._given[layer][part, :, :, here].float())

    def attend(self, layer: int, queries: torch.Tensor, scale: float) -> torch.Tensor:
        """Causal attention of the newest rows.

        Args:
            queries: [sequences, heads, count, head_dim].

        Returns:
            [sequences, count, heads, head_dim].
        """
        sequences, heads, count, size = queries.shape
        kv_heads, end = self._geometry.kv_heads, self.tokens + count
        keys, values = self._read[layer][:, :, :, :end]
        grouped = queries.reshape(sequences, kv_heads, -1, size)
        p = grouped @ keys.transpose(-1, -2)
        p *= scale
        if count > 1:
            unseen = torch.full((count, count), -torch.inf).triu(1)
            p.view(sequences, kv_heads, -1, count, end)[..., self.tokens:] += unseen
        p = p.softmax(-1)
        result = p @ values
        if self._scheme.slides:
            result += self._slide(layer, p.view(sequences, kv_heads, -1, count, end)).view(result.shape)
        return result.view(sequences, heads, count, size).transpose(1, 2)

    def _slide(self, layer: int, p: torch.Tensor) -> torch.Tensor:
        """What values that have left the window, row by row, change; then they are codes for all."""
        width = self._limits.floor[VALUE]
        first = max(0, self.tokens - PAGE_TOKENS)
        last = max(0, self.tokens + p.shape[-2] - PAGE_TOKENS)
        if first == last or width == 16:
            return torch.zeros(*p.shape[:-1], self._geometry.head_dim)
        values = self._read[layer][VALUE, :, :, first:last]
        decoded = self._scheme.decode(values, VALUE, width)
        # Row i is token tokens + i: it reads codes of tokens up to tokens + i - 128.
        rows = torch.arange(p.shape[-2])[:, None] + self.tokens - PAGE_TOKENS
        left = p[..., first:last] * (torch.arange(first, last) <= rows)
        change = left @ (decoded - values)[:, :, None]
        self._read[layer][VALUE, :, :, first:last] = decoded
        return change


class PagedModel:
    """A model folder, ready to be run with any scheme."""

    def __init__(self, folder: Path):
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        transformers.AttentionInterface.register(_ATTENTION, self._attend)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=_ATTENTION).eval()
        self._cache: PagedCache | None = None

    def _attend(self, module, query, key, value, attention_mask, scaling, **_):
        del attention_mask
        self._cache.append(module.layer_idx, key, value)
        return self._cache.attend(module.layer_idx, query, scaling), None

    @torch.inference_mode()
    def step(self, cache: PagedCache, rows: torch.Tensor, last: bool) -> torch.Tensor:
        """Logits after the rows, [sequences, count or 1, vocab].

        Args:
            rows: [sequences, count] ids, at most cache.room().
            last: of the last row alone.
        """
        cache.prepare(rows.shape[1])
        self._cache = cache
        positions = torch.arange(cache.tokens, cache.tokens + rows.shape[1])[None]
        logits = self._model(rows, position_ids=positions, use_cache=False,
                             logits_to_keep=1 if last else 0).logits
        cache.tokens += rows.shape[1]
        return logits


def force(model: PagedModel, cache: PagedCache, tokens: list[int], on_logits) -> None:
    """Feeds one text; on_logits(position, [count, vocab] float32 array) for every chunk."""
    while cache.tokens < len(tokens):
        begin = cache.tokens
        rows = torch.tensor([tokens[begin:begin + cache.room()]])
        on_logits(begin, model.step(cache, rows, last=False)[0].numpy())


def generate(model: PagedModel, cache: PagedCache, prompts: list[list[int]], count: int, on_step) -> list[list[int]]:
    """`count` greedy tokens for each of equally long prompts; on_step(tokens generated) after each."""
    given = torch.tensor(prompts)
    while cache.tokens < given.shape[1]:
        logits = model.step(cache, given[:, cache.tokens:cache.tokens + cache.room()], last=True)
    found = []
    for step in range(count):
        found.append(logits[:, -1].argmax(-1, keepdim=True))
        on_step(step + 1)
        if step + 1 < count:
            logits = model.step(cache, found[-1], last=True)
    return torch.cat(found, 1).tolist()
