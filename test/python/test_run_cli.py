"""pmkvq-run on good input: tokens, budgets, threads, text, stages."""

import json
import re
import resource

import numpy as np
import pytest

from pmkvq_run import generate, ids, programs, run, tool, write_prompts

# The reasoner's geometry and the cache's, from the design, not from the code.
LAYERS, KV_HEADS, HEAD_DIM = 6, 2, 128
SINK, PAGE = 1, 128
PAGE_HEADS = LAYERS * KV_HEADS
LEVELS = ("16", "8", "4", "2")
ANSWER_END = 2

# A page table entry holds at least its blocks' ids; 128 bytes are ample.
MIN_TABLE_BYTES, MAX_TABLE_BYTES = 1, 128


def fixed_bytes(sequences):
    """Sinks and whole windows, keys and values, bf16."""
    return sequences * PAGE_HEADS * 2 * (SINK + PAGE) * HEAD_DIM * 2


def page_bytes(bits_key, bits_value):
    """Codes of a page of one head, and a minimum and a range in fp16 a group."""
    codes = PAGE * HEAD_DIM * (bits_key + bits_value) // 8
    return codes + (HEAD_DIM + PAGE) * 2 * 2


def pages(tokens):
    """Pages of a sequence with `tokens` cached tokens; the window may be full."""
    return max(0, -(-(tokens - SINK - PAGE) // PAGE))


def counted_bytes(summary, sequences):
    """Bytes of codes, parameters, sinks and windows at the end, from the levels."""
    levels = summary["levels"]
    count = sum(levels["key"].values())
    assert count == sum(levels["value"].values())
    codes = sum(number * int(bits) for part in ("key", "value") for bits, number in levels[part].items())
    return (codes * PAGE * HEAD_DIM // 8 + count * (HEAD_DIM + PAGE) * 2 * 2 + fixed_bytes(sequences),
            count)


def check_budget(summary, sequences):
    """Never a byte over, recounted from outside."""
    assert summary["kv_bytes_peak"] <= summary["kv_budget_bytes"]
    recounted, count = counted_bytes(summary, sequences)
    assert recounted + count * MIN_TABLE_BYTES <= summary["kv_bytes_peak"]


def wrong(outputs, answers):
    """Indices of the programs that are not exactly right."""
    return [i for i, (found, answer) in enumerate(zip(outputs, answers, strict=True)) if found != answer]


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Path of a prompts file and the answers: (lines, how many) to both."""
    folder = tmp_path_factory.mktemp("prompts")

    def make(lines, count):
        chosen = programs(lines)[:count]
        path = write_prompts(folder / f"{lines}-{count}.jsonl", [p["prompt"] for p in chosen])
        return path, [p["answer"] for p in chosen]

    return make


class TestReasoner:
    def test_16_lines_in_bf16(self, reasoner, batch):
        prompts, answers = batch(16, 16)
        output = generate(reasoner, f"--prompts={prompts}", f"--max-tokens={len(answers[0])}")
        assert wrong(output.tokens, answers) == []
        assert {bits for bits in LEVELS if output.summary["levels"]["key"][bits]} == {"16"}
        assert not output.summary["kv_budget_bytes"]

    def test_64_lines_at_2_bits(self, reasoner):
        program = programs(64)[0]
        output = generate(reasoner, f"--prompt-tokens={ids(program['prompt'])}",
                          f"--max-tokens={len(program['answer'])}", "--kv-bits=2.25")
        assert output.tokens == [program["answer"]]
        check_budget(output.summary, 1)
        count = pages(len(program["prompt"]) + len(program["answer"]) - 1) * PAGE_HEADS
        for part in ("key", "value"):
            assert output.summary["levels"][part] == {"16": 0, "8": 0, "4": 0, "2": count}
        # The budget is what 2.25 bits an element mean, and tables on top.
        pages_budget = count * PAGE * HEAD_DIM * 2 * 2.25 / 8
        tables = output.summary["kv_budget_bytes"] - pages_budget - fixed_bytes(1)
        assert count * MIN_TABLE_BYTES <= tables <= count * MAX_TABLE_BYTES

    @pytest.mark.parametrize("key", ["per_token_symmetric", "per_token+hadamard", "per_token+plain",
                                     "per_channel+plain+clip=0.85"])
    def test_other_key_formats_run_end_to_end(self, reasoner, key):
        # 4 bits: per-token keys without rotation lose the thread at 2.
        program = programs(64)[0]
        output = generate(reasoner, f"--prompt-tokens={ids(program['prompt'])}", f"--key-format={key}",
                          f"--max-tokens={len(program['answer'])}", "--schedule=none", "--floor=4")
        assert output.tokens == [program["answer"]]
        assert {bits for bits in LEVELS if output.summary["levels"]["key"][bits]} == {"4"}

    def test_values_at_one_bit(self, reasoner):
        program = programs(64)[0]
        output = generate(reasoner, f"--prompt-tokens={ids(program['prompt'])}", "--value-format=per_token_symmetric",
                          f"--max-tokens={len(program['answer'])}", "--value-floor=1", "--kv-bits=1.9", "--check")
        assert output.tokens == [program["answer"]]
        budget = output.summary["kv_budget_bytes"]
        assert 0.98 * budget < output.summary["kv_bytes_peak"] <= budget
        levels = output.summary["levels"]
        count = pages(len(program["prompt"]) + len(program["answer"]) - 1) * PAGE_HEADS
        assert levels["key"] == {"16": 0, "8": 0, "4": 0, "2": count}
        # In pairs, and never the newest page.
        assert levels["value"]["1"] % 2 == 0 and 0 < levels["value"]["1"] <= count - PAGE_HEADS
        assert levels["value"]["2"] + levels["value"]["1"] == count

    def test_the_papers_scheme_runs_end_to_end(self, reasoner, batch):
        prompts, answers = batch(64, 2)
        output = generate(reasoner, f"--prompts={prompts}", f"--max-tokens={len(answers[0])}",
                          "--key-format=paper", "--value-format=paper", "--schedule=layer", "--floor=8",
                          "--kv-bits=9")
        assert wrong(output.tokens, answers) == []
        check_budget(output.summary, len(answers))
        for layer in output.summary["levels"]["layers"]:
            assert sum(count > 0 for count in layer["key"].values()) == 1, "a layer has one level"

    @pytest.mark.slow
    def test_64_lines_at_2_bits_in_a_batch(self, reasoner, batch):
        prompts, answers = batch(64, 8)
        output = generate(reasoner, f"--prompts={prompts}", f"--max-tokens={len(answers[0])}", "--kv-bits=2.25")
        assert wrong(output.tokens, answers) == []
        check_budget(output.summary, len(answers))

    @pytest.mark.slow
    def test_64_lines_in_bf16(self, reasoner, batch):
        prompts, answers = batch(64, 4)
        output = generate(reasoner, f"--prompts={prompts}", f"--max-tokens={len(answers[0])}")
        assert wrong(output.tokens, answers) == []


class TestSampling:
    def draw(self, reasoner, *options):
        program = programs(16)[0]
        return generate(reasoner, f"--prompt-tokens={ids(program['prompt'][:20])}", "--max-tokens=40",
                        "--temperature=1.5", *options).tokens

    def test_a_seed_repeats_and_seeds_differ(self, reasoner):
        first = self.draw(reasoner, "--seed=1", "--threads=1")
        assert first == self.draw(reasoner, "--seed=1", "--threads=2")
        assert first != self.draw(reasoner, "--seed=2")

    def test_temperature_0_is_greedy(self, reasoner):
        prompt = f"--prompt-tokens={ids(programs(16)[0]['prompt'])}"
        options = (prompt, "--max-tokens=20")
        greedy = generate(reasoner, *options).tokens
        assert greedy == generate(reasoner, *options, "--temperature=0", "--seed=5").tokens


class TestLogits:
    def test_every_position_of_given_tokens(self, reasoner, tmp_path):
        program = programs(16)[0]
        given = program["prompt"] + program["answer"]
        file = tmp_path / "logits.safetensors"
        output = generate(reasoner, f"--prompt-tokens={ids(given[:-1])}", "--max-tokens=1", f"--logits={file}",
                          "--kv-bits=3")
        data = file.read_bytes()
        size = int.from_bytes(data[:8], "little")
        entry = json.loads(data[8:8 + size])["logits.0"]
        assert entry["dtype"] == "F32" and entry["shape"] == [len(given) - 1, 1056]
        begin, end = entry["data_offsets"]
        logits = np.frombuffer(data[8 + size:][begin:end], np.float32).reshape(entry["shape"])
        first = len(program["prompt"]) - 1
        assert logits.argmax(axis=1)[first:].tolist() == program["answer"]
        assert output.tokens == [given[-1:]]

    def test_a_file_that_cannot_be_written(self, reasoner, tmp_path):
        result = run(reasoner, "--prompt-tokens=0,1", "--max-tokens=1", f"--logits={tmp_path}/no/such/folder")
        assert 1 <= result.returncode <= 127
        assert result.stdout == "" and "--logits" in result.stderr


class TestCheck:
    """Attention against the reference; test/unit/CompilerCheckTest.cpp has wrong kernels."""

    # Outputs of one row: query heads of every layer.
    HEADS = LAYERS * 6
    # What f32 leaves: sums of 128 products, terms up to 100 times the sum.
    F32 = 100 * 128**0.5 * 2**-24
    # What 15 bits of queries and weights leave beside codes: the same sums, terms up to 5 times the sum.
    INTEGERS = 5 * 128**0.5 * 2**-16

    @pytest.mark.parametrize("options", [
        ("--kv-bits=2.5",), (), ("--schedule=none", "--floor=4", "--value-format=per_channel+plain"),
        ("--key-format=paper", "--value-format=paper", "--kv-bits=4")])
    def test_every_output_of_every_step(self, reasoner, options):
        prompt = programs(64)[0]["prompt"]
        output = generate(reasoner, f"--prompt-tokens={ids(prompt)}", "--max-tokens=80", "--check", *options)
        check = output.summary["check"]
        rows = len(prompt) + len(output.tokens[0]) - 1
        assert check["outputs"] == rows * self.HEADS
        assert 0 < check["rms"] < check["largest"] < (self.INTEGERS if options else self.F32)
        assert check["worst"]["layer"] < LAYERS and check["worst"]["position"] < rows

    def test_ragged_batch_with_logits(self, reasoner, tmp_path):
        prompts = [programs(64)[0]["prompt"], programs(16)[1]["prompt"], [0]]
        output = generate(reasoner, f"--prompts={write_prompts(tmp_path / 'p.jsonl', prompts)}", "--max-tokens=3",
                          "--kv-bits=3", "--check", f"--logits={tmp_path}/l.safetensors")
        rows = sum(map(len, prompts)) + sum(map(len, output.tokens)) - len(prompts)
        assert output.summary["check"]["outputs"] == rows * self.HEADS
        assert output.summary["check"]["largest"] < self.INTEGERS

    def test_tokens_are_the_same(self, reasoner):
        options = (f"--prompt-tokens={ids(programs(16)[0]['prompt'])}", "--max-tokens=20", "--kv-bits=3")
        checked = run(reasoner, *options, "--check")
        plain = run(reasoner, *options)
        assert (checked.returncode, checked.stdout) == (0, plain.stdout)
        assert re.search(r"^check   .* outputs of \d+ steps; relative errors: largest \S+ \(step \d+, layer \d+",
                         checked.stderr, re.MULTILINE)
        assert "check" not in plain.stderr

    def test_more_than_the_tolerance(self, reasoner):
        result = run(reasoner, "--prompt-tokens=0,319,650", "--max-tokens=4", "--check", "--check-tolerance=1e-12")
        assert result.returncode == 2
        # What was generated is there, and the last line says where it is worst.
        assert len(result.stdout.split()) >= 1
        last = result.stderr.splitlines()[-1]
        assert last.startswith("pmkvq-run: error: --check: ")
        assert re.search(r"at most 1\.0e-12, got largest \S+ \(step \d+, layer \d, query head \d;", last)


def test_a_summary_without_a_budget_says_so(reasoner):
    result = run(reasoner, "--prompt-tokens=0,319,650", "--max-tokens=4")
    assert re.search(r"^cache   [\d,]+ KiB, without a budget; bf16 would take [\d,]+ KiB$", result.stderr, re.MULTILINE)


class TestBudget:
    LINES = 64

    def options(self):
        program = programs(self.LINES)[0]
        return (f"--prompt-tokens={ids(program['prompt'])}", f"--max-tokens={len(program['answer'])}")

    @pytest.mark.parametrize("size", ["1500KiB", "2MiB", "3MB"])
    def test_never_a_byte_over(self, reasoner, size):
        number, unit = re.fullmatch(r"(\d+)(\D+)", size).groups()
        budget = int(number) * {"KiB": 1 << 10, "MiB": 1 << 20, "MB": 10**6}[unit]
        output = generate(reasoner, *self.options(), f"--kv-budget={size}")
        assert output.summary["kv_budget_bytes"] == budget
        check_budget(output.summary, 1)
        # And it is used: one more page-head at the next level would not have fitted.
        recounted, count = counted_bytes(output.summary, 1)
        dearest_step = page_bytes(16, 16) - page_bytes(8, 8)
        assert recounted > budget - dearest_step - count * MAX_TABLE_BYTES

    def test_plain_number_is_bytes(self, reasoner):
        output = generate(reasoner, *self.options(), "--kv-budget=2000000")
        assert output.summary["kv_budget_bytes"] == 2000000

    def test_a_run_without_pages_needs_room_for_none(self, reasoner):
        output = generate(reasoner, "--prompt-tokens=1,2,3", "--max-tokens=2", "--kv-bits=2.25")
        assert all(count == 0 for part in ("key", "value") for count in output.summary["levels"][part].values())

    def test_layers_add_up(self, reasoner):
        levels = generate(reasoner, *self.options(), "--kv-budget=2MiB").summary["levels"]
        assert len(levels["layers"]) == LAYERS
        for part in ("key", "value"):
            for bits in LEVELS:
                assert levels[part][bits] == sum(layer[part][bits] for layer in levels["layers"])

    def test_floor_holds(self, reasoner):
        levels = generate(reasoner, *self.options(), "--kv-bits=4.25", "--floor=4").summary["levels"]
        assert levels["key"]["2"] == levels["value"]["2"] == 0
        assert levels["key"]["4"] > 0

    @pytest.mark.parametrize("options, key, value", [
        (("--key-floor=4",), 4, 2), (("--value-floor=4",), 2, 4), (("--floor=4", "--key-floor=4"), 4, 4),
        (("--key-floor=8", "--value-floor=2"), 8, 2)])
    def test_floors_of_keys_and_values(self, reasoner, options, key, value):
        # --kv-bits lower than that would be refused: this is the floor's own size.
        bits = (key + value) / 2 + 0.25
        for schedule in ("keys_last", "page", "none"):
            levels = generate(reasoner, *self.options(), f"--kv-bits={bits}", f"--schedule={schedule}",
                              *options).summary["levels"]
            assert {bits for bits in LEVELS if levels["key"][bits]} == {str(key)}
            assert {bits for bits in LEVELS if levels["value"][bits]} == {str(value)}

    @pytest.mark.parametrize("bits", [8, 4, 2])
    def test_no_schedule_writes_every_page_at_the_floor(self, reasoner, bits):
        output = generate(reasoner, *self.options(), "--schedule=none", f"--floor={bits}")
        count = pages(sum(len(programs(self.LINES)[0][part]) for part in ("prompt", "answer")) - 1)
        for part in ("key", "value"):
            assert output.summary["levels"][part][str(bits)] == count * PAGE_HEADS

    def test_bytes_in_bf16_for_comparison(self, reasoner):
        output = generate(reasoner, *self.options(), "--kv-bits=2.25")
        tokens = sum(len(programs(self.LINES)[0][part]) for part in ("prompt", "answer")) - 1
        assert output.summary["kv_bytes_bf16"] >= tokens * PAGE_HEADS * 2 * HEAD_DIM * 2


class TestOutput:
    def test_summary(self, reasoner):
        summary = generate(reasoner, "--prompt-tokens=0,319,650", "--max-tokens=3").summary
        assert {"tokens_per_second", "prefill_tokens_per_second", "kv_bytes_peak", "kv_budget_bytes",
                "kv_bytes_bf16", "levels"} <= summary.keys()
        assert summary["tokens_per_second"] > 0 and summary["prefill_tokens_per_second"] > 0
        for levels in (summary["levels"], *summary["levels"]["layers"]):
            for part in ("key", "value"):
                assert levels[part] == dict.fromkeys(LEVELS, 0)

    def test_stop_token_ends_a_sequence_and_is_printed(self, reasoner):
        program = programs(16)[0]
        output = generate(reasoner, f"--prompt-tokens={ids(program['prompt'])}", "--max-tokens=400")
        assert output.tokens == [program["answer"]]
        assert output.tokens[0][-1] == ANSWER_END

    def test_max_tokens_counts_generated_tokens(self, reasoner):
        program = programs(16)[0]
        output = generate(reasoner, f"--prompt-tokens={ids(program['prompt'])}", "--max-tokens=5")
        assert output.tokens == [program["answer"][:5]]

    def test_one_token(self, reasoner):
        program = programs(16)[0]
        output = generate(reasoner, f"--prompt-tokens={ids(program['prompt'])}", "--max-tokens=1")
        assert output.tokens == [program["answer"][:1]]

    def test_token_ids_need_no_python(self, reasoner):
        program = programs(16)[0]
        output = generate(reasoner, f"--prompt-tokens={ids(program['prompt'])}", "--max-tokens=2",
                          PMKVQ_PYTHON="/nonexistent/python")
        assert output.tokens == [program["answer"][:2]]


class TestSameTokens:
    """What must not change a token."""

    @pytest.mark.parametrize("options", [(), ("--schedule=none", "--floor=2")])
    def test_alone_or_in_a_ragged_batch(self, reasoner, tmp_path, options):
        chosen = [programs(16)[0], programs(64)[1], programs(16)[2]]
        prompts = write_prompts(tmp_path / "p.jsonl", [p["prompt"] for p in chosen])
        together = generate(reasoner, f"--prompts={prompts}", "--max-tokens=150", *options)
        for program, tokens in zip(chosen, together.tokens, strict=True):
            alone = generate(reasoner, f"--prompt-tokens={ids(program['prompt'])}", "--max-tokens=150", *options)
            assert alone.tokens == [tokens]

    @pytest.mark.parametrize("options", [(), ("--kv-bits=3",)])
    def test_threads(self, reasoner, batch, options):
        prompts, _ = batch(64, 2)
        runs = [generate(reasoner, f"--prompts={prompts}", "--max-tokens=100", f"--threads={threads}", *options)
                for threads in (1, 2, 3)]
        assert runs[0].tokens == runs[1].tokens == runs[2].tokens
        assert runs[0].summary["levels"] == runs[1].summary["levels"]

    def test_again(self, reasoner, batch):
        prompts, _ = batch(16, 4)
        arguments = (reasoner, f"--prompts={prompts}", "--max-tokens=112", "--kv-bits=2.25")
        assert generate(*arguments).tokens == generate(*arguments).tokens


class TestText:
    @pytest.fixture
    def words(self, reasoner):
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(reasoner / "tokenizer.json"))
        return lambda tokens: " ".join(tokenizer.id_to_token(token) for token in tokens)

    def test_prompt_and_answer(self, reasoner, words):
        program = programs(16)[0]
        result = run(reasoner, f"--prompt={words(program['prompt'])}", "--max-tokens=112", "--output=text")
        assert result.returncode == 0, result.stderr
        # The end of the answer is a special token and not shown.
        assert words(program["answer"][:-1]) in result.stdout

    def test_prompts_file_may_mix_text_and_ids(self, reasoner, words, tmp_path):
        first, second = programs(16)[:2]
        prompts = write_prompts(tmp_path / "p.jsonl", [words(first["prompt"]), second["prompt"]])
        output = generate(reasoner, f"--prompts={prompts}", "--max-tokens=112")
        assert output.tokens == [first["answer"], second["answer"]]


def test_dumped_stages_show_the_way(reasoner, tmp_path):
    """Attention over the cache in pmkvq ops, then in tile ops, then in neither."""
    generate(reasoner, "--prompt-tokens=0,319,650", "--max-tokens=1", f"--dump-stages={tmp_path / 'stages'}")
    stages = [path.read_text() for path in sorted((tmp_path / "stages").iterdir()) if path.suffix == ".mlir"]
    assert len(stages) >= 4

    def first(op):
        holders = [i for i, stage in enumerate(stages) if op in stage]
        assert holders, op
        return holders[0], holders[-1]

    attend, tile, vector = first("pmkvq.attend "), first("pmkvq.softmax_update "), first("vector.")
    assert attend[0] < tile[0] < vector[0]
    assert attend[1] < tile[1] < len(stages) - 1
    assert "pmkvq.softmax_update " not in stages[-1]


def test_help_names_every_option():
    result = run("--help")
    assert result.returncode == 0
    for option in ("prompt", "prompt-tokens", "prompts", "max-tokens", "kv-budget", "kv-bits", "schedule",
                   "floor", "key-floor", "value-floor", "device", "cache-device", "cpu", "code-cache", "ptxas",
                   "threads", "output", "dump-stages", "explain", "check", "check-tolerance", "emit", "completion"):
        assert f"--{option}" in result.stdout


def test_tool_is_a_program():
    assert tool().stat().st_mode & 0o111


class TestCodeCache:
    """Code is compiled once; what is kept of it can be damaged, not trusted blindly."""

    ARGUMENTS = ("--prompt-tokens=1,5,9", "--max-tokens=8", "--floor=2", "--schedule=none")

    def timed(self, reasoner, *options):
        """Tokens and the processor seconds of the run."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        tokens = generate(reasoner, *self.ARGUMENTS, *options).tokens
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return tokens, after.ru_utime - before.ru_utime

    def test_a_second_run_compiles_nothing(self, reasoner, tmp_path):
        option = f"--code-cache={tmp_path / 'a' / 'b'}"
        first, compiling = self.timed(reasoner, option)
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "a" / "b").glob("llvmcache-*")}
        assert len(kept) == 1
        again, loading = self.timed(reasoner, option)
        assert again == first
        assert loading < compiling / 2
        assert {path: path.stat().st_mtime_ns for path in kept} == kept

    def test_other_code_is_another_file(self, reasoner, tmp_path):
        for cpu in ("native", "generic"):
            generate(reasoner, "--prompt-tokens=1,5,9", "--max-tokens=2", f"--cpu={cpu}", f"--code-cache={tmp_path}")
        assert len(list(tmp_path.glob("llvmcache-*"))) == 2

    @pytest.mark.parametrize("damage", [lambda code: code[:100], lambda code: b"", lambda code: code[:-1] + b"?",
                                        lambda code: code[:2000] + bytes([code[2000] ^ 1]) + code[2001:]],
                             ids=["cut", "empty", "digest", "bit"])
    def test_damaged_code_is_compiled_again(self, reasoner, tmp_path, damage):
        arguments = (reasoner, "--prompt-tokens=1,5,9", "--max-tokens=8", f"--code-cache={tmp_path}")
        first = generate(*arguments).tokens
        (kept,) = tmp_path.glob("llvmcache-*")
        whole = kept.read_bytes()
        kept.write_bytes(damage(whole))
        assert generate(*arguments).tokens == first
        assert kept.read_bytes() == whole

    def test_none_keeps_nothing(self, reasoner, tmp_path):
        generate(reasoner, "--prompt-tokens=1,5,9", "--max-tokens=2", "--code-cache=none",
                 XDG_CACHE_HOME=str(tmp_path))
        assert not list(tmp_path.rglob("*"))

    def test_a_file_is_no_folder(self, reasoner, tmp_path):
        (tmp_path / "file").write_text("")
        result = run(reasoner, "--prompt-tokens=1", "--max-tokens=2", f"--code-cache={tmp_path / 'file'}")
        assert result.returncode == 1
        assert "--code-cache: expected none or a folder" in result.stderr


def test_an_assembler_that_is_none(reasoner):
    result = run(reasoner, "--prompt-tokens=1", "--max-tokens=2", "--ptxas=/no/such/ptxas")
    assert result.returncode == 1
    assert "--ptxas: expected auto, none or an executable file, got '/no/such/ptxas'" in result.stderr
