"""What `pmkvq eval` reads: programs with their only right answers, or texts.

A file of JSON lines has programs, {"prompt": ids, "answer": ids}, or texts,
{"tokens": ids}; any other file is one text in UTF-8. Neighbours: evaluate.py.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pmkvq.errors import FileError
from pmkvq.text import TokenizerFiles, load_tokenizer


@dataclass(frozen=True)
class Data:
    """answers: of programs, one a prompt; None for texts, which are all prompt."""

    name: str
    prompts: list[list[int]]
    answers: list[list[int]] | None

    @property
    def digest(self) -> str:
        """Of the tokens alone."""
        return hashlib.sha256(json.dumps([self.prompts, self.answers]).encode()).hexdigest()[:16]

    def cached(self, index: int) -> int:
        """Tokens in the cache at the end; the last token of an answer is never cached."""
        return len(self.prompts[index]) + (len(self.answers[index]) - 1 if self.answers else 0)


def read_data(paths: list[str], folder: Path, vocab: int, positions: int, limit: int | None,
              length: int | None) -> Data:
    """All files as one.

    Args:
        folder: the model's, for its tokenizer.
        vocab, positions: the model's; tokens and lengths beyond them are refused.
        limit: programs or texts, at most. length: tokens of a text, at most.

    Raises:
        FileError, OSError.
    """
    records = [record for path in paths for record in _read_file(path, folder)]
    records = records[:limit]
    kinds = {answer is None for _, _, answer in records}
    if len(kinds) == 2:
        raise FileError(",".join(paths), "data", "programs alone or texts alone", "both")
    prompts, answers = [], []
    for where, prompt, answer in records:
        if answer is None and length:
            prompt = prompt[:length]
        _check(where, prompt + (answer or []), vocab, positions)
        prompts.append(prompt)
        answers.append(answer)
    return Data(",".join(Path(path).name for path in paths), prompts, None if None in answers else answers)


def _read_file(path: str, folder: Path) -> list[tuple[str, list[int], list[int] | None]]:
    """(where it stands, prompt or text, answer or None) of every record."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FileError(path, "file", problem=f"not UTF-8: {error}") from None
    if Path(path).suffix == ".jsonl":
        records = [_read_line(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    else:
        records = [(path, _tokenize(folder, text), None)] if text.strip() else []
    if not records:
        raise FileError(path, "file", problem="empty: expected programs or a text")
    return records


def _read_line(path: str, number: int, line: str):
    where = f"{path}:{number}"
    try:
        record = json.loads(line)
    except ValueError as error:
        raise FileError(where, "line", problem=f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise FileError(where, "line", "a JSON object", record)
    if "tokens" in record:
        return where, _ids(where, record, "tokens"), None
    if "prompt" in record and "answer" not in record:
        raise FileError(where, "answer", problem='missing: a program has "prompt" and "answer", a text "tokens"')
    return where, _ids(where, record, "prompt"), _ids(where, record, "answer")


def _ids(where: str, record: dict, key: str) -> list[int]:
    ids = record.get(key)
    if not isinstance(ids, list) or not ids or any(type(token) is not int for token in ids):
        raise FileError(where, key, "a list of token ids, at least one", ids)
    return ids


def _check(where: str, tokens: list[int], vocab: int, positions: int) -> None:
    for at, token in enumerate(tokens):
        if not 0 <= token < vocab:
            raise FileError(where, f"token {at}", f"an id below the model's vocabulary, {vocab}", token)
    if len(tokens) > positions:
        raise FileError(where, "length", f"at most {positions} tokens, as many as the model has positions", len(tokens))
    if len(tokens) < 2:
        raise FileError(where, "length", "at least 2 tokens", len(tokens))


def _tokenize(folder: Path, text: str) -> list[int]:
    """Without a chat's frame."""
    return load_tokenizer(TokenizerFiles(folder)).encode(text, add_special_tokens=False).ids
