"""Plans that lose too much by calibration are refused, by pmkvq-run and in Python."""

import importlib.util

import numpy as np
import pytest

from pmkvq import allocate, allocation, calibrate, calibration_file, guardrail
from pmkvq.checkpoint import Checkpoint
from pmkvq.errors import FileError
from pmkvq.safetensors_file import write_bf16
from pmkvq_run import fails, generate, ids, programs, run

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None,
                                 reason="torch is installed on demand, by script/calibrate")
PROGRAM = programs(64)[0]
RUN = (f"--prompt-tokens={ids(PROGRAM['prompt'])}", "--max-tokens=60")
# What layer i's keys and values lose at 8, 4 and 2 bits.
KEYS, VALUES = (1e-5, 1e-3, 0.02), (1e-6, 1e-4, 5e-3)
# All at 2 bits: 0.02 of layer 5 counts thrice.
ALL_AT_2 = 6 * (KEYS[2] + VALUES[2]) + 2 * KEYS[2]


@pytest.fixture(scope="module")
def document(reasoner):
    def part(losses, factor=1):
        return {"clip": 0.8, "sensitivity": [0, 0, 1], "kl": [factor * x for x in losses]}

    return {
        "format": "pmkvq-calibration", "version": 1,
        "model": {"hash": Checkpoint(reasoner).fingerprint(), "layers": 6, "kv_heads": 2, "head_dim": 128},
        "settings": {"measure": "sensitivity", "key_format": "<per_channel, hadamard>",
                     "value_format": "<per_token, hadamard>"},
        "layers": [{"key": part(KEYS, 3 if layer == 5 else 1), "value": part(VALUES)} for layer in range(6)],
    }


@pytest.fixture
def file(document, tmp_path):
    path = tmp_path / "calibration.json"
    calibration_file.write(path, document)
    return path


def predicted(reasoner, *options):
    """What --explain says."""
    text = run(reasoner, *RUN, *options, "--explain").stdout
    line = next(line for line in text.splitlines() if line.startswith("loss of the run"))
    return float(line.split("calibration: ")[1].split(" ")[0]), line


# -- pmkvq-run -------------------------------------------------------------------


def test_a_plan_that_loses_too_much_is_refused_with_its_worst_layers(reasoner, file):
    fails(reasoner, *RUN, f"--calibration={file}", "--schedule=none", "--floor=2",
          words=[f"predicted to lose {ALL_AT_2:.3g} nats of KL", "more than 0.1 (--max-loss)", str(file),
                 "layer 5 keys 0.06, layer 0 keys 0.02", "larger budget", "--accept-loss"])


@pytest.mark.parametrize("options", [["--max-loss=0.2"], ["--accept-loss"], ["--floor=4"], ["--layer-floors=0-5:4+2"]])
def test_it_runs_if_more_is_allowed_or_less_is_lost(reasoner, file, options):
    floor = [] if "--floor=4" in options else ["--floor=2"]
    generate(reasoner, *RUN, f"--calibration={file}", "--schedule=none", *floor, *options)


def test_no_artifact_is_made_of_it(reasoner, file, tmp_path):
    artifact = tmp_path / "m.pmkvq"
    fails(reasoner, *RUN, f"--calibration={file}", "--schedule=none", "--floor=2", "--emit=artifact", "-o", artifact,
          words=["predicted to lose", "--accept-loss"])
    assert not artifact.exists()


def test_a_lower_limit_refuses_more(reasoner, file):
    fails(reasoner, *RUN, f"--calibration={file}", "--schedule=none", "--floor=4", "--max-loss=0.001",
          words=["more than 0.001"])


