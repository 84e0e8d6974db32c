"""`pmkvq eval`: names, data, records and tables, and whole calls with the product's side."""

import json
import subprocess
import sys

import numpy as np
import pytest

from conftest import ROOT
from pmkvq import calibration_file, eval_records, evaluate
from pmkvq.checkpoint import Checkpoint
from pmkvq.errors import FileError
from pmkvq.eval_data import read_data
from pmkvq.eval_methods import MethodError, parse_method, parse_methods
from pmkvq.eval_records import Records, summarize_programs, summarize_texts
from pmkvq_run import tool

PROGRAMS = ROOT / "test" / "models" / "reasoner" / "programs-16.jsonl"


class TestMethods:
    @pytest.mark.parametrize("text, options", [
        ("bf16", []),
        ("pmkvq:2", ["--schedule=none", "--key-floor=2", "--value-floor=2"]),
        ("pmkvq:k4v2", ["--schedule=none", "--key-floor=4", "--value-floor=2"]),
        ("pmkvq:2.375bits", ["--schedule=keys_last", "--kv-bits=2.375"]),
        ("pmkvq+layer:10KiB", ["--schedule=layer", "--kv-budget=30720"]),
        ("pmkvq+floor=k4v2:1.5MiB",
         ["--schedule=keys_last", "--key-floor=4", "--value-floor=2", f"--kv-budget={3 * 3 * 2**19}"]),
        ("pmkvq+key=per_token/plain/clip=0.75+value=paper:2bits",
         ["--key-format=per_token+plain+clip=0.75", "--value-format=paper", "--schedule=keys_last", "--kv-bits=2"]),
        ("pmkvq+calibration=c.json+scales:4", ["--calibration=c.json", "--accept-loss", "--key-scales",
                                               "--schedule=none", "--key-floor=4", "--value-floor=4"]),
        ("pmkvq+calibration=c.json+nearest:2", ["--calibration=c.json", "--accept-loss", "--rounding=nearest",
                                                "--schedule=none", "--key-floor=2", "--value-floor=2"]),
        ("pmkvq+calibration=c.json+allocate:3bits", ["--calibration=c.json", "--accept-loss", "--allocate",
                                                     "--kv-bits=3"]),
        ("pmkvq+calibration=c.json+keys_last:3bits", ["--calibration=c.json", "--accept-loss", "--schedule=keys_last",
                                                      "--kv-bits=3"]),
        ("pmkvq+calibration=c.json+least_loss:3bits", ["--calibration=c.json", "--accept-loss",
                                                       "--schedule=least_loss", "--kv-bits=3"]),
        ("pmkvq+calibration=c.json+allocate+none+floor=k4v2:3bits",
         ["--calibration=c.json", "--accept-loss", "--allocate", "--schedule=none", "--key-floor=4", "--value-floor=2",
          "--kv-bits=3"]),
    ])
    def test_options_of_pmkvq_run_for_three_sequences(self, text, options):
        assert parse_method(text).product_options(3) == options

    def test_a_papers_pages_end_at_its_width(self):
        assert parse_method("paper:2").schedule == "layer"
        assert parse_method("paper+page:3500KiB").schedule == "page"
        assert parse_method("rtn:3500KiB").schedule == "keys_last"
        assert parse_method("rtn:2").schedule == "none"

    def test_kivi_has_its_own_window_only_at_a_fixed_width(self):
        fixed, paged = parse_method("kivi+group=128:2").scheme(), parse_method("kivi:3500KiB").scheme()
        assert (fixed.sink, fixed.slides, fixed.group) == (0, True, 128)
        assert (paged.sink, paged.slides, paged.group) == (1, False, 32)
        assert parse_method("kivi+sink=1:2").scheme().sink == 1

    def test_a_prompt_is_read_from_codes_unless_asked(self):
        assert parse_method("kivi+prompt+sink=1:2").exact_prompt and not parse_method("kivi:2").exact_prompt
        assert parse_method("paper+prompt:2").scheme() == parse_method("paper:2").scheme()

    def test_levels_below_2_bits(self):
        assert parse_method("pmkvq+floor=k2v1:2bits").floor == (2, 1)
        method = parse_method("trial+floor=k2v1+drop+order=mass+parameters=byte+pages=2:2bits")
        assert (method.floor, method.drop, method.order, method.schedule) == ((2, 1), True, "mass", "keys_last")
        scheme = method.scheme()
        assert (scheme.parameters, scheme.pages) == ("byte", 2)
        assert parse_method("trial:k2v1.6").widths == (2, 1.6)
        assert parse_method("trial+feedback=full:2").options == {"feedback": "full"}
        assert parse_method("trial+feedback=channels+calibration=c.json:2").scheme().calibration == "c.json"
        assert parse_method("turboquant+floor=1:2bits").floor == (1, 1)

    @pytest.mark.parametrize("text, words", [
        ("pmkvq+floor=k1v2:10KiB", "pmkvq's keys end at 2 bits"),
        ("pmkvq+drop:10KiB", "expected an option of pmkvq"),
        ("rtn+drop:2", "drop and order need a budget"),
        ("pmkvq+least_loss:2.5bits", "least_loss goes by a calibration: expected +calibration=FILE"),
        ("rtn+least_loss:2.5bits", "expected an option of rtn"),
        ("trial+order=mass+layer:2bits", "drop and order need a budget and the keys_last or page schedule"),
        ("trial+order=luck:2bits", "order: expected age, mass, recent or error, got 'luck'"),
        ("trial+parameters=9:2", "parameters: expected half, byte, scale or scale_byte, got '9'"),
        ("trial+pages=3:2", "pages: expected 1 or 2, got '3'"),
        ("trial+feedback=full+calibration=c.json:2", "a calibration has what feedback=channels takes"),
        ("rtn+calibration=c.json:2", "expected an option of rtn"),
        ("trial+feedback=all:2", "feedback: expected channels or full, got 'all'"),
        ("trial:3", "expected a width of 1, 1.6, 2, 4, 8, 16 bits, got 3"),
        ("turboquant+floor=k2v1.6:2bits", "expected a width of 1, 2, 4, 8, 16 bits, got 1.6"),
        ("turboquant+mean:2", "expected an option of turboquant"),
        ("fp8:2", "expected a method, one of bf16, torch, pmkvq, paper, kivi, turboquant, rtn, trial, got 'fp8'"),
        ("", "expected a method"),
        ("pmkvq+scales:2", "scales goes by a calibration: expected +calibration=FILE"),
        ("pmkvq+nearest:2", "nearest goes by a calibration: expected +calibration=FILE"),
        ("trial+nearest:2", "expected an option of trial"),
        ("pmkvq+allocate:3bits", "allocate goes by a calibration: expected +calibration=FILE"),
        ("pmkvq+calibration=c.json+allocate:2", "allocate chooses widths for a budget, '2' is a fixed width"),
        ("pmkvq+none:3bits", "without a schedule a budget needs allocate"),
        ("rtn+none:3bits", "expected an option of rtn"),
        ("kivi+calibration=c.json:2", "expected an option of kivi"),
        ("pmkvq", "expected a width in bits"),
        ("pmkvq:", "expected a width in bits"),
        ("pmkvq:3", "expected a width of 2, 4, 8, 16 bits, got 3"),
        ("paper:3", "expected a width of 2, 4, 8, 16 bits, got 3"),
        ("rtn:9", "expected a width of 1, 2, 3, 4, 5, 6, 7, 8, 16 bits, got 9"),
        ("pmkvq:k4v3", "got 3"),
        ("pmkvq:0bits", "expected bits above 0"),
        ("pmkvq:33bits", "at most 32"),
        ("pmkvq:0KiB", "at least one byte"),
        ("pmkvq:12XiB", "expected a width in bits"),
        ("bf16:2", "neither options nor an amount"),
        ("torch+page", "neither options nor an amount"),
        ("kivi+group=5:2", "expected 32, 64 or 128, got '5'"),
        ("pmkvq+prompt:2", "expected an option of pmkvq"),
        ("kivi+sink=2:2", "expected 0 or 1, got '2'"),
        ("rtn+norm:2", "expected an option of rtn"),
        ("pmkvq+floor=3:10KiB", "expected a width of 1, 2, 4, 8, 16 bits, got 3"),
        ("pmkvq+floor=4:2", "a floor is for a budget"),
        ("rtn+layer:2", "needs a budget"),
        ("rtn:2,rtn:2", "given twice"),
    ])
    def test_what_is_no_method(self, text, words):
        with pytest.raises(MethodError) as refused:
            parse_methods(text)
        assert words in str(refused.value)


