"""pmkvq-run --explain: what a plan says is what the run then takes."""

import re

import pytest

from pmkvq_run import fails, generate, ids, programs, run, write_prompts

PROGRAM = programs(64)[0]
ONE = (f"--prompt-tokens={ids(PROGRAM['prompt'])}", f"--max-tokens={len(PROGRAM['answer'])}")
LEVELS = ("16", "8", "4", "2")


def explain(model, *options):
    result = run(model, *options, "--explain")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def number(text):
    return int(text.replace(",", ""))


def bytes_of(text, name):
    """The last column of a line of the table of bytes."""
    return number(re.search(rf"^{re.escape(name)} .*?([\d,]+)$", text, re.MULTILINE)[1])


def table(text, title):
    """Rows below a title: layer, four levels of keys, four of values; None for '-'."""
    lines = text[text.index(title):].splitlines()[2:]
    rows = []
    for line in lines:
        if not line:
            break
        layer, *values = line.split()
        assert int(layer) == len(rows)
        rows.append([None if value == "-" else number(value) for value in values])
    return rows


class TestAgreesWithTheRun:
    def check(self, model, *options):
        text = explain(model, *options)
        summary = generate(model, *options).summary
        assert bytes_of(text, "peak") == summary["kv_bytes_peak"]
        if summary["kv_budget_bytes"]:
            assert bytes_of(text, "budget") == summary["kv_budget_bytes"]
        else:
            assert "\nbudget" not in text
        for row, layer in zip(table(text, "pages at the end"), summary["levels"]["layers"], strict=True):
            # One bit is listed where it may occur.
            assert row == [count for part in ("key", "value") for count in layer[part].values()]

    @pytest.mark.parametrize("options", [
        (), ("--kv-bits=2.25",), ("--kv-bits=5",), ("--kv-budget=2MiB",), ("--kv-budget=2MiB", "--key-floor=4"),
        ("--kv-budget=3MB", "--key-floor=8", "--value-floor=4"), ("--schedule=none", "--floor=4"),
        ("--schedule=none", "--key-floor=8", "--kv-budget=3MiB"), ("--kv-bits=4", "--key-format=per_token+plain"),
        ("--kv-bits=2", "--value-floor=1")])
    def test_one_sequence(self, reasoner, options):
        self.check(reasoner, *ONE, *options)

    def test_a_ragged_batch(self, reasoner, tmp_path):
        chosen = [programs(64)[0], programs(16)[0], programs(64)[1]]
        prompts = write_prompts(tmp_path / "p.jsonl", [p["prompt"] for p in chosen])
        # As many tokens as the shortest answer has: none ends before.
        count = min(len(p["answer"]) for p in chosen)
        self.check(reasoner, f"--prompts={prompts}", f"--max-tokens={count}", "--kv-bits=4.5")


class TestWords:
    def test_bytes_by_kind_add_up(self, reasoner):
        text = explain(reasoner, *ONE, "--kv-budget=2MiB")
        kinds = ("fixed areas (sinks, windows)", "page tables", "parameters", "blocks (codes)")
        assert sum(bytes_of(text, kind) for kind in kinds) == bytes_of(text, "total") <= bytes_of(text, "budget")

    def test_pages_are_first_full_after_sink_and_window(self, reasoner):
        rows = table(explain(reasoner, *ONE, "--kv-budget=2MiB"), "tokens of the longest sequence")
        assert len(rows) == 6
        for row in rows:
            sixteen, eight, four, two = row[:4]
            assert sixteen == 1 + 128 and two is None
            assert sixteen < eight < four and eight % 128 == four % 128 == 1
            assert row[4:] == row[:4]

    def test_without_a_schedule_pages_start_at_the_floor(self, reasoner):
        rows = table(explain(reasoner, *ONE, "--schedule=none", "--floor=4"), "tokens of the longest sequence")
        assert rows == [[None, None, 129, None] * 2] * 6

    def test_no_pages(self, reasoner):
        assert "there are no pages" in explain(reasoner, "--prompt-tokens=0,319", "--max-tokens=127")

    def test_what_the_budget_buys(self, reasoner):
        text = explain(reasoner, *ONE, "--kv-bits=4.25")
        bits = [float(found) for found in re.findall(r"([\d.]+) bits an element", text)]
        assert len(bits) == 2 and bits[0] == 4.25 < bits[1]
        most, more = (number(found) for found in re.findall(r"up to ([\d,]+) new tokens", text))
        assert most < more
        # The longest run fits, one token more does not.
        budget = f"--kv-budget={bytes_of(text, 'budget')}"
        assert "It fits" in explain(reasoner, ONE[0], f"--max-tokens={most}", budget)
        fails(reasoner, ONE[0], f"--max-tokens={most + 1}", budget, "--explain", words=["bytes are missing"])


class TestBadInput:
    def test_bytes_missing(self, reasoner):
        options = (reasoner, *ONE, "--explain")
        message = fails(*options, "--kv-budget=1MiB", words=["bytes are missing"])
        missing = int(re.search(r"(\d+) bytes are missing", message)[1])
        fails(*options, f"--kv-budget={(1 << 20) + missing - 1}", words=["1 bytes are missing"])
        assert "It fits" in explain(reasoner, *ONE, f"--kv-budget={(1 << 20) + missing}")

    @pytest.mark.parametrize("options, words", [
        ((), ["--prompt"]), (("--prompt-tokens=1",), ["--max-tokens"]), (("--max-tokens=3",), ["--prompt"]),
        ((*ONE, "--emit=import"), ["--explain", "--emit"]), ((*ONE, "--output=jsonl"), ["--explain", "--output"]),
        ((*ONE, "--kv-budget=0"), ["--kv-budget"]), ((*ONE, "--key-floor=3"), ["--key-floor"])])
    def test_refused(self, reasoner, options, words):
        fails(reasoner, *options, "--explain", words=words)

    def test_leaves_no_folder(self, reasoner, tmp_path):
        fails(reasoner, *ONE, "--explain", f"--dump-stages={tmp_path}/stages", words=["--dump-stages"])
        fails(reasoner, *ONE, "--kv-budget=1MiB", f"--dump-stages={tmp_path}/stages")
        assert list(tmp_path.iterdir()) == []

    def test_explain_takes_no_value(self, reasoner):
        fails(reasoner, *ONE, "--explain=yes", words=["explain"])
