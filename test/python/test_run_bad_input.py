"""pmkvq-run on bad input: one clear line on stderr, exit code 1 to 127, empty stdout."""

import json
import os
import re
import shutil
import stat
import struct
from pathlib import Path

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


def listing(model):
    return sorted(Path(model).rglob("*")) if Path(model).is_dir() else []


def refuses(model, *words, options=(PROMPT, "--max-tokens=2", "--logits=left.safetensors"), **environment):
    """The error; neither the model's folder nor any other has a new file."""
    before = listing(model)
    message = fails(model, *options, words=words, **environment)
    assert listing(model) == before
    return message


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

    @pytest.mark.parametrize("text", [b"{" + b" " * 63, b"[]" + b" " * 62, b"\xff" * 64, b"[" * 100000,
                                      b'{"a":' * 100000, b'{"__metadata__":' + b"[" * 100000])
    def test_malformed_header(self, model, text):
        replace(model / SHARD, struct.pack("<Q", len(text)) + text)
        refuses(model, model / SHARD)

    @pytest.mark.parametrize("entry", [
        {"data_offsets": [0, 1 << 40]}, {"data_offsets": [8, 0]}, {"data_offsets": [-8, 0]},
        {"data_offsets": [0]}, {"data_offsets": "0,8"}, {"data_offsets": [0, 1 << 70]},
        {"shape": [1 << 40, 1 << 40]}, {"shape": [-1, 384]}, {"shape": 384}, {"shape": [1056, 384, 1]},
        {"shape": [1, 2]}, {"shape": [0, 384]}, {"shape": ["1056", 384]}, {"shape": [1e11, 384]},
        {"dtype": "I8"}, {"dtype": 5}, {"dtype": "I16"}, {"dtype": "F32"}, {"dtype": "bf16"}, {"dtype": None}])
    def test_damaged_entry(self, model, entry):
        name = "model.embed_tokens.weight"
        patch_header(model / SHARD, lambda header: header[name].update(entry))
        refuses(model, model / SHARD, name)

    def test_tensors_that_overlap(self, model):
        first, second = "model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight"

        def overlap(header):
            assert header[first]["shape"] == header[second]["shape"]
            header[second]["data_offsets"] = header[first]["data_offsets"]

        patch_header(model / SHARD, overlap)
        refuses(model, model / SHARD, "data_offsets")

    def test_tensor_twice_in_a_header(self, model):
        data = (model / SHARD).read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        name = "model.embed_tokens.weight"
        entry = json.dumps(json.loads(data[8 : 8 + size])[name])
        text = data[8 : 8 + size].rstrip()[:-1] + f', "{name}": {entry}}}'.encode()
        replace(model / SHARD, struct.pack("<Q", len(text)) + text + data[8 + size :])
        refuses(model, model / SHARD, name, "twice")

    def test_tensor_in_two_shards(self, model):
        name = "model.embed_tokens.weight"
        other = model / SHARD.replace("00001", "00002")

        def add(header):
            header[name] = {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}

        patch_header(other, add)
        refuses(model, name, model / SHARD, other)

    def test_tensor_not_in_its_shard(self, model):
        def remove(header):
            del header["model.layers.0.mlp.up_proj.weight"]

        patch_header(model / SHARD, remove)
        refuses(model, "model.layers.0.mlp.up_proj.weight")

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}', "[" * 100000,
                                      '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}'])
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


    @pytest.mark.parametrize("name", ["generation_config.json", "tokenizer.json"])
    def test_deep_json(self, model, name):
        replace(model / name, b'{"eos_token_id":' + b"[" * 100000)
        refuses(model, model / name, options=("--prompt=run", "--max-tokens=2", "--logits=left.safetensors"))

    @pytest.mark.parametrize("name, field", [
        ("config.json", "num_hidden_layers"), ("config.json", "model_type"), ("config.json", "rope_scaling"),
        ("generation_config.json", "eos_token_id")])
    def test_deep_json_that_ends(self, model, name, field):
        config = json.loads((model / name).read_text())
        config.pop(field, None)
        text = json.dumps(config)[:-1] + ', "' + field + '": ' + "[" * 200000 + "]" * 200000 + "}"
        replace(model / name, text.encode())
        refuses(model, model / name)

    def test_deep_json_in_a_prompt(self, reasoner, tmp_path):
        prompts = tmp_path / "deep.jsonl"
        prompts.write_text('{"prompt":' + "[" * 200000 + "]" * 200000 + "}")
        refuses(reasoner, "a list", options=(f"--prompts={prompts}", "--max-tokens=2"))

    def test_outputs_replace_no_pipe(self, reasoner, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        refuses(reasoner, "cannot write", options=(PROMPT, "--max-tokens=2", f"--logits={pipe}"))
        assert stat.S_ISFIFO(pipe.stat().st_mode)


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

    @pytest.mark.parametrize("value", [0, -1, "8", 10**11, 1e11, 10**30, True, [8], {}])
    @pytest.mark.parametrize("field", [
        "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size",
        "intermediate_size", "vocab_size", "max_position_embeddings"])
    def test_sizes_that_are_none(self, model, field, value):
        patch_json(model / "config.json", **{field: value})
        refuses(model, model / "config.json", field)

    @pytest.mark.parametrize("value", [1056, -1, "2", 1.5, [2, 1056], {}])
    @pytest.mark.parametrize("name, other", [
        ("config.json", "generation_config.json"), ("generation_config.json", "config.json")])
    def test_stop_tokens_that_are_none(self, model, name, other, value):
        for path in (name, other):
            (model / path).exists() or replace(model / path, b"{}")
        patch_json(model / name, eos_token_id=value)
        patch_json(model / other, eos_token_id=2)
        refuses(model, model / name, "eos_token_id")

    def test_member_twice(self, model):
        text = (model / "config.json").read_text().rstrip()[:-1] + ', "hidden_size": 384}'
        replace(model / "config.json", text.encode())
        refuses(model, model / "config.json", "hidden_size", "twice")

    @pytest.mark.parametrize("field, value", [
        ("hidden_size", 1.5), ("num_attention_heads", None), ("num_key_value_heads", 4), ("rms_norm_eps", "x"), ("rms_norm_eps", -1.0), ("max_position_embeddings", 0)])
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
        ({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}, "ixtral"),
        ({"architectures": [], "model_type": "gpt2"}, "gpt2"),
        ({"rope_parameters": {"rope_theta": 1e5, "rope_type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 8.0}}, "longrope"),
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

    @pytest.mark.parametrize("floors", [("--key-floor=4", "--value-floor=4"), ("--key-floor=8", "--value-floor=2"),
                                        ("--floor=16",)])
    def test_floors_that_contradict_the_budget(self, reasoner, floors):
        message = refuses(reasoner, "--kv-bits", options=(*self.OPTIONS, "--kv-bits=3", *floors))
        keys, values = (int(floor.partition("=")[2]) for floor in (floors * 2)[:2])
        assert f"keys at {keys} and values at {values} bits" in message
        assert re.search(r"[1-9]\d* bytes are missing", message)

    def test_no_schedule_checks_the_budget(self, reasoner):
        self.missing(reasoner, "--schedule=none", "--floor=16", "--kv-budget=2MiB")


class TestPrompts:
    @pytest.mark.parametrize("tokens", ["", "a", "1,", ",1", "1 2", "1.5", "-1", "1056", "4294967296",
                                        "99999999999999999999"])
    def test_bad_token_ids(self, reasoner, tokens):
        refuses(reasoner, "--prompt-tokens", options=(f"--prompt-tokens={tokens}", "--max-tokens=2", "--logits=left"))

    def test_out_of_range_names_token_and_limit(self, reasoner):
        refuses(reasoner, "1056", "1055", options=("--prompt-tokens=0,1056", "--max-tokens=2"))

    def test_more_tokens_than_positions(self, reasoner):
        refuses(reasoner, "8192", options=(PROMPT, "--max-tokens=8191"))

    def test_missing_file(self, reasoner, tmp_path):
        refuses(reasoner, tmp_path / "p.jsonl", options=(f"--prompts={tmp_path}/p.jsonl", "--max-tokens=2"))

    @pytest.mark.parametrize("line", ["{", "[]", "1", "{}", '{"prompt": 1}', '{"prompt": []}', '{"prompt": ""}',
                                      '{"prompts": [1]}', '{"prompt": {}}', '{"prompt": [[1]]}', "[" * 100000,
                                      '{"prompt": ' + "[" * 100000, '{"prompt": [1e400]}', "null", '{"prompt": [1, "a"]}',
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
        "--max-tokens=99999999999999999999", "--kv-budget=", "--kv-budget=x", "--kv-budget=-1", "--kv-budget=0", "--kv-budget=1.5",
        "--kv-budget=1QB", "--kv-budget=MiB", "--kv-budget=0MiB", "--kv-budget=-5MiB", "--kv-budget=0.1",
        "--kv-budget=1.5.2GB", "--kv-budget=1e3MiB", "--kv-budget=3 bananas", "--kv-budget=0x10", "--kv-budget=MiB3",
        "--kv-budget=9223372036854775808", "--kv-budget=8388608TiB", "--kv-budget=1e400GB", "--kv-bits=33",
        "--kv-bits=3bits", "--kv-bits=1e400", "--floor=", "--floor=-2", "--floor=4.0", "--floor=04", "--floor=16bits", "--kv-budget=99999999999999999999GB", "--kv-bits=", "--kv-bits=x",
        "--kv-bits=-2", "--kv-bits=0", "--kv-bits=nan", "--kv-bits=inf", "--schedule=weekly", "--schedule=",
        "--floor=3", "--floor=0", "--floor=x", "--key-floor=3", "--key-floor=", "--key-floor=-2", "--value-floor=32",
        "--value-floor=two", "--temperature=-1", "--temperature=x", "--temperature=nan", "--top-p=0", "--top-p=1.5",
        "--seed=-1", "--seed=18446744073709551616", "--key-format=paper+clip=0.8",
        "--value-format=per_token+hadamard+plain", "--seed=x", "--device=tpu", "--device=", "--threads=0", "--threads=-1",
        "--threads=x", "--output=xml", "--output="])
    def test_bad_value_is_named(self, reasoner, option):
        name = option.partition("=")[0]
        options = [o for o in (PROMPT, "--max-tokens=2", "--logits=left") if not o.startswith(name + "=")]
        refuses(reasoner, name.lstrip("-"), options=(*options, option))
        # Also where only code is asked for, with prompts or without.
        refuses(reasoner, name.lstrip("-"), options=("--emit=import", "-o", "left.mlir", option))
        if name != "--max-tokens":
            refuses(reasoner, name.lstrip("-"), options=(PROMPT, "--max-tokens=2", "--emit=asm", "-o", "left", option))

    def test_unfit_combinations(self, reasoner):
        refuses(reasoner, "kv-budget", "kv-bits",
                options=(PROMPT, "--max-tokens=2", "--kv-budget=1GB", "--kv-bits=4"))
        refuses(reasoner, "prompt", options=(PROMPT, "--prompt=run", "--max-tokens=2"))

    @pytest.mark.parametrize("options, words", [
        (["--schedule=none"], ["keys_last", "none"]), (["--schedule=layer"], ["page", "layer"]),
        (["--layer-floors=0-1:2"], ["--layer-floors"]),
        (["--calibration=c.json", "--allocate", "--kv-bits=2"], ["--allocate", "2 bits"])])
    def test_values_at_one_bit_go_with_some_options_alone(self, reasoner, options, words):
        refuses(reasoner, "--value-floor=1", *words,
                options=(PROMPT, "--max-tokens=2", "--value-floor=1", *options))

    @pytest.mark.parametrize("option", ["--floor=1", "--key-floor=1"])
    def test_keys_end_at_two_bits(self, reasoner, option):
        refuses(reasoner, option.partition("=")[0], "2 or 4 or 8 or 16",
                options=(PROMPT, "--max-tokens=2", option))

    @pytest.mark.parametrize("options", [("--kv-bits",), ("--kv-bits=3", "--kv-bits=4"), ("--help=1",), ("-o",)])
    def test_values_missing_or_too_many(self, reasoner, options):
        refuses(reasoner, options[0].partition("=")[0], options=(PROMPT, "--max-tokens=2", *options))

    @pytest.mark.parametrize("action", ["--emit=import", "--emit=asm", "--explain"])
    @pytest.mark.parametrize("option", ["--logits=left", "--output=jsonl"])
    def test_files_that_nobody_would_write(self, reasoner, action, option):
        refuses(reasoner, action.partition("=")[0], option.partition("=")[0],
                options=(PROMPT, "--max-tokens=2", action, option))

    @pytest.mark.parametrize("part", ["key", "value"])
    def test_floors_that_contradict_each_other(self, reasoner, part):
        refuses(reasoner, "--floor=4", f"--{part}-floor=8",
                options=(PROMPT, "--max-tokens=2", "--floor=4", f"--{part}-floor=8"))

    @pytest.mark.parametrize("options", [
        ("--check", "--check-tolerance=0"), ("--check", "--check-tolerance=-1"), ("--check", "--check-tolerance=x"),
        ("--check", "--check-tolerance=nan"), ("--check", "--check-tolerance="), ("--check-tolerance=0.1",),
        ("--check=1",), ("--check", "--explain"), ("--check", "--emit=asm")])
    def test_checks_that_are_none(self, reasoner, options):
        refuses(reasoner, "--check", options=(PROMPT, "--max-tokens=2", *options))

    def test_missing_arguments(self, reasoner):
        refuses(reasoner, "prompt", options=("--max-tokens=2",))
        refuses(reasoner, "max-tokens", options=(PROMPT,))
        fails()
        fails(PROMPT, "--max-tokens=2")
        fails(reasoner, reasoner, PROMPT, "--max-tokens=2")

    def test_stages_folder_that_cannot_be(self, reasoner, tmp_path):
        (tmp_path / "file").touch()
        refuses(reasoner, tmp_path / "file", options=(PROMPT, "--max-tokens=2", f"--dump-stages={tmp_path}/file/x"))