def read(tmp_path, *lines, suffix=".jsonl", **options):
    path = tmp_path / f"data{suffix}"
    path.write_text("".join(line + "\n" for line in lines))
    given = {"folder": ROOT / "test" / "models" / "reasoner", "vocab": 100, "positions": 8, "limit": None, "length": None}
    return read_data([str(path)], **{**given, **options})


class TestData:
    def test_programs(self, tmp_path):
        data = read(tmp_path, '{"prompt": [1, 2], "answer": [3, 4, 5]}', "", '{"prompt": [6], "answer": [7]}')
        assert data.prompts == [[1, 2], [6]] and data.answers == [[3, 4, 5], [7]]
        assert [data.cached(i) for i in (0, 1)] == [4, 1]

    def test_texts_and_their_limits(self, tmp_path):
        data = read(tmp_path, '{"tokens": [1, 2, 3]}', '{"tokens": [4, 5, 6]}', limit=1, length=2)
        assert data.prompts == [[1, 2]] and data.answers is None and data.cached(0) == 2

    def test_a_text_is_tokenized(self, tmp_path):
        data = read(tmp_path, "a0 a1", suffix=".txt", vocab=1056)
        assert data.answers is None and len(data.prompts) == 1 and len(data.prompts[0]) >= 2

    def test_equal_tokens_have_equal_digests(self, tmp_path):
        one, other = read(tmp_path, '{"tokens": [1, 2, 3]}'), read(tmp_path, '{"tokens": [1,2,3], "more": 0}')
        assert one.digest == other.digest != read(tmp_path, '{"tokens": [1, 2, 4]}').digest

    @pytest.mark.parametrize("lines, words", [
        ([], "empty"),
        (["", " "], "empty"),
        (["{"], "data.jsonl:1: line: not JSON"),
        (["[1]"], "expected a JSON object"),
        (['{"prompt": [1]}'], 'data.jsonl:1: answer: missing: a program has "prompt" and "answer"'),
        (['{"tokens": [1, 2]}', '{"tokens": []}'], "data.jsonl:2: tokens: expected a list of token ids, at least one"),
        (['{"tokens": [1, "2"]}'], "tokens: expected a list of token ids"),
        (['{"text": "x"}'], "prompt: expected a list of token ids"),
        (['{"prompt": [1], "answer": []}'], "answer: expected a list of token ids, at least one"),
        (['{"tokens": [1, 100]}'], "token 1: expected an id below the model's vocabulary, 100, got 100"),
        (['{"tokens": [1, -1]}'], "token 1: expected an id below"),
        (['{"tokens": [1, 2, 3, 4, 5, 6, 7, 8, 9]}'], "length: expected at most 8 tokens"),
        (['{"tokens": [1]}'], "length: expected at least 2 tokens, got 1"),
        (['{"tokens": [1, 2]}', '{"prompt": [1], "answer": [2]}'], "expected programs alone or texts alone, got both"),
    ])
    def test_what_is_no_data(self, tmp_path, lines, words):
        with pytest.raises(FileError) as refused:
            read(tmp_path, *lines)
        assert words in str(refused.value)

    def test_a_file_that_is_not_utf8(self, tmp_path):
        (tmp_path / "x.txt").write_bytes(b"\xff\xfe")
        with pytest.raises(FileError, match="not UTF-8"):
            read_data([str(tmp_path / "x.txt")], tmp_path, 100, 8, None, None)


