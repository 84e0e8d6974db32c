"""Turns the tokenizer in a GGUF file's metadata into tokenizer.json.

Byte-level BPE only (`tokenizer.ggml.model` = gpt2). GGUF names the rule that
splits text before merging (`tokenizer.ggml.pre`) but does not hold it, so the
rules are spelled out here. Neighbours: gguf_import.py writes the result;
text.py loads it.
"""

from __future__ import annotations

import json

from pmkvq.errors import FileError
from pmkvq.gguf_file import GGUFFile

# tokenizer.ggml.token_type
_CONTROL, _USER_DEFINED = 3, 4


def _byte_level(use_regex: bool) -> dict:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
            "use_regex": use_regex}


def _split(pattern: str) -> dict:
    return {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        _byte_level(use_regex=False)]}


def _words(digits: str) -> str:
    """The split of Llama 3 and Qwen2, which differ in the digits of a piece."""
    return (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits +
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


# Per `tokenizer.ggml.pre`: pre-tokenizer, normalizer, and whether a piece that
# is a token stays whole.
_RULES = {
    "gpt-2": (_byte_level(use_regex=True), None, False),
    "smollm": ({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True)]}, None, False),
    "qwen2": (_split(_words(r"\p{N}")), {"type": "NFC"}, False),
    "llama-bpe": (_split(_words(r"\p{N}{1,3}")), None, True),
}


def tokenizer_json(file: GGUFFile) -> dict:
    """Builds tokenizer.json.

    Raises:
        FileError: another kind of tokenizer, or metadata that contradicts itself.
    """
    model = _get(file, "tokenizer.ggml.model", str)
    if model != "gpt2":
        raise FileError(file.path, "tokenizer.ggml.model", "gpt2 (byte-level BPE)", model)
    pre = _get(file, "tokenizer.ggml.pre", str)
    if pre not in _RULES:
        raise FileError(file.path, "tokenizer.ggml.pre", " or ".join(_RULES), pre)
    splitter, normalizer, whole = _RULES[pre]
    tokens = _get(file, "tokenizer.ggml.tokens", list)
    vocab = {token: index for index, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise FileError(file.path, "tokenizer.ggml.tokens", f"{len(tokens)} distinct tokens", len(vocab))
    result = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": _added_tokens(file, tokens),
        "normalizer": normalizer, "pre_tokenizer": splitter,
        "post_processor": _post_processor(file, tokens), "decoder": _byte_level(use_regex=True),
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": whole,
                  "vocab": vocab, "merges": _merges(file, vocab)},
    }
    _check_loads(file, result)
    return result


def tokenizer_config(file: GGUFFile, context: int) -> dict:
    """Builds tokenizer_config.json; `context` in tokens."""
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context,
              "clean_up_tokenization_spaces": False,
              "add_bos_token": bool(file.metadata.get("tokenizer.ggml.add_bos_token", False))}
    tokens = _get(file, "tokenizer.ggml.tokens", list)
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        index = special_id(file, key)
        if index is not None:
            config[f"{name}_token"] = tokens[index]
    template = file.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        config["chat_template"] = template
    return config


def special_id(file: GGUFFile, name: str) -> int | None:
    """The id in `tokenizer.ggml.<name>_token_id`, checked; None where absent."""
    key = f"tokenizer.ggml.{name}_token_id"
    index = file.metadata.get(key)
    if index is None:
        return None
    count = len(_get(file, "tokenizer.ggml.tokens", list))
    if type(index) is not int or not 0 <= index < count:
        raise FileError(file.path, key, f"an id below {count}", index)
    return index


def _get(file: GGUFFile, key: str, kind: type):
    value = file.metadata.get(key)
    if not isinstance(value, kind):
        raise FileError(file.path, key, kind.__name__, "nothing" if value is None else value)
    return value


def _added_tokens(file: GGUFFile, tokens: list[str]) -> list[dict]:
    """Tokens that are matched in the text before it is split."""
    types = file.metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise FileError(file.path, "tokenizer.ggml.token_type", f"{len(tokens)} entries",
                        len(types) if isinstance(types, list) else types)
    return [{"id": index, "content": tokens[index], "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": kind == _CONTROL}
            for index, kind in enumerate(types) if kind in (_CONTROL, _USER_DEFINED)]


def _merges(file: GGUFFile, vocab: dict[str, int]) -> list[list[str]]:
    merges = []
    for index, merge in enumerate(_get(file, "tokenizer.ggml.merges", list)):
        field = f"tokenizer.ggml.merges[{index}]"
        left, space, right = merge.partition(" ") if isinstance(merge, str) else ("", "", "")
        if not space:
            raise FileError(file.path, field, "two tokens with a space between", merge)
        for token in (left, right, left + right):
            if token not in vocab:
                raise FileError(file.path, field, "tokens of the vocabulary", token)
        merges.append([left, right])
    return merges


def _post_processor(file: GGUFFile, tokens: list[str]) -> dict | None:
    """Puts the beginning-of-text token first where the model wants it."""
    bos = special_id(file, "bos")
    if not file.metadata.get("tokenizer.ggml.add_bos_token", False) or bos is None:
        return None
    token = {"SpecialToken": {"id": tokens[bos], "type_id": 0}}
    a, b = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    return {"type": "TemplateProcessing", "single": [token, a], "pair": [token, a, b],
            "special_tokens": {tokens[bos]: {"id": tokens[bos], "ids": [bos], "tokens": [tokens[bos]]}}}


def _check_loads(file: GGUFFile, result: dict):
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_str(json.dumps(result))
    except Exception as error:  # the library raises bare Exception
        raise FileError(file.path, "tokenizer.ggml", problem=f"no valid tokenizer: {error}") from None
