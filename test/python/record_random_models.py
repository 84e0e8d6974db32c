"""Makes test/data/architectures with transformers.

    PYTHONPATH=python .venv/bin/python test/python/record_random_models.py

Needs python/requirements-smollm2.txt. Run it again after a change of CASES.
Neighbours: random_models.py reads the files and draws the weights.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

import random_models

SIZES = {"vocab_size": random_models.VOCAB, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 128,
         "rms_norm_eps": 1e-5, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
THETA = 1000.0
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": THETA}
# Both bands and what lies between have some of the 32 pairs.
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64, "rope_theta": THETA}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": THETA,
        "beta_fast": 4.0, "beta_slow": 1.0}
DEFAULT = {"rope_type": "default", "rope_theta": THETA}

# Name: model_type, tied embeddings, RoPE, other fields.
CASES = {
    "llama": ("llama", False, DEFAULT, {"attention_bias": True}),
    "llama-tied": ("llama", True, DEFAULT, {}),
    "llama-linear": ("llama", True, LINEAR, {}),
    "llama-llama3": ("llama", True, LLAMA3, {}),
    "llama-yarn": ("llama", True, YARN, {}),
    "mistral": ("mistral", False, DEFAULT, {"sliding_window": None}),
    "mistral-tied": ("mistral", True, LINEAR, {"sliding_window": 128}),
    "qwen2": ("qwen2", False, DEFAULT, {}),
    "qwen2-tied": ("qwen2", True, YARN, {}),
    "qwen3": ("qwen3", False, YARN, {}),
    "qwen3-tied": ("qwen3", True, DEFAULT, {}),
    "phi3": ("phi3", False, DEFAULT, {}),
    "phi3-tied": ("phi3", True, DEFAULT, {}),
    "llama-head-dim-80": ("llama", True, DEFAULT, {"head_dim": 80}),
    "phi3-head-dim-96": ("phi3", False, DEFAULT, {"head_dim": 96}),
    "qwen3-head-dim-256": ("qwen3", True, DEFAULT, {"head_dim": 256}),
}
# Cases whose config.json is put into the form of transformers 4.
OLD_FORM = {"llama-llama3", "qwen2-tied"}


def in_old_form(config):
    parameters = dict(config.pop("rope_parameters"))
    config["rope_theta"] = parameters.pop("rope_theta")
    if parameters["rope_type"] == "yarn":
        parameters["type"] = parameters.pop("rope_type")
    return {**config, "rope_scaling": parameters}


class RoundedCache(transformers.DynamicCache):
    """Holds K and V in bf16, as pmkvq-run at 16 bits does."""

    def update(self, keys, values, *arguments, **options):
        return super().update(keys.bfloat16().float(), values.bfloat16().float(), *arguments, **options)


def record(name):
    """The case, for cases.json, and its logits."""
    model_type, tied, rope, fields = CASES[name]
    made = transformers.AutoConfig.for_model(
        model_type, **{**SIZES, "tie_word_embeddings": tied, "rope_parameters": rope, **fields})
    # bf16 of no model is written: transformers names the class only of one that is.
    made.architectures = [transformers.AutoModelForCausalLM.from_config(made).__class__.__name__]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        if name in OLD_FORM:
            config = in_old_form(config)
        model = transformers.AutoModelForCausalLM.from_config(made)
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()
                  if not (tied and key == "lm_head.weight")}
        random_models.write(folder, config, shapes)
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    with torch.inference_mode():
        tokens = torch.tensor([random_models.tokens()])
        logits = model(tokens, use_cache=False).logits[0].numpy()
        rounded = model(tokens, cache=RoundedCache(config=model.config), use_cache=True).logits[0].numpy()
    moved = np.abs(rounded - logits).max() / logits.std()
    print(f"{name}: rounding K and V moves no logit by more than {moved:.4f} of their spread")
    return {"config": config, "shapes": shapes}, logits


def main():
    random_models.DATA.mkdir(parents=True, exist_ok=True)
    recorded = {name: record(name) for name in CASES}
    text = json.dumps({name: case for name, (case, _) in recorded.items()}, indent=1)
    (random_models.DATA / "cases.json").write_text(text + "\n")
    np.savez(random_models.DATA / "logits.npz", **{name: logits for name, (_, logits) in recorded.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
