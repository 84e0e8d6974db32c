"""Floors of layers in ModelOpt's schema: what can be said in it, and why the rest can not."""

import json

import pytest

from pmkvq import __main__ as command
from pmkvq import allocate, modelopt
from pmkvq.errors import FileError

NAMES = [f"model.layers.{layer}.self_attn" for layer in range(3)]


def document(whole, layers=None, **fields):
    more = {"kv_cache_quantized_layers": layers, "kv_cache_schema_version": 1} if layers is not None else {}
    return {"producer": {"name": "modelopt", "version": "0.40.0"},
            "quantization": {"quant_algo": None, "kv_cache_quant_algo": whole, **more, **fields}}


def layer_map(*algorithms):
    return {name: {"quant_algo": algorithm} for name, algorithm in zip(NAMES, algorithms) if algorithm}


def read(whole, layers=None, by_width=False, **fields):
    return modelopt.from_modelopt("hf_quant_config.json", document(whole, layers, **fields), NAMES, by_width)


# -- out -----------------------------------------------------------------------


def test_layers_at_16_bits_are_left_out():
    found = modelopt.to_modelopt([(8, 8), (16, 16), (8, 8)], NAMES)
    assert found["quantization"] == document("MIXED_PRECISION", layer_map("INT8", None, "INT8"))["quantization"]


def test_one_format_of_all_layers_is_that_of_the_whole():
    found = modelopt.to_modelopt([(8, 8)] * 3, NAMES)["quantization"]
    assert found["kv_cache_quant_algo"] == "INT8" and list(found["kv_cache_quantized_layers"]) == NAMES
    assert modelopt.to_modelopt([(16, 16)] * 3, NAMES)["quantization"] == {
        "quant_algo": None, "kv_cache_quant_algo": None}


def test_widths_alone_become_floating_point():
    found = modelopt.to_modelopt([(8, 8), (4, 4), (8, 4)], NAMES, by_width=True)["quantization"]
    assert found["kv_cache_quantized_layers"] == layer_map("FP8", "NVFP4", "FP8_K_NVFP4_V")


@pytest.mark.parametrize("bits, by_width, message", [
    ((2, 2), True, "layer 1: keys at 2 and values at 2 bits: ModelOpt has no format of 2 bits"),
    ((4, 2), True, "layer 1: keys at 4 and values at 2 bits: ModelOpt has no format of 2 bits"),
    ((4, 4), False, r"layer 1: .*NVFP4 is 4-bit floating point \(e2m1\).*--by-width"),
    ((8, 4), False, r"layer 1: .*FP8_K_NVFP4_V is floating point"),
    ((4, 8), True, "layer 1: keys at 4 and values at 8 bits: ModelOpt has one format for both"),
    ((16, 8), True, "layer 1: keys at 16 and values at 8 bits: ModelOpt has one format for both"),
])
def test_what_has_no_format_is_refused_with_its_layer(bits, by_width, message):
    with pytest.raises(modelopt.NotExpressible, match=message):
        modelopt.to_modelopt([(8, 8), bits, (2, 2)], NAMES, by_width)


# -- in ------------------------------------------------------------------------


def test_formats_of_layers_are_read():
    assert read("MIXED_PRECISION", layer_map("INT8", None, "INT8")) == [(8, 8), (16, 16), (8, 8)]
    assert read("INT8", layer_map("INT8", "INT8", "INT8")) == [(8, 8)] * 3
    assert read("INT8") == [(8, 8)] * 3
    assert read(None) == [(16, 16)] * 3


def test_names_may_stand_below_others():
    layers = {"model.language_model.layers.2.self_attn": {"quant_algo": "INT8"}}
    assert read("MIXED_PRECISION", layers) == [(16, 16), (16, 16), (8, 8)]


def test_floating_point_is_read_by_width_if_asked():
    layers = layer_map("FP8", "NVFP4", "FP8_K_NVFP4_V")
    assert read("MIXED_PRECISION", layers, by_width=True) == [(8, 8), (4, 4), (8, 4)]


