"""Runs pmkvq-run of build/ (or $PMKVQ_BUILD) and reads what it prints."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("PMKVQ_BUILD", ROOT / "build"))
TIMEOUT_S = 600


@dataclass(frozen=True)
class Output:
    """A successful run with --output=jsonl."""

    tokens: list[list[int]]
    summary: dict


def tool():
    path = BUILD / "bin" / "pmkvq-run"
    if not path.exists():
        pytest.fail(f"{path} is not built")
    return path


def run(*arguments, cwd=None, **environment):
    """The finished process; text is UTF-8."""
    return subprocess.run(
        [str(tool()), *map(str, arguments)], capture_output=True, encoding="utf-8", timeout=TIMEOUT_S,
        cwd=cwd, env={**os.environ, "PMKVQ_PYTHON": sys.executable,
                      "XDG_CACHE_HOME": str(BUILD / "test-cache"), **environment})


def generate(*arguments, **environment):
    """Runs with --output=jsonl and checks the form of the output."""
    result = run(*arguments, "--output=jsonl", **environment)
    assert result.returncode == 0, result.stderr
    *records, last = [json.loads(line) for line in result.stdout.splitlines()]
    assert list(last) == ["summary"]
    for index, record in enumerate(records):
        assert list(record) == ["index", "tokens"]
        assert record["index"] == index
    return Output([record["tokens"] for record in records], last["summary"])


def fails(*arguments, words=(), **environment):
    """The one line of stderr of a run that must refuse its input and leave no file.

    Where it could: in the working directory, beside temporary files, in the cache. Only
    compiled code may stay there.
    """
    with tempfile.TemporaryDirectory() as scratch:
        places = {"TMPDIR": scratch, "XDG_CACHE_HOME": scratch, **environment}
        result = run(*arguments, cwd=scratch, **places)
        for place in {scratch, places["XDG_CACHE_HOME"]}:
            left = [path for path in Path(place).rglob("*")
                    if not path.is_dir() and path.parent.name != "code"]
            assert not left, left
    assert 1 <= result.returncode <= 127, (result.returncode, result.stderr)
    assert result.stdout == ""
    assert result.stderr.endswith("\n") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert str(word) in result.stderr, (word, result.stderr)
    return result.stderr


@functools.cache
def programs(lines):
    """The reasoner's programs of so many lines: [{"prompt": ids, "answer": ids}]."""
    path = ROOT / "test" / "models" / "reasoner" / f"programs-{lines}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_prompts(path, prompts):
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return path


def ids(tokens):
    return ",".join(map(str, tokens))
