"""pmkvq-run --calibration, --allocate and --layer-floors: what a file says of layers comes into force."""

import copy
import json
import re

import numpy as np
import pytest

from pmkvq import allocate, allocation, calibration_file
from pmkvq.checkpoint import Checkpoint
from pmkvq_run import fails, generate, ids, programs, run

PROGRAM = programs(64)[0]
NEW = 60
RUN = (f"--prompt-tokens={ids(PROGRAM['prompt'])}", f"--max-tokens={NEW}")
TOKENS = len(PROGRAM["prompt"]) + NEW - 1
GEOMETRY = allocation.Geometry(layers=6, kv_heads=2, head_dim=128)
PAGES = GEOMETRY.pages(TOKENS)


def losses():
    """Of every layer's keys and values at 8, 4 and 2 bits; no two sums alike."""
    random = np.random.RandomState(1)
    return np.cumsum(random.rand(6, 2, 3), -1) * 10.0 ** random.randint(-3, 1, (6, 2, 1))


@pytest.fixture(scope="module")
def document(reasoner):
    """A calibration of the reasoner as `pmkvq calibrate` would write it."""
    return {
        "format": "pmkvq-calibration", "version": 1,
        "model": {"hash": Checkpoint(reasoner).fingerprint(), "layers": 6, "kv_heads": 2, "head_dim": 128},
        "settings": {"measure": "sensitivity", "key_format": "<per_channel, hadamard>",
                     "value_format": "<per_token, hadamard>"},
        "layers": [{part: {"clip": 0.72 + 0.01 * layer + 0.1 * i, "sensitivity": loss.tolist()}
                    for i, (part, loss) in enumerate(zip(calibration_file.PARTS, parts))}
                   for layer, parts in enumerate(losses())],
    }


@pytest.fixture
def file(document, tmp_path):
    path = tmp_path / "calibration.json"
    calibration_file.write(path, document)
    return path


def budget(blocks):
    """Bytes at which one page of every layer may take so many blocks."""
    return GEOMETRY.other_bytes([TOKENS]) + blocks * PAGES * 2 * GEOMETRY.block_bytes()


def explained_floors(text):
    """[layers, 2] of the table of losses."""
    rows = text[text.index("loss at each layer's floor"):].splitlines()[2:8]
    return [[int(row.split()[1]), int(row.split()[5])] for row in rows]


def test_clips_come_into_the_types(reasoner, file):
    text = run(reasoner, f"--calibration={file}", "--floor=2", "--emit=mlir:plan").stdout
    creates = re.findall(r"pmkvq.create layer (\d).*?key = <[^>]*clip = ([^>]*)>, value = <[^>]*clip = ([^>]*)>", text)
    assert [[int(layer), float(key), float(value)] for layer, key, value in creates] == \
        [[layer, pytest.approx(0.72 + 0.01 * layer), pytest.approx(0.82 + 0.01 * layer)] for layer in range(6)]


@pytest.mark.parametrize("options, feedback", [
    ([], True), (["--rounding=feedback"], True), (["--rounding=nearest"], False),
    (["--key-format=per_channel+plain"], False), (["--floor=8", "--schedule=none"], False),
])
def test_squares_of_queries_let_keys_fall_with_feedback(reasoner, document, tmp_path, options, feedback):
    file = tmp_path / "c.json"
    with_squares = [{**layer, "query_squares": [[1.0] * 127 + [4.0]] * 2} for layer in document["layers"]]
    calibration_file.write(file, changed(document, "layers", to=with_squares))
    floor = [] if "--floor=8" in options else ["--floor=2"]
    text = run(reasoner, f"--calibration={file}", *floor, *options, "--emit=mlir:plan").stdout
    keys = re.findall(r"pmkvq.create layer .* key = <([^>]*)>, value = <([^>]*)>", text)
    assert [("feedback" in key, "feedback" in value) for key, value in keys] == [(feedback, False)] * 6


