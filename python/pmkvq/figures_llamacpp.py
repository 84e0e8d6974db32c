"""SmolLM2 beside llama.cpp on this CPU: what attention over a long cache costs.

Both sides generate from the same tokens, two threads each. Attention's time is a
step's at a depth less a step's at 64 tokens, so that weights, of different
types here and there, do not count. The only place where llama-cpp-python is
used; script/figures installs it. Neighbours: figures.py (command line), smollm2.py.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from pmkvq import smollm2
from pmkvq.figures_smollm2 import TEXT
from pmkvq.runner import ROOT, command, generate, print_rows, shown

_THREADS = 2
_SHALLOW, _DEEP = 64, 7900
# So many tokens more over a cache of so many.
_CHUNK, _BEFORE = 512, 4000
_STEPS = 32


@dataclass(frozen=True)
class Timing:
    """attention: milliseconds of a decode step's attention at the depth.
    chunk: seconds of a prefill of 512 tokens over 4,000."""

    attention: float
    chunk: float


def read_tokens(folder: Path, count: int) -> list[int]:
    """The text's tokens, over and over."""
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(
        TEXT.read_text(encoding="utf-8"), add_special_tokens=False).ids
    return (tokens * (count // len(tokens) + 1))[:count]


def measure_pmkvq(model: Path, tokens: list[int], bits: int) -> Timing:
    """Raises RunError."""
    prompts = model.with_name("llamacpp.jsonl")

    def run(depth: int) -> dict:
        prompts.write_text(json.dumps({"prompt": tokens[:depth]}) + "\n")
        options = (f"--prompts={prompts}", f"--max-tokens={_STEPS + 1}", "--schedule=none", f"--floor={bits}",
                   f"--threads={_THREADS}")
        print(f"  $ {shown(command(model, *options))}   ({depth:,} tokens)", flush=True)
        return generate(model, *options).summary

    def step(summary: dict) -> float:
        return 1000 / summary["tokens_per_second"]

    def prefill(summary: dict, count: int) -> float:
        return count / summary["prefill_tokens_per_second"]

    deep, shallow = run(_DEEP), run(_SHALLOW)
    more, before = run(_BEFORE + _CHUNK), run(_BEFORE)
    return Timing(step(deep) - step(shallow), prefill(more, _BEFORE + _CHUNK) - prefill(before, _BEFORE))


def measure_llamacpp(tokens: list[int], cache: str) -> Timing:
    """cache: f16 or q4_0, keys and values; flash attention is on."""
    import llama_cpp

    kind = {"f16": llama_cpp.GGML_TYPE_F16, "q4_0": llama_cpp.GGML_TYPE_Q4_0}[cache]
    print(f"  llama.cpp, cache {cache}", flush=True)
    model = llama_cpp.Llama(str(smollm2.fetch()), n_ctx=8192, n_batch=_CHUNK, n_threads=_THREADS,
                            n_threads_batch=_THREADS, flash_attn=True, type_k=kind, type_v=kind, verbose=False)

    def seconds(part: list[int]) -> float:
        begin = time.monotonic()
        model.eval(part)
        return time.monotonic() - begin

    def step(depth: int) -> float:
        return 1000 * statistics.median(seconds([tokens[depth + i]]) for i in range(_STEPS))

    model.eval(tokens[:_SHALLOW])
    shallow = step(_SHALLOW)
    model.reset()
    model.eval(tokens[:_BEFORE])
    chunk = seconds(tokens[_BEFORE:_BEFORE + _CHUNK])
    model.eval(tokens[_BEFORE + _CHUNK:_DEEP])
    return Timing(step(_DEEP) - shallow, chunk)


def llamacpp_figures() -> bool:
    """Both, at every level of a cache. True if every target is met. Raises RunError."""
    model = ROOT / "build" / "figures" / "SmolLM2-135M-Instruct"
    model.parent.mkdir(parents=True, exist_ok=True)
    smollm2.convert(model)
    tokens = read_tokens(model, _DEEP + _STEPS)
    theirs = {cache: measure_llamacpp(tokens, cache) for cache in ("f16", "q4_0")}
    ours = {bits: measure_pmkvq(model, tokens, bits) for bits in (16, 8, 4, 2)}
    return report(ours, theirs)


def report(ours: dict[int, Timing], theirs: dict[str, Timing]) -> bool:
    """Prints times, then their ratios beside what is wanted. True if all are met."""
    print(f"\n{'cache':<20}{f'attention at {_DEEP:,}, ms':>24}{f'{_CHUNK} more at {_BEFORE:,}, s':>24}")
    for name, timing in [*((f"pmkvq, {bits} bits", ours[bits]) for bits in ours),
                         *((f"llama.cpp, {cache}", theirs[cache]) for cache in theirs)]:
        print(f"{name:<20}{timing.attention:>24.2f}{timing.chunk:>24.2f}", flush=True)
    wanted = [
        ("4 bits, q4_0", theirs["q4_0"].attention / ours[4].attention, 20),
        ("4 bits, f16", theirs["f16"].attention / ours[4].attention, 6),
        ("2 bits, f16", theirs["f16"].attention / ours[2].attention, 6),
        ("prefill 4, q4_0", theirs["q4_0"].chunk / ours[4].chunk, 3),
        ("prefill 4, f16", theirs["f16"].chunk / ours[4].chunk, 1),
    ]
    return print_rows([(name, f"{ratio:.1f} times", f"at least {least} times", ratio >= least)
                       for name, ratio, least in wanted])