@pytest.mark.parametrize("algorithm, reason", [
    ("FP8", r"layer 1: FP8 is 8-bit floating point \(e4m3\); pmkvq's 8 bits are whole numbers; --by-width"),
    ("NVFP4", r"layer 1: NVFP4 is 4-bit floating point \(e2m1\)"),
    ("NVFP4_AFFINE", "layer 1: NVFP4_AFFINE is"), ("FP8_K_NVFP4_V", "layer 1: FP8_K_NVFP4_V is"),
])
def test_floating_point_is_refused_with_its_layer(algorithm, reason):
    with pytest.raises(modelopt.NotExpressible, match=reason):
        read("MIXED_PRECISION", layer_map("INT8", algorithm, "FP8"))


@pytest.mark.parametrize("bad, message", [
    ({}, "quantization: expected an object"),
    (document("Q8_0"), "kv_cache_quant_algo: expected null, MIXED_PRECISION or INT8, FP8, .*, got Q8_0"),
    (document("MIXED_PRECISION"), "kv_cache_quantized_layers: expected formats of layers"),
    (document("MIXED_PRECISION", [1]), "kv_cache_quantized_layers: expected an object"),
    (document("MIXED_PRECISION", layer_map("INT8"), kv_cache_schema_version=2),
     "kv_cache_schema_version: expected 1, got 2"),
    (document("MIXED_PRECISION", layer_map("INT4")), "quant_algo: expected INT8, FP8, .*, got INT4"),
    (document("MIXED_PRECISION", {NAMES[0]: "INT8"}), "quant_algo: expected INT8, FP8, .*, got None"),
    (document("INT8", layer_map("INT8", "FP8")), "expected INT8, as kv_cache_quant_algo says, got FP8"),
    (document("MIXED_PRECISION", {"model.layers.3.self_attn": {"quant_algo": "INT8"}}),
     "expected the attention of a layer, model.layers.0.self_attn to model.layers.2.self_attn, got model.layers.3"),
    (document("MIXED_PRECISION", {"model.layers.0.mlp": {"quant_algo": "INT8"}}), "expected the attention of a layer"),
    (document("MIXED_PRECISION", {NAMES[0]: {"quant_algo": "INT8"}, "layers.0.self_attn": {"quant_algo": "INT8"}}),
     "layer 0 has a format already"),
])
def test_bad_files_are_named(bad, message):
    with pytest.raises(FileError, match=f"^hf_quant_config.json: .*{message}"):
        modelopt.from_modelopt("hf_quant_config.json", bad, NAMES)


# -- the commands ---------------------------------------------------------------


def test_floors_go_out_and_come_back(reasoner, tmp_path, capsys):
    file = tmp_path / "hf_quant_config.json"
    floors = "0-2:8,3:16,4-5:8"
    assert command.main(["export-modelopt", str(reasoner), f"--layer-floors={floors}", "-o", str(file)]) == 0
    assert json.loads(file.read_text())["quantization"]["kv_cache_quant_algo"] == "MIXED_PRECISION"
    assert command.main(["import-modelopt", str(reasoner), str(file)]) == 0
    assert capsys.readouterr().out == floors + "\n"


def test_what_is_refused_writes_nothing(reasoner, tmp_path, capsys):
    file = tmp_path / "hf_quant_config.json"
    assert command.main(["export-modelopt", str(reasoner), "--layer-floors=0-4:8", "-o", str(file)]) == 1
    assert "error: layer 5: keys at 2 and values at 2 bits: ModelOpt has no format of 2 bits" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_floors_as_text_are_the_tools():
    assert allocate.parse_floors("0-1:8,2:4+2", 4, 16) == [(8, 8), (8, 8), (4, 2), (16, 16)]
    assert allocate.floors_text(allocate.parse_floors("0-1:8,2:4+2", 4, 16)) == "0-1:8,2:4+2,3:16"
    for text, message in [("0-4:8", "expected layers 0 to 3"), ("1-0:8", "expected layers and"), ("0:3", "got '0:3'")]:
        with pytest.raises(ValueError, match=message):
            allocate.parse_floors(text, 4, 2)