def test_programs_are_scored_by_place():
    found = summarize_programs([[1, 2, 3, 4], [1, 9, 3, 4], [1]], [[1, 2, 3, 4]] * 3)
    assert (found["exact"], found["programs"], found["right"], found["tokens"]) == (1, 3, 8, 12)
    assert found["first_wrong"] == [None, 1, 1]
    assert found["right_by_quarter"] == [1, 1 / 3, 2 / 3, 2 / 3]
    # What is written after the answer does not count.
    assert summarize_programs([[1, 2, 5, 5]], [[1, 2]])["exact"] == 1


def test_texts_are_cut_at_edges():
    kl, same = [np.full(600, 1.0), np.full(500, 4.0)], [np.ones(600, bool), np.zeros(500, bool)]
    found = summarize_texts(kl, same)
    assert found["kl"] == (600 + 2000) / 1100 and found["positions"] == 1100
    assert [(b["from"], b["to"]) for b in found["by_position"]] == [(0, 512), (512, 600)]
    assert found["by_position"][0]["kl"] == (512 + 2000) / 1012 and found["by_position"][1]["kl"] == 1
    assert found["texts"][1] == {"kl": 4, "same_top": 0, "positions": 500}


class TestRecords:
    def test_they_are_found_again_by_their_settings(self, tmp_path):
        path = tmp_path / "deep" / "r.jsonl"
        Records(str(path)).add({"settings": {"a": 1}, "x": 5})
        records = Records(str(path))
        assert records.find({"a": 1})["x"] == 5 and records.find({"a": 2}) is None
        records.add({"settings": {"a": 2}})
        assert len(path.read_text().splitlines()) == 2 and list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("line", ["{", "[]", '{"settings": 1}', "{}"])
    def test_another_file_is_refused_and_kept(self, tmp_path, line):
        path = tmp_path / "r.jsonl"
        path.write_text(line + "\n")
        with pytest.raises(FileError, match="r.jsonl:1: line: expected a record of pmkvq eval"):
            Records(str(path))
        assert path.read_text() == line + "\n"