def test_the_loss_is_that_of_the_pages_at_the_end(reasoner, file):
    text = run(reasoner, *RUN, f"--calibration={file}", "--kv-bits=5", "--explain").stdout
    rows = text[text.index("pages at the end"):].splitlines()[2:8]
    wanted = 0
    for layer, row in enumerate(rows):
        counts = np.array([int(x) for x in row.split()[1:]]).reshape(2, 4)
        for count, losses, factor in zip(counts, (KEYS, VALUES), (3 if layer == 5 else 1, 1)):
            wanted += factor * (count * np.array([0, *losses])).sum() / count.sum()
    found, line = predicted(reasoner, f"--calibration={file}", "--kv-bits=5")
    assert found == pytest.approx(wanted, rel=6e-3) and "of 0.1 allowed" in line
    assert 0 < found < ALL_AT_2


def test_nothing_is_lost_where_nothing_falls(reasoner, file):
    assert predicted(reasoner, f"--calibration={file}")[0] == 0
    assert predicted(reasoner, f"--calibration={file}", "--floor=2", "--schedule=none", "--accept-loss")[0] == \
        pytest.approx(ALL_AT_2, rel=6e-3)


@pytest.mark.parametrize("option, words", [
    ("--key-format=per_token", ["its keys are <per_channel, hadamard>", "<per_token, hadamard> (--key-format)"]),
    ("--key-format=per_channel+plain", ["the plan's are <per_channel, plain>"]),
    ("--value-format=per_channel", ["its values are <per_token, hadamard>"]),
])
def test_what_was_not_measured_is_refused(reasoner, file, option, words):
    options = (f"--calibration={file}", "--schedule=none", "--floor=8", option)
    fails(reasoner, *RUN, *options, words=["does not say what this plan loses", *words, "--accept-loss"])
    assert "not known" in run(reasoner, *RUN, *options, "--explain").stdout
    generate(reasoner, *RUN, *options, "--accept-loss")


@pytest.mark.parametrize("measured, planned, refused", [
    ("feedback", [], False), ("feedback", ["--rounding=nearest"], True),
    # What nearest codes lose is more.
    ("nearest", [], False), ("nearest", ["--rounding=nearest"], False),
])
def test_what_feedback_loses_says_nothing_of_nearest_codes(reasoner, document, tmp_path, measured, planned, refused):
    path = tmp_path / "c.json"
    layers = [{**layer, "query_squares": [[1.0] * 127 + [4.0]] * 2} for layer in document["layers"]]
    calibration_file.write(path, {**document, "settings": {**document["settings"], "rounding": measured},
                                  "layers": layers})
    options = (*RUN, f"--calibration={path}", "--schedule=none", "--floor=4", *planned)
    if refused:
        fails(reasoner, *options, words=["does not say what this plan loses", "to the nearest codes (--rounding, "])
    else:
        generate(reasoner, *options)


def test_another_clip_is_no_other_format(reasoner, file):
    generate(reasoner, *RUN, f"--calibration={file}", "--schedule=none", "--floor=8",
             "--key-format=per_channel+clip=0.75")


# -- Python ----------------------------------------------------------------------


def test_python_predicts_the_same_for_floors(file):
    calibration = calibration_file.read(file)
    assert guardrail.check(calibration, np.full((6, 2), 4)) == pytest.approx(8 * 1e-3 + 6 * 1e-4)
    with pytest.raises(guardrail.LossError, match=r"lose 0.19 nats.*layer 5 keys 0.06 at 2 bits, layer 0 keys 0.02"):
        guardrail.check(calibration, np.full((6, 2), 2))
    assert guardrail.check(calibration, np.full((6, 2), 2), max_loss=0.2) == pytest.approx(ALL_AT_2)


def test_both_have_one_limit(reasoner, file):
    assert f"more than {guardrail.MAX_LOSS:g} " in fails(
        reasoner, *RUN, f"--calibration={file}", "--schedule=none", "--floor=2")


def test_without_divergences_there_is_nothing_to_compare_with(document, tmp_path):
    path = tmp_path / "c.json"
    calibration_file.write(path, {**document, "layers": [
        {part: {"clip": 0.8, "sensitivity": [0, 0, 1]} for part in calibration_file.PARTS} for _ in range(6)]})
    calibration = calibration_file.read(path)
    assert guardrail.check(calibration, np.full((6, 2), 2)) is None
    with pytest.raises(FileError, match="no loss is predicted; calibrate with --kl-samples"):
        guardrail.check(calibration, np.full((6, 2), 2), max_loss=1)


