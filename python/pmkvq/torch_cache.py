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

import itertools
import os
from pathlib import Path

import numpy as np

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the model's folder
import torch
import transformers

from pmkvq import calibration_file
from pmkvq.baselines import KEY, VALUE, Scheme
from pmkvq.cache_plan import DROPPED, PAGE_TOKENS, Geometry, Limits, Plan, by_importance, part_levels
from pmkvq.errors import FileError

# A name a model: attention is found by its name, and reads its own model's cache.
_ATTENTION = (f"pmkvq_paged_{number}" for number in itertools.count())
# Positions whose distributions are in memory at a time, in double precision.
_ROWS = 128


class PagedCache:
    """Keys and values of equally long sequences: what was put in, and what is read back.

    Args:
        sequences: how many. tokens: the most that each will hold.
        order: which pages fall below 2 bits first: the oldest ("age"), or those of the least
            "mass" (attention that they received so far), "recent" mass (since the page before
            was made) or "error" (mass times length of values).
    """

    def __init__(self, geometry: Geometry, scheme: Scheme, limits: Limits, sequences: int, tokens: int, device: str,
                 order: str = "age"):
        self._geometry, self._scheme, self._limits, self._order = geometry, scheme, limits, order
        # One sequence's budget: all have the same levels, but for an order that looks.
        self._plan = Plan(geometry, limits, 1, tokens)
        self._levels = self._plan.levels
        shape = (2, sequences, geometry.kv_heads, tokens, geometry.head_dim)
        self._given = [torch.empty(shape, dtype=torch.bfloat16, device=device) for _ in range(geometry.layers)]
        self._read = [torch.empty(shape, device=device) for _ in range(geometry.layers)]
        # Where a key is not there any more, and what each has received, [sequences, kv_heads, tokens] a layer.
        self._dropped = [torch.zeros(shape[1:4], dtype=torch.bool, device=device) for _ in range(geometry.layers)]
        self._drops = False
        self._mass = torch.zeros((geometry.layers, *shape[1:4]), device=device) if order != "age" else None
        self._mass_before = None
        # Attention of the newest rows, [sequences, kv_heads, count, tokens] a layer: some may not be kept.
        self._newest: list[torch.Tensor] = []
        # What queries of the rows that were kept were like (Trial.feedback), [sequences, kv_heads, ...] a layer;
        # those of the newest, [sequences, kv_heads, group, count, head_dim], and the token that they begin at.
        self._feedback = getattr(scheme, "feedback", None)
        size = (geometry.head_dim,) * (2 if self._feedback == "full" else 1)
        self._moments = torch.zeros((geometry.layers, *shape[1:3], *size), device=device, dtype=torch.float64)
        self._counts_queries = self._feedback is not None
        if self._feedback and scheme.calibration:
            self._moments += torch.from_numpy(_squares(scheme.calibration, geometry))[:, None].to(device)
            self._counts_queries = False
        self._newest_queries: list[tuple[torch.Tensor, int]] = []
        self._slid = 0
        self._codes = True
        self.tokens = 0
        self.points = [[0, self._plan.bytes]]

    def read_back(self, codes: bool) -> None:
        """Whether what is in pages is read from codes, from now on, or as it was put in."""
        if codes and not self._codes:
            # All at once: the bytes at that moment are those of bf16.
            self.points.append([self.tokens, self._geometry.fixed_bytes(0) + self._geometry.bf16_bytes(self.tokens)])
            self._codes = True
            self._count_queries()
            self._write(self._levels[:0], self._levels)
        self._codes = codes

    def bits(self) -> float:
        """Bits an element of pages, parameters included."""
        return self._plan.bits()

    def room(self) -> int:
        """Tokens that may come before the next page is made; none: it is made first."""
        window = self.tokens - self._geometry.sink
        return PAGE_TOKENS - (window % PAGE_TOKENS if window >= PAGE_TOKENS else window)

    def prepare(self) -> None:
        """Before new rows, at most room(): makes the page that they push out of the window."""
        self._slide()
        self._count_attention()
        self._count_queries()
        window = self.tokens - self._geometry.sink
        if window > 0 and window % PAGE_TOKENS == 0:
            before = self._levels
            self._plan.add_page()
            self._levels = self._choose(before, self._plan.levels)
            self._write(before, self._levels)
            self.points.append([self.tokens + 1, self._plan.bytes])

    def _count_attention(self) -> None:
        """Adds what the rows that were kept attended to."""
        for layer, p in enumerate(self._newest):
            count, end = p.shape[-2:]
            kept = self.tokens - (end - count)
            self._mass[layer, ..., :end] += p[..., :kept, :].sum(-2)
        self._newest = []

    def _count_queries(self) -> None:
        """Adds the queries of the rows that were kept to the moments."""
        for moments, (queries, begin) in zip(self._moments, self._newest_queries):
            kept = queries[..., :self.tokens - begin, :].flatten(2, 3).double()
            moments += kept.mT @ kept if self._feedback == "full" else (kept * kept).sum(-2)
        self._newest_queries = []

    def _choose(self, before: np.ndarray, planned: np.ndarray) -> np.ndarray:
        """Levels of pages in this cache's order."""
        if self._order == "age":
            return planned
        begin, count = self._geometry.sink, PAGE_TOKENS * len(planned)
        mass = self._mass[..., begin:begin + count].clone()
        if self._order == "recent":
            recent = mass.clone()
            if self._mass_before is not None:
                recent[..., :self._mass_before.shape[-1]] -= self._mass_before
            mass, self._mass_before = recent, mass
        elif self._order == "error":
            for own, given in zip(mass, self._given):
                own *= given[VALUE, :, :, begin:begin + count].float().norm(dim=-1)
        pages = mass.unflatten(-1, (-1, PAGE_TOKENS)).sum(-1)
        return by_importance(before, planned, pages.permute(3, 1, 0, 2).cpu().numpy())

    def _write(self, before: np.ndarray, after: np.ndarray) -> None:
        """Decodes the pages that are new or have fallen."""
        if not self._codes:
            return
        for part in (KEY, VALUE):
            if part == VALUE and self._scheme.slides:
                continue
            old, new = (part_levels(levels, part, self._limits.floor) for levels in (before, after))
            # A new page had no bits, not even those of one that is dropped.
            old = np.concatenate([np.broadcast_to(old, (len(old), *new.shape[1:])), np.full_like(new[len(old):], -1)])
            changed = old != new
            for page, layer in np.argwhere(changed.any((1, 3))):
                self._write_layer(part, page, layer, new[page, :, layer], changed[page, :, layer])

    def _write_layer(self, part: int, page: int, layer: int, bits: np.ndarray, changed: np.ndarray) -> None:
        """One part of a page of all heads. bits, changed: [sequences or 1, kv_heads]."""
        begin = self._geometry.sink + PAGE_TOKENS * page
        rows = slice(begin, begin + PAGE_TOKENS)
        x = self._given[layer][part, :, :, rows].float()
        first = self._given[layer][part, :, :, begin - PAGE_TOKENS:begin].float() if page % 2 else None
        read = self._read[layer][part, :, :, rows]
        for width in np.unique(bits[changed]).tolist():
            here = torch.from_numpy(changed & (bits == width)).to(x.device)[..., None]
            if width == DROPPED:
                self._dropped[layer][..., rows] |= here
                self._drops = True
                continue
            more = {"moments": self._moments[layer]} if self._feedback and part == KEY else {}
            decoded = self._scheme.decode(x, part, int(width) if width.is_integer() else width, first, **more).float()
            read[...] = torch.where(here[..., None], decoded, read)

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
        if self._counts_queries:
            self._newest_queries.append((grouped.view(sequences, kv_heads, -1, count, size), self.tokens))
        p = grouped @ keys.transpose(-1, -2)
        p *= scale
        if count > 1:
            unseen = torch.full((count, count), -torch.inf, device=p.device).triu(1)
            p.view(sequences, kv_heads, -1, count, end)[..., self.tokens:] += unseen
        if self._drops:
            p.masked_fill_(self._dropped[layer][:, :, None, :end], -torch.inf)
        p = p.softmax(-1)
        if self._mass is not None:
            self._newest.append(p.view(sequences, kv_heads, -1, count, end).sum(2))
        result = p @ values
        if self._scheme.slides:
            result += self._sliding(layer, p.view(sequences, kv_heads, -1, count, end)).view(result.shape)
        return result.view(sequences, heads, count, size).transpose(1, 2)

    def _slide(self) -> None:
        """Values that have left a window of 128 by now become codes, if they do so one by one."""
        end = self.tokens - PAGE_TOKENS
        if self._codes and self._scheme.slides and end > self._slid:
            for read in self._read:
                values = read[VALUE, :, :, self._slid:end]
                values[...] = self._scheme.decode(values, VALUE, self._limits.floor[VALUE])
            self._slid = end

    def _sliding(self, layer: int, p: torch.Tensor) -> torch.Tensor:
        """What values that leave the window between the newest rows change in each row's result.

        Args:
            p: [sequences, kv_heads, queries, count, tokens] probabilities.
        """
        count, end = p.shape[-2], self.tokens + p.shape[-2] - PAGE_TOKENS
        if end <= self._slid or not self._codes:
            return p.new_zeros(*p.shape[:-1], self._geometry.head_dim)
        values = self._read[layer][VALUE, :, :, self._slid:end]
        decoded = self._scheme.decode(values, VALUE, self._limits.floor[VALUE])
        # The row of token t reads codes of tokens up to t - 128.
        last = torch.arange(count, device=p.device)[:, None] + self.tokens - PAGE_TOKENS
        left = p[..., self._slid:end] * (torch.arange(self._slid, end, device=p.device) <= last)
        return left @ (decoded - values)[:, :, None]


