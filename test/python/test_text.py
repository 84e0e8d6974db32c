"""The text child: its line protocol, streams and chat templates."""

import json
import subprocess
import sys

import pytest

import tiny_gguf
from pmkvq.errors import FileError
from pmkvq.gguf_import import convert
from pmkvq.text import TextServer

START, END = 1, 0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    tiny_gguf.write(folder / "m.gguf")
    convert(folder / "m.gguf", folder / "model")
    return folder / "model"


@pytest.fixture
def server(model):
    return TextServer(str(model))


def token(text):
    return tiny_gguf.TOKENS.index(text)


def byte_tokens(text):
    return [token(tiny_gguf.bytes_to_unicode()[byte]) for byte in text.encode()]


def test_encode_and_decode(server):
    tokens = server.answer({"encode": "hello w"})["tokens"]
    assert tokens == [token("hello"), token("Ġw")]
    assert server.answer({"decode": tokens}) == {"text": "hello w"}


@pytest.mark.parametrize("chat", [True, "auto"])
def test_chat(server, chat):
    tokens = server.answer({"encode": "hello", "chat": chat})["tokens"]
    assert tokens == [START, *byte_tokens("us"), *byte_tokens("er"), *byte_tokens("\n"), token("hello"), END,
                      START, *byte_tokens("assistant")]


class TestFolderWithoutTemplate:
    def test_chat_fails(self, reasoner):
        with pytest.raises(FileError, match="no chat_template"):
            TextServer(str(reasoner)).answer({"encode": "run ~", "chat": True})

    def test_auto_encodes_plainly(self, reasoner):
        server = TextServer(str(reasoner))
        assert server.answer({"encode": "<bos> run", "chat": "auto"}) == {"tokens": [0, 1]}

    def test_chat_template_file(self, model, tmp_path):
        (tmp_path / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
        (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}<|end|>")
        assert TextServer(str(tmp_path)).answer({"encode": "hello", "chat": True}) == {
            "tokens": [token("hello"), END]}


class TestStream:
    def test_no_broken_character_ever(self, server):
        text = "é日本🙂 hello\n"
        parts = [server.answer({"stream": [t]})["text"] for t in byte_tokens(text)]
        assert "".join(parts) == text
        assert not any("\ufffd" in part for part in parts)
        assert [part for part in parts[:9]] == ["", "é", "", "", "日", "", "", "本", ""]

    def test_sequences_are_apart(self, server):
        first, second = byte_tokens("é")
        assert server.answer({"stream": [first], "sequence": 0}) == {"text": ""}
        assert server.answer({"stream": byte_tokens("a"), "sequence": 1}) == {"text": "a"}
        assert server.answer({"stream": [second], "sequence": 0}) == {"text": "é"}

    def test_end_gives_what_was_held_back_and_forgets(self, server):
        first, _ = byte_tokens("é")
        assert server.answer({"stream": [first]}) == {"text": ""}
        assert server.answer({"stream": [], "end": True}) == {"text": "\ufffd"}
        assert server.answer({"stream": byte_tokens("a")}) == {"text": "a"}

    def test_special_tokens_are_silent(self, server):
        assert server.answer({"stream": [token("hello"), END]}) == {"text": "hello"}
        assert server.answer({"stream": [END]}) == {"text": ""}

    def test_words_keep_their_spaces(self, reasoner):
        server = TextServer(str(reasoner))
        tokens = server.answer({"encode": "let x468 = 3 run"})["tokens"]
        whole = server.answer({"decode": tokens})["text"]
        assert "".join(server.answer({"stream": [t]})["text"] for t in tokens) == whole


class TestProcess:
    def ask(self, environment, folder, *lines):
        process = subprocess.run(
            [sys.executable, "-m", "pmkvq.text", str(folder)], env=environment, capture_output=True,
            input=b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
                           for line in lines))
        assert process.stderr == b""
        assert process.stdout.isascii()
        return process.returncode, [json.loads(line) for line in process.stdout.splitlines()]

    def test_one_answer_a_request_and_errors_do_not_end_it(self, model, python_environment):
        bad = [b"nonsense\n", b"\xff\n", [], {}, {"encode": 1}, {"decode": "x"}, {"decode": [-1]},
               {"decode": [True]}, {"stream": [1], "sequence": "a"}, {"encode": "a", "chat": "maybe"},
               {"encode": "a", "decode": []}]
        code, answers = self.ask(python_environment, model, *bad, {"encode": "é"})
        assert code == 0
        assert len(answers) == len(bad) + 1
        assert all(list(answer) == ["error"] for answer in answers[:-1])
        assert answers[-1] == {"tokens": byte_tokens("é")}

    @pytest.mark.parametrize("name, content, words", [
        ("tokenizer.json", None, "missing"), ("tokenizer.json", "{", "not a tokenizer"),
        ("tokenizer_config.json", "[]", "expected a JSON object, got list")])
    def test_bad_folder(self, model, tmp_path, python_environment, name, content, words):
        for path in model.glob("tokenizer*.json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / name).unlink()
        if content is not None:
            (tmp_path / name).write_text(content)
        code, answers = self.ask(python_environment, tmp_path, {"encode": "a"}, {"decode": []})
        assert code == 1
        assert len(answers) == 2
        assert all(str(tmp_path / name) in answer["error"] and words in answer["error"] for answer in answers)

    def test_template_that_raises(self, model, tmp_path, python_environment):
        (tmp_path / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
        (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no system turn') }}")
        code, answers = self.ask(python_environment, tmp_path, {"encode": "a", "chat": True})
        assert (code, answers) == (0, [{"error": "chat_template: no system turn"}])
