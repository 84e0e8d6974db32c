"""Text in and out of token ids, as a child process of pmkvq-run.

    python -m pmkvq.text MODEL_DIR|ARTIFACT

One JSON object a line on stdin, one JSON object a line (ASCII only) on stdout,
in order, until stdin ends. Nothing is printed before the first request.

    {"encode": "text"}                      -> {"tokens": [1, 2]}
    {"encode": "text", "chat": true}        -> the text as a user's turn in the model's chat
                                               template; "auto": if it has one
    {"decode": [1, 2]}                      -> {"text": "..."}
    {"stream": [1], "sequence": 0}          -> {"text": "..."}  what these tokens add
    {"stream": [], "sequence": 0, "end": true}  -> {"text": "..."}  what was held back
    anything wrong                          -> {"error": "..."}; the next request is served

`sequence` (default 0) tells the streams of a batch apart. A stream holds back a
character until its last byte has come. Special tokens are not shown.
Neighbours: gguf_import.py writes such folders, artifact.py reads the other kind of place.
"""

from __future__ import annotations

import json
import os
import sys

from pmkvq.artifact import read_sections
from pmkvq.errors import FileError


class TokenizerFiles:
    """The files of a model's folder, or of an artifact, that text needs. Raises FileError."""

    def __init__(self, place):
        self.place = str(place)
        self._sections = None if os.path.isdir(place) else read_sections(place, "tokenizer/")

    def path(self, name: str) -> str:
        """For messages."""
        return os.path.join(self.place, name)

    def read(self, name: str) -> str | None:
        """A file's text; none: it is not there."""
        if self._sections is not None:
            data = self._sections.get(name)
        elif os.path.isfile(self.path(name)):
            with open(self.path(name), "rb") as file:
                data = file.read()
        else:
            data = None
        try:
            return None if data is None else data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileError(self.path(name), "file", problem=f"not UTF-8: {error}") from None


class Stream:
    """The text of one growing sequence.

    A token's text depends on its neighbours (a character may span tokens), so
    the unprinted tokens are decoded together with the last printed ones, and
    only what they add is returned.
    """

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._printed: list[int] = []
        self._pending: list[int] = []

    def add(self, tokens: list[int]) -> str:
        self._pending += tokens
        text = self._added()
        # U+FFFD at the end: the last character is incomplete.
        if not text or text.endswith("\ufffd"):
            return ""
        self._printed, self._pending = self._pending, []
        return text

    def end(self) -> str:
        text = self._added()
        self._printed, self._pending = [], []
        return text

    def _added(self) -> str:
        before = self._tokenizer.decode(self._printed)
        return self._tokenizer.decode(self._printed + self._pending)[len(before):]