def call(capfd, *arguments):
    """Exit code, stdout, stderr of an evaluation in this process."""
    code = evaluate.main([*map(str, arguments)])
    out, err = capfd.readouterr()
    return code, out, err


@pytest.fixture(autouse=True)
def built(monkeypatch, tmp_path):
    """The tool of $PMKVQ_BUILD, whose compiled code lands in the build."""
    from pmkvq import runner

    for module in (runner, evaluate):
        monkeypatch.setattr(module, "TOOL", tool())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tool().parents[1] / "test-cache"))


def calibration_of(reasoner) -> dict:
    """Keys at 2 bits lose a hundred times what all else does."""
    part = {"clip": 0.8, "sensitivity": [0.01, 0.1, 1]}
    return {
        "format": "pmkvq-calibration", "version": 1,
        "model": {"hash": Checkpoint(reasoner).fingerprint(), "layers": 6, "kv_heads": 2, "head_dim": 128},
        "settings": {"measure": "sensitivity", "key_format": "<per_channel, hadamard>",
                     "value_format": "<per_token, hadamard>"},
        "layers": [{"key": {"clip": 0.8, "sensitivity": [1, 2, 100]}, "value": part}] * 6,
    }


class TestProduct:
    def test_programs_end_to_end_and_not_twice(self, reasoner, tmp_path, capfd):
        output = tmp_path / "r.jsonl"
        arguments = (reasoner, f"--data={PROGRAMS}", "--limit=3", "--batch=2", "--threads=1", "--methods=bf16,pmkvq:2.25bits",
                     f"--output={output}")
        code, out, err = call(capfd, *arguments)
        assert code == 0, err
        assert "batch 2 of 2" in err
        header, *rows = out.splitlines()
        assert header.split()[-2:] == ["programs", "exact"]
        assert [row.split()[0] for row in rows] == ["bf16", "pmkvq:2.25bits"] and all("3 of 3" in row for row in rows)
        records = [json.loads(line) for line in output.read_text().splitlines()]
        assert [record["accuracy"]["exact"] for record in records] == [3, 3]
        lowered = records[1]["cache"]
        assert lowered["bits"] == 2.25 and lowered["peak"] < records[0]["cache"]["peak"]
        # Bytes over time are never above the budget, and the peak is a sequence's times three.
        assert 3 * max(used for _, used in lowered["over_time"]) == lowered["peak"]
        code, again, err = call(capfd, *arguments)
        assert code == 0 and again == out and "pmkvq-run" not in err
        # One method more: only that is computed.
        code, more, err = call(capfd, *[word.replace("bf16,", "bf16,pmkvq:4,") for word in map(str, arguments)])
        assert code == 0 and "1 of 1: pmkvq:4" in err and len(more.splitlines()) == 4

    def test_texts_end_to_end(self, reasoner, tmp_path, capfd):
        program = json.loads(PROGRAMS.read_text().splitlines()[0])
        text = tmp_path / "t.jsonl"
        text.write_text(json.dumps({"tokens": program["prompt"] + program["answer"] + program["prompt"]}) + "\n")
        work = tmp_path / "work"
        code, out, err = call(capfd, reasoner, f"--data={text}", "--methods=bf16,pmkvq:2,pmkvq:4", "--threads=1",
                              f"--work={work}")
        assert code == 0, err
        rows = {row.split()[0]: row.split() for row in out.splitlines()[1:]}
        bf16, two, four = (float(rows[name][5]) for name in ("bf16", "pmkvq:2", "pmkvq:4"))
        assert bf16 == 0 < four < two
        # The reference stays, nothing else.
        assert [path.name.split("-")[0] for path in work.iterdir()] == ["reference"]

    @pytest.mark.parametrize("schedule", ["none", "keys_last"])
    def test_layers_have_floors_by_a_calibration(self, reasoner, tmp_path, capfd, schedule):
        calibration, output = tmp_path / "c.json", tmp_path / "r.jsonl"
        calibration_file.write(calibration, calibration_of(reasoner))
        method = f"pmkvq+calibration={calibration}+allocate+{schedule}:3.25bits"
        code, out, err = call(capfd, reasoner, f"--data={PROGRAMS}", "--limit=2", "--threads=1", f"--methods={method}",
                              f"--output={output}")
        assert code == 0, err
        cache = json.loads(output.read_text())["cache"]
        # 3.25 bits are 18 blocks of a page of every layer, for keys at 4 and values at 2 bits.
        assert cache["bits"] == 3.25 and cache["over_time"] == [[cache["over_time"][0][0], cache["peak"] // 2]]
        if schedule == "none":
            assert {bits for bits, count in cache["levels"]["key"].items() if count} == {"4"}
            assert {bits for bits, count in cache["levels"]["value"].items() if count} == {"2"}

    def test_a_budget_that_is_too_small_is_refused_before_any_run(self, reasoner, tmp_path, capfd):
        output = tmp_path / "r.jsonl"
        for method in ("pmkvq:10KiB", "rtn:10KiB"):
            code, out, err = call(capfd, reasoner, f"--data={PROGRAMS}", "--limit=1", f"--methods=bf16,{method}",
                                  f"--output={output}")
            needs_torch = method.startswith("rtn") and "needs torch" in err
            assert code == 1 and out == "" and (needs_torch or ("bytes are missing" in err and method in err))
            assert not output.exists()


@pytest.mark.parametrize("arguments, words", [
    (["nowhere", f"--data={PROGRAMS}", "--methods=bf16"], "nowhere: expected a Hugging Face folder"),
    ([ROOT / "test" / "models" / "reasoner", "--data=nowhere.jsonl", "--methods=bf16"], "nowhere.jsonl"),
    ([ROOT / "test" / "models" / "reasoner", f"--data={PROGRAMS}", "--methods=fp8"], "expected a method"),
])
def test_what_is_wrong_is_said_in_one_line(arguments, words, capfd):
    code, out, err = call(capfd, *arguments)
    assert code == 1 and out == "" and words in err and err.count("\n") == 1 and err.startswith("error: ")


def test_a_config_that_is_none(tmp_path, capfd):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    code, _, err = call(capfd, tmp_path, f"--data={PROGRAMS}", "--methods=bf16")
    assert code == 1 and "not a model's config" in err


def test_help_and_commands(python_environment):
    def python(*arguments):
        return subprocess.run([sys.executable, "-m", "pmkvq", *arguments], capture_output=True, text=True,
                              env=python_environment)

    assert "turboquant:2" in python("eval", "--help").stdout
    assert python("evil").returncode == 2 and python().returncode == 2
    assert python("eval", "model", "--data=x", "--methods=bf16", "--limit=0").returncode == 2


def test_torch_is_only_loaded_for_baselines(python_environment):
    code = "import sys, pmkvq.evaluate; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env=python_environment).returncode == 0


def test_the_table_says_bytes_and_shares(capsys):
    eval_records.print_table([{"settings": {"method": "x"}, "cache": {"peak": 4096, "sequences": 2, "bf16": 8192, "bits": 2.25},
                               "accuracy": {"right": 9, "tokens": 10, "exact": 1, "programs": 2}}])
    assert capsys.readouterr().out.splitlines()[1].split() == ["x", "2", "50.0", "%", "2.250", "90.00", "%", "1", "of", "2"]