def test_values_at_one_bit_take_what_a_calibration_knows(reasoner, document, tmp_path):
    file = tmp_path / "c.json"
    layers = [{**layer, "query_squares": [[1.0] * 127 + [4.0]] * 2,
               **{part: {**layer[part], "kl": [0.001] * 3} for part in calibration_file.PARTS}}
              for layer in document["layers"]]
    calibration_file.write(file, changed(document, "layers", to=layers))
    options = (*RUN, f"--calibration={file}", "--value-floor=1", "--kv-bits=2")
    assert "its values end at 2 bits, the plan's at 1" in fails(reasoner, *options)
    text = run(reasoner, *options, "--explain").stdout
    assert "per_channel, hadamard, feedback; floor 2 bits" in text and "loss of the run: not known" in text
    assert "loss at each layer's floor" not in text
    result = run(reasoner, *options, "--accept-loss", "--check")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("scaled", [False, True])
def test_squares_are_those_of_scaled_queries(reasoner, document, tmp_path, scaled):
    file = tmp_path / "c.json"
    more = {"query_squares": [[1.0] * 127 + [4.0]] * 2, "key_scale": {"exponents": [[3] * 128] * 2}}
    calibration_file.write(file, changed(document, "layers", to=[{**layer, **more} for layer in document["layers"]]))
    text = run(reasoner, f"--calibration={file}", "--floor=2", "--emit=import",
               *(["--key-scales"] if scaled else [])).stdout
    squares = re.findall(r"query_squares = \[([^]]*)\]", text)
    # Queries are multiplied by 2^3.
    factor = 64 if scaled else 1
    assert [[float(word) for word in words.split(", ")] for words in squares] == \
        [([1.0 * factor] * 127 + [4.0 * factor]) * 2] * 6


def with_shares(document, measure="kl", one_bit=()):
    """The same with losses as divergences, and shares of three pages that differ from head to head.

    one_bit: what values lose at 1 bit, of all layers, if anything is known of it.
    """
    shares = [[[1.0, 0.25, 0.0625 * layer], [0.5, 0.5, 0.5]] for layer in range(6)]
    layers = [{**{part: {"clip": 0.8, "sensitivity": [0, 1e-4, 1e-3],
                         "kl": [*layer[part]["sensitivity"], *(one_bit if part == "value" else ())]}
                  for part in calibration_file.PARTS}, "page_shares": share}
              for layer, share in zip(document["layers"], shares)]
    return {**document, "layers": layers, "settings": {**document["settings"], "measure": measure}}


@pytest.mark.parametrize("change, options, schedule", [
    ({}, [], "least_loss"), ({}, ["--layer-floors=0:4"], "least_loss"), ({}, ["--schedule=keys_last"], "keys_last"),
    ({"measure": "sensitivity"}, [], "keys_last"), ({}, ["--key-format=per_token+plain"], "keys_last"),
    ({}, ["--value-floor=1", "--accept-loss"], "keys_last"), ({"one_bit": [20]}, ["--value-floor=1", "--max-loss=1000"], "least_loss"),
    ({"measure": "sensitivity"}, ["--schedule=least_loss"], "least_loss")])
def test_losses_and_shares_make_the_schedule(reasoner, document, tmp_path, change, options, schedule):
    file = tmp_path / "c.json"
    calibration_file.write(file, with_shares(document, **change))
    text = run(reasoner, *RUN, "--kv-bits=3", f"--calibration={file}", *options, "--emit=mlir:plan").stdout
    assert re.findall(r"pmkvq.create layer \d .*schedule <(\w+),", text) == [schedule] * 6
    shares = re.findall(r"page_shares = \[([^]]*)\]", text)
    assert [float(word) for word in shares[2].split(", ")] == [1.0, 0.25, 0.125, 0.5, 0.5, 0.5]
    loss = re.findall(r"key_loss = \[([^]]*)\]", text)[1].split(", ")
    wanted = document["layers"][1]["key"]["sensitivity"] if "measure" not in change else [0, 1e-4, 1e-3]
    assert [float(word) for word in loss] == pytest.approx(wanted)