class TextServer:
    """Answers requests for the model in `place`, a folder or an artifact. Raises FileError."""

    def __init__(self, place: str):
        self._files = TokenizerFiles(place)
        self._tokenizer = load_tokenizer(self._files)
        self._config = _load_config(self._files)
        self._streams: dict[int, Stream] = {}

    def answer(self, request) -> dict:
        """One request to one answer. Raises ValueError, FileError."""
        if not isinstance(request, dict):
            raise ValueError("a request is a JSON object")
        kinds = [kind for kind in ("encode", "decode", "stream") if kind in request]
        if len(kinds) != 1:
            raise ValueError('a request has one of "encode", "decode" and "stream"')
        return getattr(self, "_" + kinds[0])(request)

    def _encode(self, request) -> dict:
        text, chat = request["encode"], request.get("chat", False)
        if not isinstance(text, str):
            raise ValueError('"encode" is a string')
        if chat not in (True, False, "auto"):
            raise ValueError('"chat" is true, false or "auto"')
        template = self._chat_template() if chat else None
        if chat is True and template is None:
            raise FileError(self._files.place, "tokenizer_config.json", problem="no chat_template")
        if template is None:
            return {"tokens": self._tokenizer.encode(text).ids}
        text = _render(template, text, self._config)
        # The template writes the special tokens itself.
        return {"tokens": self._tokenizer.encode(text, add_special_tokens=False).ids}

    def _decode(self, request) -> dict:
        return {"text": self._tokenizer.decode(self._tokens(request["decode"]))}

    def _stream(self, request) -> dict:
        sequence = request.get("sequence", 0)
        if type(sequence) is not int:
            raise ValueError('"sequence" is a number')
        tokens = self._tokens(request["stream"])
        stream = self._streams.setdefault(sequence, Stream(self._tokenizer))
        text = stream.add(tokens)
        if request.get("end", False):
            text += self._streams.pop(sequence).end()
        return {"text": text}

    def _tokens(self, tokens) -> list[int]:
        if not isinstance(tokens, list) or any(type(token) is not int for token in tokens):
            raise ValueError("tokens are a list of numbers")
        for token in tokens:
            if not 0 <= token < 1 << 32:
                raise ValueError(f"token id {token} is out of range")
        return tokens

    def _chat_template(self) -> str | None:
        """In a file of its own, or in tokenizer_config.json."""
        template = self._files.read("chat_template.jinja")
        if template is not None:
            return template
        template = self._config.get("chat_template")
        if template is not None and not isinstance(template, str):
            raise FileError(self._files.path("tokenizer_config.json"), "chat_template",
                            "a string", type(template).__name__)
        return template


def load_tokenizer(files: TokenizerFiles):
    """The tokenizer of a place. Raises FileError."""
    from tokenizers import Tokenizer

    path, text = files.path("tokenizer.json"), files.read("tokenizer.json")
    if text is None:
        raise FileError(path, "file", problem="missing; text needs it (token ids do not)")
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise FileError(path, "file", problem=f"not a tokenizer: {error}") from None


def _load_config(files: TokenizerFiles) -> dict:
    path, text = files.path("tokenizer_config.json"), files.read("tokenizer_config.json")
    if text is None:
        return {}
    try:
        config = json.loads(text)
    except ValueError as error:
        raise FileError(path, "file", problem=f"not JSON: {error}") from None
    if not isinstance(config, dict):
        raise FileError(path, "file", "a JSON object", type(config).__name__)
    return config


def _render(template: str, text: str, config: dict) -> str:
    """`text` as the only turn, up to where the answer begins."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message):
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = refuse
    tokens = {name: _special(config.get(name)) for name in ("bos_token", "eos_token")}
    try:
        return environment.from_string(template).render(
            messages=[{"role": "user", "content": text}], add_generation_prompt=True, **tokens)
    except Exception as error:  # a template is a program: anything can come out of it
        raise ValueError(f"chat_template: {error}") from None


def _special(token) -> str:
    """A special token is a string, or an object that holds one."""
    return token.get("content", "") if isinstance(token, dict) else token or ""


def serve(place: str, requests, answers) -> int:
    """Answers until `requests` (binary lines) ends. Returns the exit code."""
    server, failure = None, None
    try:
        server = TextServer(place)
    except FileError as error:
        failure = str(error)
    for line in requests:
        if not line.strip():
            continue
        answers.write(json.dumps(_answer_line(server, failure, line)) + "\n")
        answers.flush()
    return 0 if server else 1


def _answer_line(server: TextServer | None, failure: str | None, line: bytes) -> dict:
    if server is None:
        return {"error": failure}
    try:
        return server.answer(json.loads(line.decode("utf-8")))
    except (ValueError, OverflowError, FileError) as error:
        return {"error": " ".join(str(error).split())}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m pmkvq.text MODEL_DIR|ARTIFACT", file=sys.stderr)
        return 2
    try:
        return serve(arguments[0], sys.stdin.buffer, sys.stdout)
    except (BrokenPipeError, KeyboardInterrupt):
        # The parent is gone: nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
