"""SmolLM2 against transformers, and its cache at few bits against its bf16 cache.

One text, every position of it: the logits of pmkvq-run are compared with those
that transformers computes in float32 from the same folder, whose weights are
rounded to bf16. The only place where torch is used; script/figures installs it.
Neighbours: figures.py (command line), divergence.py, smollm2.py.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmkvq import smollm2
from pmkvq.divergence import Divergence, diverge, read_logits
from pmkvq.runner import ROOT, RunError, Row, command, generate, kib, print_rows, shown

# The introduction of Darwin's On the Origin of Species (1859), and how its first chapter begins.
TEXT = Path(__file__).with_name("origin.txt")
_TOKENS, _BITS = 2000, "2.375"
# Tokens that transformers takes at a time, so that there is something to report.
_CHUNK = 250


@dataclass(frozen=True)
class Target:
    """The most that KL may be, in nats a position, and the least share of same top tokens."""

    kl: float
    same_top: float

    def rows(self, found: Divergence) -> list[Row]:
        return [
            ("same top token", f"{100 * found.same_top:.2f} %", f"at least {100 * self.same_top:g} %",
             found.same_top >= self.same_top),
            ("mean KL, nats", f"{found.kl:.3g}", f"at most {self.kl:g}", found.kl <= self.kl),
        ]


_BF16 = Target(kl=2e-4, same_top=0.99)
_LOWERED = Target(kl=0.015, same_top=0.95)


def read_tokens(folder: Path) -> list[int]:
    """The first tokens of the text, without a chat's frame. Raises RunError."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = tokenizer.encode(TEXT.read_text(encoding="utf-8"), add_special_tokens=False).ids
    if len(tokens) < _TOKENS:
        raise RunError(f"{TEXT.name} has {len(tokens)} tokens, needed are {_TOKENS}")
    return tokens[:_TOKENS]


def transformers_logits(folder: Path, tokens: list[int]) -> np.ndarray:
    """Logits in float32 from the folder's weights, attention as it is written down.

    Returns:
        [tokens, vocab], float32.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the folder
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager")
    logits = np.empty((len(tokens), model.config.vocab_size), np.float32)
    cache = transformers.DynamicCache(config=model.config)
    with torch.inference_mode():
        for at in range(0, len(tokens), _CHUNK):
            chunk = torch.tensor([tokens[at:at + _CHUNK]])
            result = model(chunk, cache=cache, use_cache=True)
            logits[at:at + chunk.shape[1]] = result.logits[0].numpy()
            print(f"  {at + chunk.shape[1]:,} of {len(tokens):,} tokens", flush=True)
    return logits


def pmkvq_logits(name: str, model: Path, prompts: Path, *options: str) -> tuple[np.ndarray, dict]:
    """What pmkvq-run expects after every token, [tokens, vocab] in float32, and the run's summary."""
    file = prompts.with_name("logits.safetensors")
    options = (f"--prompts={prompts}", "--max-tokens=1", f"--logits={file}", *options)
    print(f"\n{name}\n  $ {shown(command(model, *options))}", flush=True)
    begin = time.monotonic()
    summary = generate(model, *options).summary
    print(f"  {time.monotonic() - begin:.0f} s, cache {kib(summary['kv_bytes_peak'])}", flush=True)
    logits = read_logits(file)
    file.unlink()  # 0.4 GB, there as long as it is mapped
    return logits, summary


def smollm2_figures() -> bool:
    """Both comparisons over the text. True if every target is met. Raises RunError."""
    folder = ROOT / "build" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    model, prompts = folder / "SmolLM2-135M-Instruct", folder / "smollm2.jsonl"
    smollm2.convert(model)
    tokens = read_tokens(model)
    prompts.write_text(json.dumps({"prompt": tokens}) + "\n")
    bf16, _ = pmkvq_logits("bf16", model, prompts)
    lowered, summary = pmkvq_logits(f"{_BITS} bits an element", model, prompts, f"--kv-bits={_BITS}")
    print("\ntransformers, float32, the same bf16 weights", flush=True)
    against = diverge(transformers_logits(model, tokens), bf16)
    return report(against, diverge(bf16, lowered), summary)


def report(bf16: Divergence, lowered: Divergence, summary: dict) -> bool:
    """Prints both comparisons, measured beside wanted. True if all targets are met."""
    peak, budget = summary["kv_bytes_peak"], summary["kv_budget_bytes"]
    print(f"\nbf16 cache against transformers, {bf16.positions:,} positions")
    met = print_rows(_BF16.rows(bf16))
    print(f"--kv-bits={_BITS} against the bf16 cache, {lowered.positions:,} positions")
    return print_rows([*_LOWERED.rows(lowered),
                       ("cache bytes, peak", kib(peak), f"at most {kib(budget)}", peak <= budget)]) and met