def test_pages_fall_where_it_costs_least(reasoner, document, tmp_path):
    """What --explain plans is what runs, attention over it is right, and layers that bear more are lower."""
    file = tmp_path / "c.json"
    calibration_file.write(file, with_shares(document))
    options = (*RUN, f"--calibration={file}", "--accept-loss", "--kv-bits=4")
    plan = run(reasoner, *options, "--explain").stdout
    assert "schedule  least_loss: keys or values of a page fall" in plan
    output = generate(reasoner, *options)
    table = [[int(word) for word in row.split()] for row in
             plan[plan.index("pages at the end"):].splitlines()[2:8]]
    for part, first in (("key", 1), ("value", 5)):
        levels = output.summary["levels"][part]
        assert [levels[bits] for bits in ("16", "8", "4", "2")] == \
            [sum(row[first + i] for row in table) for i in range(4)]
    dear, cheap = (choose(losses()[..., 2].ravel()) for choose in (np.argmax, np.argmin))
    mean = [np.average((16, 8, 4, 2), weights=row[1:5]) for row in table] + \
        [np.average((16, 8, 4, 2), weights=row[5:9]) for row in table]
    place = [index // 2 + 6 * (index % 2) for index in (dear, cheap)]
    assert mean[place[0]] > mean[place[1]]
    result = run(reasoner, *options, "--check")
    assert result.returncode == 0, result.stderr


def test_values_fall_to_one_bit_where_it_costs_least(reasoner, document, tmp_path):
    file = tmp_path / "c.json"
    # 1 bit costs no more than 2 do.
    calibration_file.write(file, with_shares(document, one_bit=[0.0]))
    options = (*RUN, f"--calibration={file}", "--value-floor=1", "--kv-bits=2.25", "--max-loss=1000")
    plan = run(reasoner, *options, "--explain").stdout
    assert "schedule  least_loss" in plan and "loss of the run" in plan and "not known" not in plan
    levels = generate(reasoner, *options).summary["levels"]
    assert levels["value"]["1"] > 0 and levels["key"]["4"] + levels["key"]["8"] + levels["key"]["16"] > 0
    result = run(reasoner, *options, "--check")
    assert result.returncode == 0, result.stderr
    assert "predicted to lose" in fails(reasoner, *options[:-1], "--max-loss=0.001")


def test_losses_at_one_bit_are_of_all_layers(reasoner, document, tmp_path):
    file = tmp_path / "c.json"
    document = with_shares(document, one_bit=[30.0])
    document["layers"][3]["value"]["kl"].pop()
    calibration_file.write(file, document)
    assert "layers[3].value.kl: expected 4 numbers, as the first layer has, got 3" in fails(
        reasoner, *RUN, "--kv-bits=3", f"--calibration={file}")


def test_a_schedule_by_losses_needs_some(reasoner, file, document):
    assert "layers[0].page_shares: expected shares of pages, got none; calibrate again" in fails(
        reasoner, *RUN, "--kv-bits=3", f"--calibration={file}", "--schedule=least_loss")
    known = file.with_name("shares.json")
    calibration_file.write(known, with_shares(document))
    assert "layers[0].value: expected losses at 1 bit (--value-floor=1), got none; calibrate again" in fails(
        reasoner, *RUN, "--kv-bits=3", f"--calibration={known}", "--schedule=least_loss", "--value-floor=1")
    assert "expected --calibration with --schedule=least_loss" in fails(
        reasoner, *RUN, "--kv-bits=3", "--schedule=least_loss")


@pytest.mark.parametrize("blocks", [13, 20, 37])
def test_the_compiler_allocates_as_python_does(reasoner, file, blocks):
    wanted = allocation.allocate(calibration_file.read(file).losses(), blocks)
    result = run(reasoner, *RUN, f"--calibration={file}", f"--kv-budget={budget(blocks)}", "--allocate", "--explain")
    assert result.returncode == 0, result.stderr
    assert explained_floors(result.stdout) == wanted.tolist()
    module = run(reasoner, *RUN, f"--calibration={file}", f"--kv-budget={budget(blocks)}", "--allocate",
                 "--emit=mlir:plan").stdout
    floors = re.findall(r"pmkvq.create layer .*?key_floor = (\d+), value_floor = (\d+)", module)
    assert [[int(key), int(value)] for key, value in floors] == wanted.tolist()


@pytest.mark.parametrize("schedule", ["none", "page", "keys_last", "least_loss", "layer"])
def test_a_run_ends_with_pages_at_the_allocated_floors(reasoner, document, file, schedule):
    if schedule == "least_loss":
        calibration_file.write(file, with_shares(document))
    wanted = allocation.allocate(calibration_file.read(file).losses(), 20)
    output = generate(reasoner, *RUN, f"--calibration={file}", f"--kv-budget={budget(20)}", "--allocate",
                      f"--schedule={schedule}", "--accept-loss")
    assert output.summary["kv_bytes_peak"] <= budget(20)
    if schedule in ("page", "keys_last", "least_loss") and (wanted // 2).sum() < 20:
        return
    for part, name in enumerate(("key", "value")):
        found = {int(bits): count for bits, count in output.summary["levels"][name].items()}
        assert found == {bits: 2 * PAGES * int((wanted[:, part] == bits).sum()) for bits in (16, 8, 4, 2)}


def test_attention_over_such_a_cache_is_right(reasoner, file):
    result = run(reasoner, f"--prompt-tokens={ids(PROGRAM['prompt'])}", "--max-tokens=8", f"--calibration={file}",
                 "--layer-floors=0:8+2,3-4:4,5:16+4", "--schedule=none", "--floor=2", "--check")
    assert result.returncode == 0, result.stderr


def test_layers_with_floors_of_their_own_keep_them(reasoner, file):
    wanted = allocation.allocate(calibration_file.read(file).losses(), 24,
                                 [[2, 2], [8, 4]] + [[2, 2]] * 4, [[16, 16], [8, 4]] + [[16, 16]] * 4)
    result = run(reasoner, *RUN, f"--calibration={file}", f"--kv-budget={budget(24)}", "--allocate",
                 "--layer-floors=1:8+4", "--explain")
    assert explained_floors(result.stdout) == wanted.tolist()


def test_what_python_prints_is_what_the_tool_takes(reasoner, file, capsys):
    assert allocate.main([str(file), f"--kv-budget={budget(20)}", f"--tokens={TOKENS}"]) == 0
    floors = capsys.readouterr().out.strip()
    result = run(reasoner, *RUN, f"--calibration={file}", f"--kv-budget={budget(20)}", f"--layer-floors={floors}",
                 "--explain")
    assert explained_floors(result.stdout) == allocation.allocate(calibration_file.read(file).losses(), 20).tolist()


def test_explain_prices_the_budget(reasoner, file):
    text = run(reasoner, *RUN, f"--calibration={file}", f"--kv-budget={budget(20)}", "--allocate", "--explain").stdout
    found = float(re.search(r"shadow price of the budget: (\S+) of loss a MiB", text)[1])
    # The dual of the linear relaxation, by HiGHS.
    from scipy.optimize import linprog
    loss = calibration_file.read(file).losses().reshape(12, 4)
    result = linprog(loss.reshape(-1), A_ub=np.tile([8, 4, 2, 1], 12)[None], b_ub=[20],
                     A_eq=np.kron(np.eye(12), np.ones(4)), b_eq=np.ones(12), bounds=(0, 1))
    a_block = PAGES * 2 * GEOMETRY.block_bytes()
    assert found == pytest.approx(-result.ineqlin.marginals[0] * (1 << 20) / a_block, rel=1e-3)


def changed(document, *path, to):
    result = copy.deepcopy(document)
    place = result
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = to
    return result


@pytest.mark.parametrize("path, to, words", [
    (("format",), "x", ["format: expected pmkvq-calibration", '"x"']),
    (("version",), 2, ["version: expected 1", "got 2"]),
    (("model", "hash"), "sha256:00", ["model.hash: expected sha256:", "of this model", 'got "sha256:00"']),
    (("model", "layers"), 7, ["model.layers: expected 6", "got 7"]),
    (("model", "kv_heads"), 1, ["model.kv_heads: expected 2", "got 1"]),
    (("model", "head_dim"), 64, ["model.head_dim: expected 128", "got 64"]),
    (("settings", "measure"), "mse", ["settings.measure: expected sensitivity or kl", '"mse"']),
    (("settings", "measure"), "kl", ["layers[0].key.kl: expected finite numbers", "got none"]),
    (("settings", "key_format"), None, ["settings.key_format: expected a format like", "got none"]),
    (("settings", "rounding"), "up", ["settings.rounding: expected feedback or nearest", "up"]),
    (("settings", "key_scales"), 1, ["settings.key_scales: expected true or false, got 1"]),
    (("layers", 0, "key", "kl"), [0, 0, 1], ["layers[0].value.kl: expected finite numbers", "got none"]),
    (("layers", 2, "key_scale"), {}, ["layers[2].key_scale.exponents: expected 2 lists of 128 whole", "got none"]),
    (("layers", 2, "key_scale"), {"exponents": [[14] * 128] * 2}, ["exponents: expected", "from -13 to 13"]),
    (("layers", 2, "key_scale"), {"exponents": [[1] * 64 + [2] * 64] * 2}, ["the same for i and i + 64"]),
    (("layers", 2, "key_scale"), {"exponents": [[1.5] * 128] * 2}, ["exponents: expected 2 lists"]),
    (("layers", 2, "query_squares"), [[1.0] * 128], ["layers[2].query_squares: expected 2 lists of 128"]),
    (("layers", 2, "query_squares"), [[1.0] * 127] * 2, ["layers[2].query_squares: expected 2 lists of 128"]),
    (("layers", 2, "query_squares"), [[-1.0] * 128] * 2, ["layers[2].query_squares: ", "numbers from 0 to 1e30"]),
    (("layers", 2, "query_squares"), [[1e39] * 128] * 2, ["layers[2].query_squares: expected 2 lists of 128"]),
    (("layers", 2, "query_squares"), [["1"] * 128] * 2, ["layers[2].query_squares: expected 2 lists of 128"]),
    (("layers", 2, "query_squares"), [[1.0] * 128] * 2, ["layers[2].query_squares: expected all layers"]),
    (("layers", 2, "page_shares"), [[1.0]], ["layers[2].page_shares: expected 2 lists of 1 to 64 (all as many)"]),
    (("layers", 2, "page_shares"), [[1.0], [1.0, 0.5]], ["layers[2].page_shares: expected 2 lists of 1 to 64"]),
    (("layers", 2, "page_shares"), [[]] * 2, ["layers[2].page_shares: expected 2 lists of 1 to 64"]),
    (("layers", 2, "page_shares"), [[1.0] * 65] * 2, ["layers[2].page_shares: expected 2 lists of 1 to 64"]),
    (("layers", 2, "page_shares"), [[-1.0]] * 2, ["layers[2].page_shares: ", "numbers from 0 to 1e30"]),
    (("layers", 2, "page_shares"), [[1.0]] * 2, ["layers[2].page_shares: expected all layers to have shares"]),
    (("layers",), [], ["layers: expected 6 layers, got 0"]),
    (("layers", 3), {}, ["layers[3].key: expected an object, got none"]),
    (("layers", 3, "value", "clip"), 0.95, ["layers[3].value.clip: expected a number in (0.7, 0.9), got 0.95"]),
    (("layers", 3, "value", "sensitivity"), [0, 1], ["layers[3].value.sensitivity: expected finite numbers", "[0,1]"]),
    (("layers", 3, "value", "sensitivity"), [0, -1, 1], ["layers[3].value.sensitivity: expected finite numbers"]),
])
def test_bad_files_are_named(reasoner, document, tmp_path, path, to, words):
    file = tmp_path / "c.json"
    file.write_text(json.dumps(changed(document, *path, to=to)))
    fails(reasoner, *RUN, f"--calibration={file}", words=[file, *words])


def test_a_number_that_is_none_is_named(reasoner, document, tmp_path):
    file = tmp_path / "c.json"
    file.write_text(json.dumps(changed(document, "layers", 0, "key", "sensitivity", to=[0, float("nan"), 1])))
    fails(reasoner, *RUN, f"--calibration={file}", words=[file, "not well-formed JSON at layers[0].key.sensitivity[1], byte ",
                                                           'got "NaN"'])
    text = json.dumps(document)
    for cut, words in (("", ["byte 1, ", "got the end of the file"]),
                       (text[:text.index('"settings"')] + "x}", ["byte ", 'got "x"'])):
        file.write_text(cut)
        fails(reasoner, *RUN, f"--calibration={file}", words=[file, "not well-formed JSON at ", *words])


@pytest.mark.parametrize("options, words", [
    (["--allocate"], ["expected --calibration with --allocate"]),
    (["--allocate", "--calibration=FILE"], ["expected --kv-budget or --kv-bits with --allocate"]),
    (["--calibration=missing.json"], ["missing.json: file: "]),
    (["--calibration="], ["--calibration: expected a file"]),
    (["--layer-floors=0-3"], ["--layer-floors: expected layers and", "got '0-3'"]),
    (["--layer-floors=5-6:8"], ["--layer-floors: expected layers 0 to 5, got '5-6:8'"]),
    (["--calibration=FILE", "--allocate", "--kv-budget=800KiB"], ["bytes are missing"]),
    (["--layer-floors=0-3:8", "--kv-budget=800KiB"], ["bytes are missing", "each layer at its floors (--layer-floors)"]),
    (["--key-scales"], ["expected --calibration with --key-scales"]),
    (["--max-loss=1"], ["expected --calibration with --max-loss"]),
    (["--accept-loss"], ["expected --calibration with --accept-loss"]),
    (["--rounding=nearest"], ["expected --calibration with --rounding"]),
    (["--calibration=FILE", "--key-format=per_channel+feedback"], ["--key-format: +feedback is for --bench alone",
                                                                   "--calibration", "--rounding"]),
    (["--value-format=per_token+feedback"], ["--value-format: +feedback is for --bench alone"]),
    (["--calibration=FILE", "--rounding=up"], ["--rounding: expected", "feedback", "nearest", "got 'up'"]),
    (["--calibration=FILE", "--rounding=feedback"],
     ["--rounding=feedback: ", "layers[0].query_squares: expected squares of queries, got none; calibrate again"]),
    (["--calibration=FILE", "--rounding=feedback", "--key-format=per_channel+plain", "--accept-loss"],
     ["--rounding=feedback: expected keys that are rotated and have ranges", "--key-format=per_channel+hadamard"]),
    (["--calibration=FILE", "--max-loss=1", "--accept-loss"], ["expected one of --max-loss and --accept-loss"]),
    (["--calibration=FILE", "--max-loss=0"], ["--max-loss: expected a number above 0", "got '0'"]),
    (["--calibration=FILE", "--max-loss=nan"], ["--max-loss: expected a number above 0", "got 'nan'"]),
    (["--calibration=FILE", "--max-loss=1"], ["--max-loss: ", "has no divergences", "--kl-samples"]),
    (["--calibration=FILE", "--key-scales"], ["layers[0].key_scale.exponents: expected key scales, got none"]),
])
def test_bad_options_are_named(reasoner, file, options, words):
    fails(reasoner, *RUN, *(option.replace("FILE", str(file)) for option in options), words=words)
