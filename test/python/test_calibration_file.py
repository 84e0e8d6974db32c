"""What a calibration file must hold, and what is said of one that doesn't."""

import copy
import json
import math

import pytest

from pmkvq import calibration_file
from pmkvq.errors import FileError

PART = {"clip": 0.8, "sensitivity": [0.1, 0.2, 0.3]}
GOOD = {
    "format": "pmkvq-calibration", "version": 1,
    "model": {"hash": "sha256:00", "layers": 2, "kv_heads": 1, "head_dim": 64},
    "settings": {"measure": "sensitivity", "key_format": "<per_channel, hadamard>",
                 "value_format": "<per_token, hadamard>"},
    "layers": [{"key": PART, "value": PART}, {"key": PART, "value": PART}],
}


def changed(*path, to):
    document = copy.deepcopy(GOOD)
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = to
    return document


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "c.json"
    calibration_file.write(path, GOOD)
    assert calibration_file.read(path).document == GOOD
    assert calibration_file.read(path).losses().tolist() == [[[0, 0.1, 0.2, 0.3]] * 2] * 2
    assert list(tmp_path.iterdir()) == [path]


def test_values_may_have_a_loss_at_one_bit(tmp_path):
    path = tmp_path / "c.json"
    more = {**PART, "sensitivity": [0.1, 0.2, 0.3, 0.4]}
    calibration_file.write(path, changed("layers", to=[{"key": PART, "value": more}] * 2))
    # Allocation begins at 2 bits.
    assert calibration_file.read(path).losses().tolist() == [[[0, 0.1, 0.2, 0.3]] * 2] * 2
    with pytest.raises(FileError, match="at 8, 4 and 2 bits, got"):
        calibration_file.check(path, changed("layers", to=[{"key": more, "value": more}] * 2))
    with pytest.raises(FileError, match="at 8, 4 and 2 bits, maybe 1, got"):
        more["sensitivity"].append(0.5)
        calibration_file.check(path, changed("layers", to=[{"key": PART, "value": more}] * 2))


KEYS = "<per_channel, hadamard>"
SCALE = {"exponents": [[3, -2] * 32]}
WITH_KL = [{part: {**PART, "kl": [0.01, 0.02, 0.03]} for part in ("key", "value")} for _ in range(2)]


def test_divergences_and_key_scales_are_read_where_there_are_some(tmp_path):
    path = tmp_path / "c.json"
    calibration_file.write(path, GOOD)
    assert calibration_file.read(path).divergences() is None
    document = changed("layers", to=[{**layer, "key_scale": SCALE} for layer in WITH_KL])
    calibration_file.write(path, document)
    found = calibration_file.read(path)
    assert found.divergences().tolist() == [[[0, 0.01, 0.02, 0.03]] * 2] * 2
    assert [str(form) for form in found.formats()] == [KEYS, "<per_token, hadamard>"]


def test_squares_of_queries_are_read_where_all_layers_have_some(tmp_path):
    path = tmp_path / "c.json"
    calibration_file.write(path, GOOD)
    assert calibration_file.read(path).query_squares() is None
    layers = [{**layer, "query_squares": [[0.5] * 64]} for layer in GOOD["layers"]]
    calibration_file.write(path, changed("layers", to=layers))
    assert calibration_file.read(path).query_squares().tolist() == [[[0.5] * 64]] * 2


def test_shares_of_pages_are_read_where_all_layers_have_some(tmp_path):
    path = tmp_path / "c.json"
    calibration_file.write(path, GOOD)
    assert calibration_file.read(path).page_shares() is None
    layers = [{**layer, "page_shares": [[1.0, 0.5]]} for layer in GOOD["layers"]]
    calibration_file.write(path, changed("layers", to=layers))
    assert calibration_file.read(path).page_shares().tolist() == [[[1.0, 0.5]]] * 2


@pytest.mark.parametrize("document, message", [
    (changed("layers", 0, "page_shares", to=[[]]), r"layers\[0\].page_shares: expected \[1\]\[1 to 64 pages\] finite"),
    (changed("layers", 0, "page_shares", to=[[1.0] * 65]), r"layers\[0\].page_shares: expected \[1\]\[1 to 64 pages\]"),
    (changed("layers", 1, "page_shares", to=[[-1.0]]), r"layers\[1\].page_shares: .*numbers of at least 0"),
    (changed("layers", 0, "query_squares", to=[[1.0] * 63]), r"layers\[0\].query_squares: expected \[1\]\[64\] finite"),
    (changed("layers", 1, "query_squares", to=[[-1.0] * 64]), r"layers\[1\].query_squares: .*numbers of at least 0"),
    (changed("settings", "key_format", to=None), "settings.key_format: expected a format like .*, got None"),
    (changed("settings", "value_format", to="<paper>"), "settings.value_format: expected a format .*, got <paper>"),
    (changed("settings", "rounding", to="up"), "settings.rounding: expected feedback or nearest, got up"),
    (changed("settings", "key_scales", to=1), "settings.key_scales: expected true or false, got 1"),
    (changed("layers", 1, "key", to=WITH_KL[0]["key"]), r"layers\[0\].key.kl: expected three numbers, as other parts"),
    (changed("layers", 0, "key_scale", to={}), r"layers\[0\].key_scale.exponents: .*\[1\]\[64\] whole numbers .* None"),
    (changed("layers", 0, "key_scale", to={"exponents": [[14] * 64]}), "whole numbers from -13 to 13"),
    (changed("layers", 0, "key_scale", to={"exponents": [[1.0] * 64]}), "whole numbers from -13 to 13"),
    (changed("layers", 0, "key_scale", to={"exponents": [[1] * 32 + [2] * 32]}), "equal numbers for .* i \\+ 32"),
    (changed("format", to="other"), "format: expected pmkvq-calibration, got other"),
    (changed("version", to=2), "version: expected 1, got 2"),
    (changed("model", to=None), "model: expected 'an object', got None"),
    (changed("model", "layers", to=0), "model.layers: "),
    (changed("model", "hash", to=7), "model.hash: "),
    (changed("settings", "measure", to="mse"), "settings.measure: expected sensitivity or kl, got mse"),
    (changed("settings", "measure", to="kl"), r"layers\[0\].key.kl: expected finite numbers .*, got None"),
    (changed("layers", to=GOOD["layers"][:1]), "layers: expected 2 layers, as model.layers says, got 1 layers"),
    (changed("layers", 1, to={"key": PART}), r"layers\[1\].value: expected an object, got None"),
    (changed("layers", 1, "value", to={**PART, "clip": 0.9}), r"layers\[1\].value.clip: .*\(0.7, 0.9\), got 0.9"),
    (changed("layers", 0, "key", to={**PART, "sensitivity": [0, math.nan, 0]}), r"layers\[0\].key.sensitivity: .*nan"),
    (changed("layers", 0, "key", to={**PART, "sensitivity": [0, -1, 0]}), r"layers\[0\].key.sensitivity"),
    (changed("layers", 0, "key", to={**PART, "sensitivity": [0, 1]}), r"layers\[0\].key.sensitivity"),
])
def test_what_is_wrong_is_named_and_nothing_is_written(document, message, tmp_path):
    message = message.replace("'an object'", "an object")
    path = tmp_path / "c.json"
    with pytest.raises(FileError, match=message):
        calibration_file.write(path, document)
    assert not list(tmp_path.iterdir())
    path.write_text(json.dumps(document))
    with pytest.raises(FileError, match=message):
        calibration_file.read(path)


def test_a_file_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "c.json"
    path.write_text("{")
    with pytest.raises(FileError, match="c.json: file: not JSON"):
        calibration_file.read(path)