def test_allocate_refuses_what_pmkvq_run_would(file, capsys):
    geometry = allocation.Geometry(layers=6, kv_heads=2, head_dim=128)
    # Six layers at 2 bits take 12 blocks a page.
    budget = geometry.other_bytes([383]) + 12 * geometry.pages(383) * 2 * geometry.block_bytes()
    arguments = [str(file), f"--kv-budget={budget}", "--tokens=383"]
    assert allocate.main(arguments) == 1
    assert "error: these floors are predicted to lose" in capsys.readouterr().err
    assert allocate.main([*arguments, "--accept-loss"]) == 0
    floors = capsys.readouterr().out
    assert allocate.main([*arguments, "--max-loss=1"]) == 0
    assert capsys.readouterr().out == floors


# -- a planted model --------------------------------------------------------------

# As Qwen2.5 has them: large biases of keys in pairs of channels that RoPE turns slowly,
# which move every score of a query alike. Here the two slowest, of both kv heads.
OFFSET, PAIRS = 300.0, (62, 63)


@pytest.fixture(scope="module")
def planted(reasoner, tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    checkpoint = Checkpoint(reasoner)
    (folder / "config.json").write_text((reasoner / "config.json").read_text())

    def values(name):
        x = checkpoint.tensors[name].float32()
        if name.endswith("k_proj.bias"):
            x = x.reshape(2, 2, 64)
            x[..., PAIRS] += OFFSET
        return x.reshape(checkpoint.tensors[name].shape)

    write_bf16(folder / "model.safetensors", {name: t.shape for name, t in checkpoint.tensors.items()}, values)
    return folder


@pytest.fixture(scope="module")
def planted_calibrations(planted, reasoner, tmp_path_factory):
    """By the axis of the key format."""
    folder = tmp_path_factory.mktemp("calibrations")
    data = reasoner / "programs-64.jsonl"
    for axis in ("per_token", "per_channel"):
        assert calibrate.main([str(planted), f"--data={data}", "--samples=1", "--tokens=450", "--alpha-samples=1",
                               "--kl-samples=1", "--kl-tokens=450", f"--key-format={axis}",
                               "-o", str(folder / f"{axis}.json")]) == 0
    return folder


@needs_torch
@pytest.mark.parametrize("floor", [2, 4])
def test_offsets_of_300_are_refused_per_token(planted, planted_calibrations, floor):
    file = planted_calibrations / "per_token.json"
    fails(planted, *RUN, f"--calibration={file}", "--key-format=per_token", "--schedule=none", f"--floor={floor}",
          words=["predicted to lose", "more than 0.1", "keys"])


@needs_torch
def test_offsets_of_300_pass_per_channel(planted, planted_calibrations):
    output = generate(planted, *RUN, f"--calibration={planted_calibrations / 'per_channel.json'}", "--schedule=none",
                      "--floor=2")
    assert output.tokens[0] == PROGRAM["answer"][:60]


@needs_torch
def test_what_was_calibrated_per_channel_says_nothing_of_keys_per_token(planted, planted_calibrations):
    fails(planted, *RUN, f"--calibration={planted_calibrations / 'per_channel.json'}", "--key-format=per_token",
          "--schedule=none", "--floor=4", words=["its keys are <per_channel, hadamard>"])


@needs_torch
def test_python_says_the_same_of_the_planted_model(planted_calibrations):
    floors = np.full((6, 2), 2)
    with pytest.raises(guardrail.LossError, match=r"layer \d keys"):
        guardrail.check(calibration_file.read(planted_calibrations / "per_token.json"), floors)
    assert guardrail.check(calibration_file.read(planted_calibrations / "per_channel.json"), floors) < 0.1
