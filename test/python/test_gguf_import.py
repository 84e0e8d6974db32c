"""GGUF files into Hugging Face folders: values, configuration, tokenizer, errors."""

import json
import struct
import subprocess
import sys

import gguf
import numpy as np
import pytest

import tiny_gguf
from pmkvq.errors import FileError
from pmkvq.gguf_file import GGUFFile
from pmkvq.gguf_import import convert, unpermute
from pmkvq.safetensors_file import to_bf16


def read_safetensors(path):
    """Name to (dtype, float32 values)."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    assert size % 8 == 0
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    header.pop("__metadata__")
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(body)
    result = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        bits = np.frombuffer(body[begin:end], "<u2").astype(np.uint32) << 16
        result[name] = entry["dtype"], bits.view(np.float32).reshape(entry["shape"])
    return result


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_return_in_hugging_face_order(tmp_path, architecture, tied):
    wanted = tiny_gguf.write(tmp_path / "m.gguf", architecture, tied)
    convert(tmp_path / "m.gguf", tmp_path / "out")
    found = read_safetensors(tmp_path / "out" / "model.safetensors")
    assert found.keys() == wanted.keys()
    for name, (dtype, values) in found.items():
        assert dtype == "BF16"
        np.testing.assert_array_equal(values, wanted[name], err_msg=name)


def test_config(tmp_path):
    tiny_gguf.write(tmp_path / "m.gguf", "qwen2", tied=False)
    convert(tmp_path / "m.gguf", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["tie_word_embeddings"] is False
    assert config["rms_norm_eps"] == 1e-5
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == tiny_gguf.ROPE_THETA
    sizes = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
             "num_key_value_heads", "head_dim", "max_position_embeddings", "vocab_size")
    assert [config[size] for size in sizes] == [
        2, 256, 128, 4, 2, 64, 512, len(tiny_gguf.TOKENS)]
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": 0}


def test_tied_embeddings_leave_no_head(tmp_path):
    tiny_gguf.write(tmp_path / "m.gguf", tied=True)
    convert(tmp_path / "m.gguf", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True


def test_head_dim_apart_from_hidden_size(tmp_path):
    def edit(writer):
        writer.add_key_length(128)
        writer.add_value_length(128)

    tiny_gguf.write(tmp_path / "m.gguf", edit=edit)
    with pytest.raises(FileError, match=r"blk.0.attn_q.weight: expected shape \(512, 256\), got shape \(256, 256\)"):
        convert(tmp_path / "m.gguf", tmp_path / "out")


def test_end_of_turn_stops_too(tmp_path):
    tiny_gguf.write(tmp_path / "m.gguf", edit=lambda writer: writer.add_eot_token_id(5))
    convert(tmp_path / "m.gguf", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [0, 5]


def test_unpermute_inverts_the_definition():
    rows = np.arange(3 * 16 * 5, dtype=np.float32).reshape(48, 5)
    np.testing.assert_array_equal(unpermute(tiny_gguf.permute(rows, 3), 3), rows)


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0,
                                  gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.BF16])
def test_quantized_tensors_decode_as_the_package_does(tmp_path, kind):
    values = np.random.default_rng(1).standard_normal((4, 64), np.float32)
    raw = gguf.quants.quantize(values, kind)
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    writer.add_tensor("x", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(tmp_path / "m.gguf")
    assert file.tensors["x"].shape == (4, 64)
    np.testing.assert_array_equal(file.values(file.tensors["x"]), gguf.quants.dequantize(raw, kind))


def test_to_bf16_rounds_ties_to_even():
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xBF818000, 0x00000001], np.uint32)
    wanted = [0x3F80, 0x3F82, 0x3F81, 0x3F80, 0xBF82, 0x0000]
    assert to_bf16(bits.view(np.float32)).tolist() == wanted


class TestTokenizer:
    @pytest.fixture(params=["gpt-2", "smollm", "qwen2", "llama-bpe"])
    def tokenizer(self, request, tmp_path):
        from tokenizers import Tokenizer

        tiny_gguf.write(tmp_path / "m.gguf", pre=request.param)
        convert(tmp_path / "m.gguf", tmp_path / "out")
        return Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))

    def test_merges(self, tokenizer):
        assert tokenizer.encode("hello world").tokens == ["hello", "Ġw", "o", "r", "l", "d"]

    def test_round_trip(self, tokenizer):
        text = "hello  \n1234 é 日本 🙂\t it's"
        assert tokenizer.decode(tokenizer.encode(text).ids) == text

    def test_special_tokens_match_whole(self, tokenizer):
        assert tokenizer.encode("<|start|>he<|end|>").tokens == ["<|start|>", "he", "<|end|>"]
        assert tokenizer.decode(tokenizer.encode("<|start|>he<|end|>").ids) == "he"


@pytest.mark.parametrize("pre, pieces", [
    ("smollm", ["1", "2", "3", "4", "Ġit", "'s"]), ("gpt-2", ["1234", "Ġit", "'s"]),
    ("qwen2", ["1", "2", "3", "4", "Ġit", "'s"]), ("llama-bpe", ["123", "4", "Ġit", "'s"])])
def test_split_before_merging(tmp_path, pre, pieces):
    from tokenizers import Tokenizer

    tiny_gguf.write(tmp_path / "m.gguf", pre=pre)
    convert(tmp_path / "m.gguf", tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("1234 it's")] == pieces


def test_beginning_of_text_is_added_where_the_model_wants_it(tmp_path):
    from tokenizers import Tokenizer

    tiny_gguf.write(tmp_path / "m.gguf", edit=lambda writer: writer.add_add_bos_token(True))
    convert(tmp_path / "m.gguf", tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.encode("he").tokens == ["<|start|>", "he"]


class TestErrors:
    def fails(self, path, out, *words):
        with pytest.raises(FileError) as error:
            convert(path, out)
        message = str(error.value)
        assert "\n" not in message
        for word in (str(path), *words):
            assert word in message
        assert not out.exists()
        assert not list(out.parent.glob(".partial-*"))

    def test_missing_file(self, tmp_path):
        self.fails(tmp_path / "no.gguf", tmp_path / "out", "No such file")

    def test_folder(self, tmp_path):
        self.fails(tmp_path, tmp_path / "out", "Is a directory")

    def test_empty_file(self, tmp_path):
        (tmp_path / "m.gguf").touch()
        self.fails(tmp_path / "m.gguf", tmp_path / "out", "0 bytes")

    def test_magic(self, tmp_path):
        (tmp_path / "m.gguf").write_bytes(b"NOPE" + bytes(100))
        self.fails(tmp_path / "m.gguf", tmp_path / "out", "magic", "GGUF", "NOPE")

    def test_version(self, tmp_path):
        (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 9, 0, 0))
        self.fails(tmp_path / "m.gguf", tmp_path / "out", "version", "2 or 3", "9")

    @pytest.mark.parametrize("counts", [(1 << 60, 0), (0, 1 << 60)])
    def test_counts_beyond_the_file(self, tmp_path, counts):
        (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts))
        self.fails(tmp_path / "m.gguf", tmp_path / "out", "count", str(1 << 60))

    def test_array_beyond_the_file(self, tmp_path):
        array = struct.pack("<Q1sIIQ", 1, b"k", 9, 0, 1 << 60)
        (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + array)
        self.fails(tmp_path / "m.gguf", tmp_path / "out", "k: expected at most 0", str(1 << 60))

    def patched(self, tmp_path, old, new):
        """A file with the bytes `old`, which occur once, replaced."""
        tiny_gguf.write(tmp_path / "whole.gguf")
        data = (tmp_path / "whole.gguf").read_bytes()
        assert data.count(old) == 1 and len(old) == len(new)
        (tmp_path / "m.gguf").write_bytes(data.replace(old, new))
        return tmp_path / "m.gguf"

    def test_duplicate_tensor(self, tmp_path):
        path = self.patched(tmp_path, b"blk.0.attn_q.weight", b"blk.0.attn_k.weight")
        self.fails(path, tmp_path / "out", "blk.0.attn_k.weight", "twice")

    def test_duplicate_key(self, tmp_path):
        path = self.patched(tmp_path, b"tokenizer.ggml.bos_token_id", b"tokenizer.ggml.eos_token_id")
        self.fails(path, tmp_path / "out", "eos_token_id", "twice")

    def test_overlapping_tensors(self, tmp_path):
        tiny_gguf.write(tmp_path / "whole.gguf")
        data = (tmp_path / "whole.gguf").read_bytes()
        # Name, rank, sizes, type, offset: the second norm is moved into the first.
        first, second = (data.index(f"blk.{layer}.ffn_norm.weight".encode()) + 21 + 16 for layer in (0, 1))
        data = data[:second] + data[first : first + 8] + data[second + 8 :]
        (tmp_path / "m.gguf").write_bytes(data)
        self.fails(tmp_path / "m.gguf", tmp_path / "out", "ffn_norm.weight", "expected data from byte")

    @pytest.mark.parametrize("kind, value", [("I", 0), ("I", (1 << 32) - 1), ("i", -1)])
    @pytest.mark.parametrize("key", ["block_count", "embedding_length", "feed_forward_length", "context_length",
                                     "attention.head_count", "attention.head_count_kv"])
    def test_sizes_that_are_none(self, tmp_path, key, kind, value):
        name = f"llama.{key}".encode()
        tiny_gguf.write(tmp_path / "whole.gguf")
        data = (tmp_path / "whole.gguf").read_bytes()
        at = data.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)
        entry = struct.pack("<I" + kind, {"I": 4, "i": 5}[kind], value)
        (tmp_path / "m.gguf").write_bytes(data[:at] + entry + data[at + 8 :])
        self.fails(tmp_path / "m.gguf", tmp_path / "out", f"llama.{key}")

    def test_every_truncation(self, tmp_path):
        tiny_gguf.write(tmp_path / "whole.gguf")
        data = (tmp_path / "whole.gguf").read_bytes()
        for size in [*range(1, 400, 7), *range(400, len(data) - 32, 170001), len(data) - 32]:
            (tmp_path / "m.gguf").write_bytes(data[:size])
            self.fails(tmp_path / "m.gguf", tmp_path / "out")

    def test_damaged_bytes_never_crash(self, tmp_path):
        tiny_gguf.write(tmp_path / "whole.gguf")
        data = (tmp_path / "whole.gguf").read_bytes()
        random = np.random.default_rng(2)
        for trial in range(60):
            damaged = bytearray(data)
            for position in random.integers(4, 3000, 3):
                damaged[position] = int(random.integers(256))
            (tmp_path / "m.gguf").write_bytes(damaged)
            try:
                convert(tmp_path / "m.gguf", tmp_path / f"out{trial}")
            except FileError:
                assert not (tmp_path / f"out{trial}").exists()

    def test_architecture(self, tmp_path):
        tiny_gguf.write(tmp_path / "m.gguf", "gptj")
        self.fails(tmp_path / "m.gguf", tmp_path / "out", "general.architecture", "llama or qwen2", "gptj")

    def test_missing_tensor(self, tmp_path):
        tiny_gguf.write(tmp_path / "m.gguf", drop=["model.layers.1.mlp.up_proj.weight"])
        self.fails(tmp_path / "m.gguf", tmp_path / "out", "blk.1.ffn_up.weight", "missing")

    def test_tensor_of_another_model(self, tmp_path):
        tiny_gguf.write(tmp_path / "m.gguf", extra={"rope_freqs.weight": np.ones(4, np.float32)})
        self.fails(tmp_path / "m.gguf", tmp_path / "out", "rope_freqs.weight", "not part of")

    def test_scaled_rope(self, tmp_path):
        tiny_gguf.write(tmp_path / "m.gguf",
                        edit=lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN))
        self.fails(tmp_path / "m.gguf", tmp_path / "out", "rope.scaling.type", "none", "yarn")

    def test_partial_rope(self, tmp_path):
        tiny_gguf.write(tmp_path / "m.gguf", edit=lambda writer: writer.add_rope_dimension_count(32))
        self.fails(tmp_path / "m.gguf", tmp_path / "out", "rope.dimension_count", "64", "32")

    def test_pre_tokenizer(self, tmp_path):
        tiny_gguf.write(tmp_path / "m.gguf", pre="tekken")
        self.fails(tmp_path / "m.gguf", tmp_path / "out", "tokenizer.ggml.pre", "smollm", "tekken")

    def test_non_finite_weight(self, tmp_path):
        tiny_gguf.write(tmp_path / "m.gguf", drop=["model.norm.weight"],
                        extra={"output_norm.weight": np.full(256, np.nan, np.float32)})
        self.fails(tmp_path / "m.gguf", tmp_path / "out", "output_norm.weight", "finite")

    def test_existing_folder_is_left_alone(self, tmp_path):
        tiny_gguf.write(tmp_path / "m.gguf")
        (tmp_path / "out").mkdir()
        with pytest.raises(FileError, match="exists already"):
            convert(tmp_path / "m.gguf", tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())


class TestCommand:
    def run(self, environment, *arguments):
        return subprocess.run([sys.executable, "-m", "pmkvq.gguf_import", *map(str, arguments)],
                              capture_output=True, text=True, env=environment)

    def test_converts(self, tmp_path, python_environment):
        tiny_gguf.write(tmp_path / "m.gguf")
        result = self.run(python_environment, tmp_path / "m.gguf", tmp_path / "deep" / "out")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        assert sorted(path.name for path in (tmp_path / "deep" / "out").iterdir()) == [
            "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
            "tokenizer_config.json"]

    def test_error_is_one_line(self, tmp_path, python_environment):
        (tmp_path / "m.gguf").write_bytes(b"GGUF\x03")
        result = self.run(python_environment, tmp_path / "m.gguf", tmp_path / "out")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith(f"error: {tmp_path}/m.gguf: version: ")
        assert result.stderr.count("\n") == 1

    def test_usage(self, python_environment):
        assert self.run(python_environment).returncode == 2