def _squares(path: str, geometry: Geometry) -> np.ndarray:
    """A calibration's squares of queries. Raises FileError if it has none, or another model's."""
    squares = calibration_file.read(path).query_squares()
    expected = (geometry.layers, geometry.kv_heads, geometry.head_dim)
    if squares is None or squares.shape != expected:
        raise FileError(path, "query_squares", f"{list(expected)} numbers; calibrate again",
                        squares if squares is None else list(squares.shape))
    return squares


class PagedModel:
    """A model folder, ready to be run with any scheme."""

    def __init__(self, folder: Path, device: str, threads: int | None):
        if threads:
            torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        attention = next(_ATTENTION)
        transformers.AttentionInterface.register(attention, self._attend)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention).to(device).eval()
        self.device = device
        self._cache: PagedCache | None = None

    def _attend(self, module, query, key, value, attention_mask, scaling, **_):
        del attention_mask
        self._cache.append(module.layer_idx, key, value)
        return self._cache.attend(module.layer_idx, query, scaling), None

    @torch.inference_mode()
    def step(self, cache: PagedCache, rows: torch.Tensor, last: bool) -> torch.Tensor:
        """Logits after the rows, [sequences, count or 1, vocab]. The caller counts cache.tokens up.

        Args:
            rows: [sequences, count] ids, at most cache.room().
            last: of the last row alone.
        """
        cache.prepare()
        self._cache = cache
        positions = torch.arange(cache.tokens, cache.tokens + rows.shape[1], device=rows.device)[None]
        return self._model(rows, position_ids=positions, use_cache=False, logits_to_keep=1 if last else 0).logits


