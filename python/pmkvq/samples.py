"""Samples of token ids for calibration: from a text, from token ids, or by the model itself.

Neighbours: calibrate.py; runner.py runs pmkvq-run for what the model writes.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmkvq.errors import FileError
from pmkvq.runner import RunError, generate

# Sequences that the model writes side by side.
_BATCH = 8


@dataclass(frozen=True)
class Samples:
    """tokens: [samples][tokens]. kind: text, tokens or self. source: where they are from."""

    tokens: list[list[int]]
    kind: str
    source: str

    def hash(self) -> str:
        """Of the ids alone."""
        text = json.dumps(self.tokens, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def cut_text(ids: list[int], count: int, length: int, seed: int) -> list[list[int]]:
    """`count` windows of `length` tokens in an order that the seed says.

    Windows that do not overlap come first; if there are too few, others begin anywhere.
    """
    random = np.random.default_rng(seed)
    starts = list(random.permutation(len(ids) // length) * length)
    if count > len(starts):
        starts += list(random.integers(0, len(ids) - length + 1, count - len(starts)))
    return [ids[at:at + length] for at in starts[:count]]


def read_text(path, tokenizer_path, count: int, length: int, seed: int) -> Samples:
    """Raises FileError."""
    from tokenizers import Tokenizer

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, "file", problem=str(error)) from None
    if not Path(tokenizer_path).is_file():
        raise FileError(tokenizer_path, "file", problem="missing; a text needs it (token ids do not)")
    ids = Tokenizer.from_file(str(tokenizer_path)).encode(text, add_special_tokens=False).ids
    if len(ids) < length:
        raise FileError(path, "file", f"at least {length} tokens, one sample", f"{len(ids)} tokens")
    return Samples(cut_text(ids, count, length, seed), "text", Path(path).name)


def read_tokens(path, count: int, length: int, seed: int) -> Samples:
    """One sample a line: {"tokens": [...]}, {"prompt": [...], "answer": [...]} or [...].

    Lines in an order that the seed says, cut after `length` tokens. Raises FileError.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, "file", problem=str(error)) from None
    found = [_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len(found) < count:
        raise FileError(path, "file", f"at least {count} samples, one a line", f"{len(found)} lines")
    order = np.random.default_rng(seed).permutation(len(found))[:count]
    return Samples([found[i][:length] for i in order], "tokens", Path(path).name)


def _line(path, number: int, line: str) -> list[int]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise FileError(path, f"line {number}", problem=f"not JSON: {error}") from None
    if isinstance(value, dict):
        value = value["tokens"] if "tokens" in value else \
            [*_list(value.get("prompt")), *_list(value.get("answer"))]
    value = _list(value)
    if not value or any(type(token) is not int for token in value):
        raise FileError(path, f"line {number}", 'token ids, in "tokens", in "prompt" and "answer", or alone',
                        line)
    return value


def _list(value) -> list:
    return value if isinstance(value, list) else []


def write_self(model, count: int, length: int, seed: int, first: int, say) -> Samples:
    """Text that the model writes after its first token, at temperature 1.

    Texts that end early are put one behind the other. say: called with a line of progress.

    Raises:
        RunError: pmkvq-run fails, or the model ends every text at once.
    """
    ids, batch = [], 0
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.jsonl"
        prompts.write_text((json.dumps({"prompt": [first]}) + "\n") * _BATCH)
        while len(ids) < count * length:
            before = len(ids)
            output = generate(model, f"--prompts={prompts}", f"--max-tokens={length - 1}", "--temperature=1",
                              f"--seed={seed * 100_003 + batch}")
            for text in output.tokens:
                ids += [first, *text]
            batch += 1
            if len(ids) < before + 16 * _BATCH:
                raise RunError(f"the model's own texts are {(len(ids) - before) / _BATCH:.0f} tokens long, "
                               "too short to calibrate with")
            say(f"the model writes: {min(len(ids), count * length):,} of {count * length:,} tokens")
    return Samples([ids[i * length:(i + 1) * length] for i in range(count)], "self", "pmkvq-run")


def check(samples: Samples, vocab: int, positions: int) -> None:
    """Raises FileError for tokens out of the vocabulary, samples too long or too short."""
    if not samples.tokens:
        raise FileError(samples.source, "samples", "at least 1", 0)
    for number, tokens in enumerate(samples.tokens):
        name = f"sample {number}"
        if len(tokens) > positions:
            raise FileError(samples.source, name, f"at most {positions} tokens (max_position_embeddings)",
                            len(tokens))
        if len(tokens) < 130:
            raise FileError(samples.source, name, "at least 130 tokens, so that there is a page", len(tokens))
        wrong = next((token for token in tokens if not 0 <= token < vocab), None)
        if wrong is not None:
            raise FileError(samples.source, name, f"token ids below {vocab}", wrong)
