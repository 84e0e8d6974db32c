"""pmkvq-run on bad input: one clear line on stderr, exit code 1 to 127, empty stdout."""

import json
import re
import shutil
import struct

import pytest

from pmkvq_run import fails, generate, ids, programs, write_prompts

SHARD = "model-00001-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
PROMPT = "--prompt-tokens=0,319,650"


@pytest.fixture
def model(reasoner, tmp_path):
    """A copy of the reasoner that may be changed; its shards are links until replaced."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in reasoner.iterdir():
        if path.suffix == ".safetensors":
            (folder / path.name).symlink_to(path)
        elif not path.name.startswith("programs"):
            shutil.copy(path, folder)
    return folder


def replace(path, data):
    """Writes a new file: the old one may be a link."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def patch_json(path, **changes):
    document = json.loads(path.read_text())
    document.update(changes)
    replace(path, json.dumps(document).encode())


def patch_header(path, change):
    """Lets `change` edit the header of a safetensors file; the data stays."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    replace(path, struct.pack("<Q", len(text)) + text + data[8 + size :])


def refuses(model, *words, options=(PROMPT, "--max-tokens=2"), **environment):
    return fails(model, *options, words=words, **environment)


class TestFiles:
    def test_missing_model(self, tmp_path):
        refuses(tmp_path / "nothing", tmp_path / "nothing")

    def test_empty_folder(self, tmp_path):
        refuses(tmp_path, "config.json")

    def test_missing_config(self, model):
        (model / "config.json").unlink()
        refuses(model, model / "config.json")

    @pytest.mark.parametrize("text", ["", "{", "[]", '"text"', '{"hidden_size": }', "\x00\xff", '{"a": 1} x',
                                      "[" * 100000])
    def test_malformed_config(self, model, text):
        replace(model / "config.json", text.encode("latin-1"))
        refuses(model, model / "config.json")

    def test_missing_shard(self, model):
        (model / SHARD).unlink()
        refuses(model, model / SHARD)

    def test_no_weights(self, model):
        for path in model.glob("model*"):
            path.unlink()
        refuses(model, model)

    @pytest.mark.parametrize("size", [0, 4, 8, 100, 5000, -1])
    def test_truncated_shard(self, model, size):
        data = (model / SHARD).read_bytes()
        replace(model / SHARD, data[:size])
        refuses(model, model / SHARD)

    @pytest.mark.parametrize("length", [0, 1, 1 << 40, (1 << 64) - 1, (1 << 64) - 8])
    def test_header_length(self, model, length):
        data = (model / SHARD).read_bytes()
        replace(model / SHARD, struct.pack("<Q", length) + data[8:])
        refuses(model, model / SHARD)

    @pytest.mark.parametrize("text", [b"{" + b" " * 63, b"[]" + b" " * 62, b"\xff" * 64])
    def test_malformed_header(self, model, text):
        replace(model / SHARD, struct.pack("<Q", len(text)) + text)
        refuses(model, model / SHARD)

    @pytest.mark.parametrize("entry", [
        {"data_offsets": [0, 1 << 40]}, {"data_offsets": [8, 0]}, {"data_offsets": [-8, 0]},
        {"data_offsets": [0]}, {"data_offsets": "0,8"}, {"data_offsets": [0, 1 << 70]},
        {"shape": [1 << 40, 1 << 40]}, {"shape": [-1, 384]}, {"shape": 384}, {"shape": [1056, 384, 1]},
        {"shape": [1, 2]}, {"dtype": "I8"}, {"dtype": 5}])
    def test_damaged_entry(self, model, entry):
        name = "model.embed_tokens.weight"
        patch_header(model / SHARD, lambda header: header[name].update(entry))
        refuses(model, model / SHARD, name)

    def test_tensor_not_in_its_shard(self, model):
        def remove(header):
            del header["model.layers.0.mlp.up_proj.weight"]

        patch_header(model / SHARD, remove)
        refuses(model, "model.layers.0.mlp.up_proj.weight")

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}'])
    def test_malformed_index(self, model, text):
        replace(model / INDEX, text.encode())
        refuses(model, model / INDEX)

    def test_index_that_leaves_the_folder(self, model):
        weight_map = json.loads((model / INDEX).read_text())["weight_map"]
        weight_map["model.norm.weight"] = "../../etc/passwd"
        patch_json(model / INDEX, weight_map=weight_map)
        refuses(model, model / INDEX, "../../etc/passwd")

    @pytest.mark.parametrize("data", [b"", b"GGUF", b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60), b"text"])
    def test_damaged_gguf(self, tmp_path, data):
        (tmp_path / "m.gguf").write_bytes(data)
        refuses(tmp_path / "m.gguf", tmp_path / "m.gguf", XDG_CACHE_HOME=str(tmp_path / "cache"))

    def test_gguf_without_python(self, tmp_path):
        (tmp_path / "m.gguf").write_bytes(b"GGUF")
        refuses(tmp_path / "m.gguf", "/nonexistent/python", XDG_CACHE_HOME=str(tmp_path / "cache"),
                PMKVQ_PYTHON="/nonexistent/python")


class TestConfig:
    """A config that contradicts the tensors, or asks for what is not built."""

    @pytest.mark.parametrize("field, value", [
        ("hidden_size", 385), ("hidden_size", 768), ("intermediate_size", 1000), ("num_hidden_layers", 7),
        ("num_attention_heads", 4), ("num_key_value_heads", 1), ("head_dim", 64), ("vocab_size", 1055),
        ("vocab_size", 1 << 40),
        ("tie_word_embeddings", False)])
    def test_contradicts_the_tensors(self, model, field, value):
        patch_json(model / "config.json", **{field: value})
        message = refuses(model)
        # The tensor that does not fit, or the field itself.
        assert re.search(r"model\.|lm_head|" + field, message)

    def test_expected_and_actual_shape(self, model):
        patch_json(model / "config.json", intermediate_size=1000)
        refuses(model, "1000", "1024", "mlp.")

    @pytest.mark.parametrize("field, value", [
        ("num_hidden_layers", 0), ("num_hidden_layers", -1), ("hidden_size", "384"), ("hidden_size", 1.5),
        ("num_attention_heads", None), ("num_key_value_heads", 4), ("rms_norm_eps", "x"), ("rms_norm_eps", -1.0), ("max_position_embeddings", 0)])
    def test_bad_value(self, model, field, value):
        patch_json(model / "config.json", **{field: value})
        refuses(model, model / "config.json", field)

    @pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "num_attention_heads",
                                       "intermediate_size", "vocab_size"])
    def test_missing_field(self, model, field):
        config = json.loads((model / "config.json").read_text())
        del config[field]
        replace(model / "config.json", json.dumps(config).encode())
        refuses(model, model / "config.json", field)

    @pytest.mark.parametrize("changes, word", [
        ({"architectures": ["MistralForCausalLM"], "model_type": "mistral"}, "istral"),
        ({"architectures": [], "model_type": "gpt2"}, "gpt2"),
        ({"rope_parameters": {"rope_theta": 1e5, "rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"use_sliding_window": True, "sliding_window": 4096}, "sliding_window")])
    def test_unsupported(self, model, changes, word):
        patch_json(model / "config.json", **changes)
        refuses(model, model / "config.json", word)


class TestBudget:
    PROGRAM = programs(64)[0]
    OPTIONS = (f"--prompt-tokens={ids(PROGRAM['prompt'])}", "--max-tokens=448")

    def missing(self, reasoner, *options):
        message = refuses(reasoner, options=(*self.OPTIONS, *options))
        return int(re.search(r"(\d+) bytes are missing", message)[1])

    @pytest.mark.parametrize("options", [(), ("--floor=4",), ("--floor=8",), ("--schedule=none", "--floor=4"),
                                         ("--key-floor=8",), ("--key-floor=2", "--value-floor=4")])
    def test_names_the_bytes_missing(self, reasoner, options):
        budget = 1 << 20
        missing = self.missing(reasoner, f"--kv-budget={budget}", *options)
        assert self.missing(reasoner, f"--kv-budget={budget + missing - 1}", *options) == 1
        # With them it runs.
        generate(reasoner, *self.OPTIONS, f"--kv-budget={budget + missing}", *options)

    def test_too_few_bits(self, reasoner):
        self.missing(reasoner, "--kv-bits=2.24")
        self.missing(reasoner, "--kv-bits=3", "--floor=4")

    def test_no_schedule_checks_the_budget(self, reasoner):
        self.missing(reasoner, "--schedule=none", "--floor=16", "--kv-budget=2MiB")


class TestPrompts:
    @pytest.mark.parametrize("tokens", ["", "a", "1,", ",1", "1 2", "1.5", "-1", "1056", "4294967296",
                                        "99999999999999999999"])
    def test_bad_token_ids(self, reasoner, tokens):
        refuses(reasoner, options=(f"--prompt-tokens={tokens}", "--max-tokens=2"))

    def test_out_of_range_names_token_and_limit(self, reasoner):
        refuses(reasoner, "1056", "1055", options=("--prompt-tokens=0,1056", "--max-tokens=2"))

    def test_more_tokens_than_positions(self, reasoner):
        refuses(reasoner, "8192", options=(PROMPT, "--max-tokens=8191"))

    def test_missing_file(self, reasoner, tmp_path):
        refuses(reasoner, tmp_path / "p.jsonl", options=(f"--prompts={tmp_path}/p.jsonl", "--max-tokens=2"))

    @pytest.mark.parametrize("line", ["{", "[]", "1", "{}", '{"prompt": 1}', '{"prompt": []}', '{"prompt": [1, "a"]}',
                                      '{"prompt": [1.5]}', '{"prompt": [-1]}', '{"prompt": [1056]}',
                                      '{"prompt": [1e30]}', '{"prompt": null}', '{"prompt": [true]}'])
    def test_bad_line_is_named(self, reasoner, tmp_path, line):
        path = write_prompts(tmp_path / "p.jsonl", [[0, 319], [0, 320]])
        path.write_text(path.read_text() + line + "\n")
        message = refuses(reasoner, path, options=(f"--prompts={path}", "--max-tokens=2"))
        assert "3" in message.replace(str(path), "")

    def test_empty_file(self, reasoner, tmp_path):
        (tmp_path / "p.jsonl").touch()
        refuses(reasoner, tmp_path / "p.jsonl", options=(f"--prompts={tmp_path}/p.jsonl", "--max-tokens=2"))

    def test_text_without_tokenizer(self, model):
        (model / "tokenizer.json").unlink()
        refuses(model, model / "tokenizer.json", options=("--prompt=run", "--max-tokens=2"))

    def test_text_with_damaged_tokenizer(self, model):
        replace(model / "tokenizer.json", b"{")
        refuses(model, model / "tokenizer.json", options=("--prompt=run", "--max-tokens=2"))

    def test_text_without_python(self, reasoner):
        refuses(reasoner, "/nonexistent/python", options=("--prompt=run", "--max-tokens=2"),
                PMKVQ_PYTHON="/nonexistent/python")

    def test_empty_text(self, reasoner):
        refuses(reasoner, options=("--prompt=", "--max-tokens=2"))


class TestOptions:
    @pytest.mark.parametrize("option", [
        "--colour=red", "-x", "--max-tokens=0", "--max-tokens=-1", "--max-tokens=x", "--max-tokens=", "--max-tokens=1.5",
        "--max-tokens=99999999999999999999", "--kv-budget=", "--kv-budget=x", "--kv-budget=-1", "--kv-budget=0",
        "--kv-budget=1QB", "--kv-budget=MiB", "--kv-budget=99999999999999999999GB", "--kv-bits=", "--kv-bits=x",
        "--kv-bits=-2", "--kv-bits=0", "--kv-bits=nan", "--kv-bits=inf", "--schedule=weekly", "--schedule=",
        "--floor=3", "--floor=0", "--floor=x", "--key-floor=3", "--key-floor=", "--key-floor=-2", "--value-floor=32",
        "--value-floor=two", "--temperature=-1", "--temperature=x", "--temperature=nan", "--top-p=0", "--top-p=1.5",
        "--seed=-1", "--seed=x", "--device=tpu", "--device=", "--threads=0", "--threads=-1",
        "--threads=x", "--output=xml", "--output="])
    def test_bad_value_is_named(self, reasoner, option):
        options = [PROMPT, "--max-tokens=2"]
        if option.startswith("--max-tokens"):
            options.pop()
        refuses(reasoner, option.partition("=")[0].lstrip("-"), options=(*options, option))

    def test_unfit_combinations(self, reasoner):
        refuses(reasoner, "kv-budget", "kv-bits",
                options=(PROMPT, "--max-tokens=2", "--kv-budget=1GB", "--kv-bits=4"))
        refuses(reasoner, "prompt", options=(PROMPT, "--prompt=run", "--max-tokens=2"))

    @pytest.mark.parametrize("options", [("--kv-bits",), ("--kv-bits=3", "--kv-bits=4"), ("--help=1",), ("-o",)])
    def test_values_missing_or_too_many(self, reasoner, options):
        refuses(reasoner, options[0].partition("=")[0], options=(PROMPT, "--max-tokens=2", *options))

    @pytest.mark.parametrize("part", ["key", "value"])
    def test_floors_that_contradict_each_other(self, reasoner, part):
        refuses(reasoner, "--floor=4", f"--{part}-floor=8",
                options=(PROMPT, "--max-tokens=2", "--floor=4", f"--{part}-floor=8"))

    def test_missing_arguments(self, reasoner):
        refuses(reasoner, "prompt", options=("--max-tokens=2",))
        refuses(reasoner, "max-tokens", options=(PROMPT,))
        fails()
        fails(PROMPT, "--max-tokens=2")
        fails(reasoner, reasoner, PROMPT, "--max-tokens=2")

    def test_stages_folder_that_cannot_be(self, reasoner, tmp_path):
        (tmp_path / "file").touch()
        refuses(reasoner, tmp_path / "file", options=(PROMPT, "--max-tokens=2", f"--dump-stages={tmp_path}/file/x"))