def divergences_on_device(expected: np.ndarray, logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What divergence.divergences() gives, computed where the logits are."""
    kl, same = [], []
    for begin in range(0, len(logits), _ROWS):
        here = slice(begin, begin + _ROWS)
        given = torch.from_numpy(np.array(expected[here])).to(logits.device)
        p, q = given.double().log_softmax(-1), logits[here].double().log_softmax(-1)
        kl.append((p.exp() * (p - q)).sum(-1))
        same.append(given.argmax(-1) == logits[here].argmax(-1))
    return torch.cat(kl).cpu().numpy(), torch.cat(same).cpu().numpy()


def force(model: PagedModel, cache: PagedCache, tokens: list[int], on_logits) -> None:
    """Feeds one text; on_logits(position, [count, vocab] float32 on the model's device) for every chunk."""
    while cache.tokens < len(tokens):
        rows = torch.tensor([tokens[cache.tokens:cache.tokens + cache.room()]], device=model.device)
        logits = model.step(cache, rows, last=False)[0]
        cache.tokens += len(logits)
        on_logits(cache.tokens - len(logits), logits)


def prefill(model: PagedModel, cache: PagedCache, prompts: list[list[int]]) -> torch.Tensor:
    """The token after each of equally long prompts, [sequences, 1]; from then on codes are read."""
    given = torch.tensor(prompts, device=model.device)
    while cache.tokens < given.shape[1]:
        rows = given[:, cache.tokens:cache.tokens + cache.room()]
        logits = model.step(cache, rows, last=True)
        cache.tokens += rows.shape[1]
    cache.read_back(codes=True)
    return logits[:, -1].argmax(-1, keepdim=True)


def generate(model: PagedModel, cache: PagedCache, prompts: list[list[int]], count: int, on_step) -> list[list[int]]:
    """`count` greedy tokens for each of equally long prompts; on_step(tokens generated) after each."""
    found = [prefill(model, cache, prompts)]
    while len(found) < count:
        logits = model.step(cache, found[-1], last=True)
        cache.tokens += 1
        found.append(logits[:, -1].argmax(-1, keepdim=True))
        on_step(len(found))
    return torch.cat(found, 1).tolist()


def generate_guessing(model: PagedModel, cache: PagedCache, prompt: list[int], guess: list[int],
                      on_step) -> tuple[list[int], int]:
    """What generate() gives for one prompt, and the steps that it took.

    Many tokens are fed at a time, those of `guess` at their places. They are kept up to the first that
    the model would not have chosen; its own token takes that one's place.
    """
    found = [int(prefill(model, cache, [prompt]))]
    ahead, steps = PAGE_TOKENS, 0
    while len(found) < len(guess):
        # The last token found is not in the cache yet.
        rows = [found[-1], *guess[len(found):len(found) - 1 + min(ahead, cache.room())]][:len(guess) - len(found)]
        chosen = model.step(cache, torch.tensor([rows], device=model.device), last=False)[0].argmax(-1).tolist()
        kept = 1
        while kept < len(rows) and rows[kept] == chosen[kept - 1]:
            kept += 1
        found += chosen[:kept]
        cache.tokens += kept
        ahead = 2 * ahead if kept == len(rows) else 4
        steps += 1
        on_step(len(found))
    return found, steps
