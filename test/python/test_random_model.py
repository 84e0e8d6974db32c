"""Random models: what calibrate and pmkvq-run read."""

import json

import pytest

from pmkvq import random_model
from pmkvq.checkpoint import Checkpoint
from pmkvq_run import generate

SMALL = ["--layers=2", "--hidden=128", "--inner=96", "--heads=2", "--kv-heads=1", "--vocab=50"]


def test_a_model_runs_and_is_the_same_each_time(tmp_path):
    for name in ("one", "two"):
        random_model.write(tmp_path / name, random_model.parse([str(tmp_path / name), *SMALL]))
    one, two = (Checkpoint(tmp_path / name).fingerprint() for name in ("one", "two"))
    assert one == two
    lines = [json.loads(line) for line in (tmp_path / "one" / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and {len(line["tokens"]) for line in lines} == {2048}
    assert len(generate(tmp_path / "one", "--prompt-tokens=1,2,3", "--max-tokens=2").tokens[0]) == 2


@pytest.mark.parametrize("option", ["--heads=3", "--kv-heads=5", "--layers=0"])
def test_shapes_that_are_none(option, capsys):
    with pytest.raises(SystemExit):
        random_model.parse(["x", option])
    assert "expected" in capsys.readouterr().err
