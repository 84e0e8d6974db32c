"""Small random models, one a case, and the logits that transformers gives them.

test/data/architectures has, a case, the config.json that transformers wrote, the
shapes of its tensors, and its logits. Weights are drawn anew from a seed.
Neighbours: test_run_architectures.py; record_random_models.py makes the files.
"""

import json
import zlib
from pathlib import Path

import numpy as np

from pmkvq.safetensors_file import write_bf16

DATA = Path(__file__).resolve().parents[1] / "data" / "architectures"
POSITIONS, VOCAB = 40, 48


def cases():
    return json.loads((DATA / "cases.json").read_text())


def logits(name):
    """[POSITIONS, VOCAB], float32."""
    with np.load(DATA / "logits.npz") as file:
        return file[name]


def tokens():
    """Of every case."""
    return [int(t) for t in np.random.RandomState(7).randint(0, VOCAB, POSITIONS)]


def weight(architecture, name, shape):
    """A tensor, float32, equal for all cases of an architecture.

    Scores have a spread of about 2, so that what is wrong with a position or a
    norm shows. RandomState: its numbers are the same in every release of numpy.
    """
    values = np.random.RandomState(zlib.crc32(f"{architecture}.{name}".encode())).standard_normal(shape)
    if name.endswith("norm.weight"):
        return (1 + 0.3 * values).astype(np.float32)
    if len(shape) == 1:
        return (0.3 * values).astype(np.float32)
    gain = 1.5 if "self_attn" in name else 1.0
    return (gain / np.sqrt(shape[-1]) * values).astype(np.float32)


def write(folder, config, shapes):
    """Writes the model into the existing `folder`."""
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    write_bf16(folder / "model.safetensors", {name: tuple(shape) for name, shape in shapes.items()},
               lambda name: weight(config["model_type"], name, tuple(shapes[name])))
