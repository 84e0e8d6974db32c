"""What a model's cache can bear, layer by layer: python -m pmkvq calibrate.

    script/calibrate MODEL --data=texts.txt -o calibration.json
    script/calibrate MODEL --self=64 -o calibration.json

Passes over samples: if asked for, the divergence by the clip of keys; gradients of the
loss (sensitivities, maxima of key channels); attention with scaled keys (alpha); and, if
asked for, the divergence that each part causes alone. Sums are kept in OUTPUT.partial
after every sample, so a run that was stopped goes on. Neighbours: sensitivity.py,
torch_model.py, samples.py, calibration_file.py.
"""

from __future__ import annotations

import argparse
import enum
import json
import os
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmkvq import calibration_file, gguf_import, quantize, samples, sensitivity
from pmkvq.checkpoint import Checkpoint
from pmkvq.errors import FileError
from pmkvq.runner import TOOL, RunError

# The last queries of a sample, of which the search for alpha compares attention.
_ALPHA_QUERIES = 64
# Of so many queries, attention by age looks at one.
_PAGE_QUERIES = 32
# Levels below 16 that a part may have at most.
_LOSSES = max(map(len, quantize.PART_LEVELS))
# Clips of keys that are tried. Inside (0.7, 0.9), where a 2-bit code is the upper half of the 4-bit code.
CLIPS = (0.71, 0.74, 0.77, 0.8, 0.83, 0.86, 0.89)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; the paper's names of options mean the same."""
    parser = argparse.ArgumentParser(prog="pmkvq calibrate", description=__doc__.splitlines()[0],
                                     allow_abbrev=False)
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="a folder in Hugging Face's layout, or a GGUF file")
    add("--model_path", "--model-path", dest="model_path", help=argparse.SUPPRESS)
    add("-o", "--output", "--save_path", "--save-path", required=True, metavar="FILE",
        help="the calibration file")
    add("--data", "--dataset_path", "--dataset-path", metavar="FILE",
        help="a text, or token ids: JSON lines of {\"tokens\": [...]} or of \"prompt\" and \"answer\"")
    add("--self", type=_count, dest="own", metavar="N", help="N samples that the model itself writes")
    add("--samples", "--n_samples", type=_count, default=64, metavar="N", help="samples of the data (default 64)")
    add("--tokens", "--seq_len", type=_count, default=2048, metavar="N", help="tokens of a sample (default 2048)")
    add("--interpolation", type=float, default=1.0, metavar="S",
        help="factor of RoPE's angles, so that short samples show long positions (default 1)")
    add("--effective_len", "--effective-len", type=_count, help=argparse.SUPPRESS)
    add("--key-format", type=_format, default="per_channel", metavar="FORMAT",
        help="per_channel|per_token[+hadamard|+plain], as pmkvq-run will have it (default per_channel+hadamard)")
    add("--value-format", type=_format, default="per_token", metavar="FORMAT",
        help="the same for values (default per_token+hadamard)")
    add("--measure", choices=calibration_file.MEASURES, default="sensitivity",
        help="what allocation goes by: gradients (sensitivity) or the divergence that a part causes alone (kl)")
    add("--kl-samples", type=_count, metavar="N",
        help="samples of which divergences are measured, which the guardrail goes by (default: 1 with --measure=kl, "
             "else none)")
    add("--kl-tokens", type=_count, default=512, metavar="N", help="tokens of each of them (default 512)")
    add("--clips", action="store_true",
        help="find the clip of each layer's keys that causes the least divergence "
             f"(default: {quantize.DEFAULT_CLIP} everywhere)")
    add("--clip-samples", type=_count, default=2, metavar="N",
        help="samples of the search for clips, of --kl-tokens each (default 2)")
    add("--rounding", choices=calibration_file.ROUNDINGS,
        help="how keys fall where divergences (--kl-samples) are measured: with feedback, by the squares of queries "
             "that are found, or each to the nearest code (default feedback where keys are rotated)")
    add("--key-scales", action="store_true", help="measure divergences with the key scales that are found")
    add("--alpha-samples", type=_count, default=2, metavar="N", help="samples of the search for alpha (default 2)")
    add("--seed", type=int, default=0, metavar="N")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=_count, metavar="N", help="threads of the CPU (default: all cores)")
    options = parser.parse_args(arguments)
    options.model = options.model or options.model_path
    if not options.model:
        parser.error("expected a MODEL")
    if bool(options.data) == bool(options.own):
        parser.error("expected one of --data and --self")
    if options.kl_samples is None:
        options.kl_samples = 1 if options.measure == "kl" else 0
    if options.key_scales and not options.kl_samples:
        parser.error("expected --kl-samples or --measure=kl with --key-scales")
    if options.rounding == "feedback" and not options.key_format.hadamard:
        parser.error("--rounding=feedback: expected keys that are rotated (--key-format=...+hadamard)")
    options.rounding = options.rounding or ("feedback" if options.key_format.hadamard else "nearest")
    if options.effective_len:
        options.interpolation = options.effective_len / options.tokens
    if not 0 < options.interpolation <= 1024:
        parser.error(f"--interpolation: expected a number above 0, at most 1024, got {options.interpolation}")
    return options


def _count(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value < 1 << 31:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got '{text}'")
    return value


def _format(text: str) -> quantize.Format:
    try:
        return quantize.Format.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# ---------------------------------------------------------------------------
# Sums of all samples
# ---------------------------------------------------------------------------


class Pass(enum.IntEnum):
    """In the order in which they run."""

    CLIPS, GRADIENTS, ALPHA, DIVERGENCE = range(4)


@dataclass
class Sums:
    """What passes have added up. [layers, 2, ...] with keys first, whose last level, 1 bit, is not there.

    settings: what the sums are of; sums of other settings are not gone on with.
    done: samples of each Pass. clips: KL of keys at 2 bits, by CLIPS. pages: squares of attention that pages
    receive, by age, [layers, kv_heads, ages]; queries: [ages], those that had such a page.
    """

    settings: str
    done: np.ndarray
    clips: np.ndarray
    loss: np.ndarray
    sensitivity: np.ndarray
    maxima: np.ndarray
    alpha: np.ndarray
    kl: np.ndarray
    squares: np.ndarray
    pages: np.ndarray
    queries: np.ndarray

    @classmethod
    def empty(cls, settings: str, layers: int, kv_heads: int, head_dim: int) -> "Sums":
        return cls(settings, np.zeros(len(Pass), np.int64), np.zeros((layers, len(CLIPS))), np.zeros(1),
                   np.zeros((layers, 2, _LOSSES)), np.zeros((layers, kv_heads, head_dim), np.float32),
                   np.zeros((layers, len(sensitivity.ALPHAS) + 1)), np.zeros((layers, 2, _LOSSES)),
                   np.zeros((layers, kv_heads, head_dim)),
                   np.zeros((layers, kv_heads, sensitivity.MOST_AGES)), np.zeros(sensitivity.MOST_AGES))

    def clip(self, layer: int, part: int) -> float:
        """Of keys the one with the least error, if any was measured; values keep the default."""
        if part == 1 or not self.done[Pass.CLIPS]:
            return quantize.DEFAULT_CLIP
        return CLIPS[int(np.argmin(self.clips[layer]))]

    def exponents(self, layer: int) -> np.ndarray:
        """Of the best key scales, [kv_heads, dim]; zeros where none is better than no scale."""
        errors = self.alpha[layer]
        best = int(np.argmin(errors[:-1]))
        if errors[best] >= errors[-1]:
            return np.zeros(self.maxima[layer].shape, np.int64)
        return sensitivity.exponents(self.maxima[layer], sensitivity.ALPHAS[best])

    def save(self, path: Path) -> None:
        """Writes all or nothing."""
        partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with open(partial, "wb") as file:
            np.savez(file, **vars(self))
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path, empty: "Sums") -> "Sums | None":
        """None if there is nothing to go on with. empty: the sums of this run at its beginning."""
        try:
            with np.load(path, allow_pickle=False) as file:
                sums = {name: file[name] for name in list(cls.__dataclass_fields__)[1:]}
                if str(file["settings"]) != empty.settings or \
                        any(found.shape != getattr(empty, name).shape for name, found in sums.items()):
                    return None
                return cls(empty.settings, **sums)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None


class Progress:
    """Lines on stderr: what is done and how long the rest takes."""

    def __init__(self, name: str, done: int, total: int):
        self._name, self._first, self._total, self._begin = name, done, total, time.monotonic()

    def show(self, done: int) -> None:
        spent = time.monotonic() - self._begin
        left = spent / max(1, done - self._first) * (self._total - done)
        print(f"  {self._name}: {done} of {self._total} samples, {spent:.0f} s, "
              f"{left:.0f} s left", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------
# Passes
# ---------------------------------------------------------------------------


def _parts(options, a):
    """Of keys, then of values: format and tensor of a layer's attention."""
    return (options.key_format, a.k), (options.value_format, a.v)


def _in_threads(measure, items):
    """Of every item, in order. NumPy lets go of the interpreter's lock for most of it."""
    import torch

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from pool.map(measure, items)


def _alone(model, layer: int, hidden, a, index: int, seen: np.ndarray, expected) -> float:
    """The KL that one part of a layer causes alone, read as `seen`. expected: the unchanged model's predictions."""
    import torch

    kv = {"k": a.k, "v": a.v, "kv"[index]: torch.from_numpy(seen).to(a.k.device)}
    return model.divergence(expected, model.run_from(layer, hidden, model.attend_cached(a, **kv)))


def add_clips(model, tokens: list[int], options, sums: Sums) -> None:
    """Adds the KL that keys at 2 bits cause alone, by their clip. Raises NotRepresentable."""
    before, last = model.inputs(tokens)
    expected, rotary = model.predictions(last), model.rotary(len(tokens))
    for layer, hidden in enumerate(before):
        a = model.project(layer, hidden, rotary)
        for index, clip in enumerate(CLIPS):
            seen = quantize.cached(a.k.cpu().numpy(), options.key_format, 2, clip)
            sums.clips[layer, index] += _alone(model, layer, hidden, a, 0, seen, expected)


def add_gradients(model, tokens: list[int], options, sums: Sums) -> None:
    """Adds one sample's sensitivities, maxima, squares of queries and of attention. Raises NotRepresentable."""
    loss, layers = model.gradients(tokens)
    sums.loss += loss
    parts = [(layer, index, form, x) for layer, a in enumerate(layers)
             for index, (form, x) in enumerate(_parts(options, a))]

    def measure(part):
        layer, index, form, x = part
        return sensitivity.measure(x.detach().cpu().numpy(), x.grad.cpu().numpy(), form, sums.clip(layer, index),
                                   quantize.PART_LEVELS[index])

    for (layer, index, *_), found in zip(parts, _in_threads(measure, parts)):
        sums.sensitivity[layer, index, :len(found)] += found
    for layer, a in enumerate(layers):
        largest = np.abs(a.k.detach().cpu().numpy()).max(1)
        # A norm's weight is one for all heads, so is what is folded into it.
        largest = largest.max(0) if model.key_norms else largest
        np.maximum(sums.maxima[layer], largest, out=sums.maxima[layer])
        queries = a.q.detach().double().unflatten(0, (model.kv_heads, -1))
        sums.squares[layer] += (queries * queries).mean((1, 2)).cpu().numpy()
        squares, counts = model.page_squares(a, _PAGE_QUERIES)
        ages = min(len(counts), sensitivity.MOST_AGES)
        sums.pages[layer, :, :ages] += squares[:, :ages].cpu().numpy()
    sums.queries[:ages] += counts[:ages].cpu().numpy()


def add_alpha(model, tokens: list[int], options, sums: Sums) -> None:
    """Adds one sample's attention errors by alpha. Raises NotRepresentable."""
    before, _ = model.inputs(tokens)
    rotary = model.rotary(len(tokens))

    def inputs(layer):
        a = model.project(layer, before[layer], rotary)
        q = a.q[:, -_ALPHA_QUERIES:].cpu().numpy()
        return layer, q.reshape(model.kv_heads, -1, *q.shape[1:]), a.k.cpu().numpy(), a.v.cpu().numpy()

    def measure(item):
        layer, *tensors = item
        return sensitivity.alpha_errors(*tensors, sums.maxima[layer], options.key_format, sums.clip(layer, 0))

    for layer, errors in enumerate(_in_threads(measure, map(inputs, range(len(before))))):
        sums.alpha[layer] += errors


def add_divergence(model, tokens: list[int], options, sums: Sums) -> None:
    """Adds the KL that each part of each layer causes alone, in pages at 8, 4 and 2 bits, values also at 1."""
    before, last = model.inputs(tokens)
    expected, rotary = model.predictions(last), model.rotary(len(tokens))
    for layer, hidden in enumerate(before):
        a = model.project(layer, hidden, rotary)
        powers = sums.exponents(layer) if options.key_scales else np.zeros(sums.maxima[layer].shape)
        scale = sensitivity.scales(powers)
        # Queries are multiplied by what keys are divided by.
        squares = sums.squares[layer] * np.square(scale)
        factors = (quantize.feedback_factors(squares) if options.rounding == "feedback" else None, None)
        for index, ((form, x), factor) in enumerate(zip(_parts(options, a), (scale[:, None], np.float32(1)))):
            scaled = x.cpu().numpy() / factor
            for level, bits in enumerate(quantize.PART_LEVELS[index]):
                seen = factor * quantize.cached(scaled, form, bits, sums.clip(layer, index), factors[index])
                sums.kl[layer, index, level] += _alone(model, layer, hidden, a, index, seen, expected)


def run_passes(model, data: samples.Samples, options, sums: Sums, partial: Path) -> None:
    """All passes, from where `sums` are. Raises NotRepresentable."""
    import torch

    short = [tokens[:options.kl_tokens] for tokens in data.tokens]
    passes = {Pass.CLIPS: ("clips", add_clips, short[:options.clip_samples] if options.clips else []),
              Pass.GRADIENTS: ("gradients", add_gradients, data.tokens),
              Pass.ALPHA: ("alpha", add_alpha, data.tokens[:options.alpha_samples]),
              Pass.DIVERGENCE: ("divergence", add_divergence, short[:options.kl_samples])}
    for index, (name, add, tokens) in passes.items():
        progress = Progress(name, int(sums.done[index]), len(tokens))
        while sums.done[index] < len(tokens):
            with torch.set_grad_enabled(add is add_gradients):
                add(model, tokens[sums.done[index]], options, sums)
            sums.done[index] += 1
            sums.save(partial)
            progress.show(int(sums.done[index]))


# ---------------------------------------------------------------------------
# The document
# ---------------------------------------------------------------------------


def _rounded(values) -> list[float]:
    """Six digits: what differs beyond is the order of additions."""
    return [float(f"{value:.6g}") for value in np.asarray(values).reshape(-1)]


def layer_document(sums: Sums, layer: int, pages: int) -> dict:
    """What the file says of one layer. pages: of the samples that losses are of."""
    result, count = {}, max(1, int(sums.done[Pass.GRADIENTS]))
    for index, (part, levels) in enumerate(zip(calibration_file.PARTS, quantize.PART_LEVELS)):
        result[part] = {"clip": sums.clip(layer, index),
                        "sensitivity": _rounded(sums.sensitivity[layer, index, :len(levels)] / count)}
        if sums.done[Pass.DIVERGENCE]:
            result[part]["kl"] = _rounded(sums.kl[layer, index, :len(levels)] / sums.done[Pass.DIVERGENCE])
    result["query_squares"] = [_rounded(head) for head in sums.squares[layer] / count]
    shares = sensitivity.page_shares(sums.pages[layer], sums.queries, pages)
    result["page_shares"] = [_rounded(head) for head in shares]
    errors = sums.alpha[layer] / max(1, int(sums.done[Pass.ALPHA]))
    best = int(np.argmin(errors[:-1]))
    result["key_scale"] = {
        "alpha": round(sensitivity.ALPHAS[best], 2), "error": _rounded(errors[best])[0],
        "error_without": _rounded(errors[-1])[0],
        "maxima": [_rounded(head) for head in sums.maxima[layer]],
        "exponents": sums.exponents(layer).tolist(),
    }
    return result


def document(sums: Sums, settings: dict) -> dict:
    tokens = settings["data"]["tokens"]
    if settings["settings"]["measure"] == "kl":
        tokens = min(tokens, settings["settings"]["kl_tokens"])
    pages = quantize.count_pages(tokens)
    return {
        "format": calibration_file.FORMAT, "version": calibration_file.VERSION,
        **settings, "loss": _rounded(sums.loss / max(1, int(sums.done[Pass.GRADIENTS])))[0],
        "layers": [layer_document(sums, layer, pages) for layer in range(len(sums.sensitivity))],
    }


# ---------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------


def read_samples(options, folder: Path, checkpoint: Checkpoint) -> samples.Samples:
    """Raises FileError, RunError."""
    positions = checkpoint.size("max_position_embeddings")
    if options.own:
        if options.tokens > positions:
            raise FileError(folder / "config.json", "max_position_embeddings",
                            f"at least {options.tokens} (--tokens)", positions)
        first = checkpoint.config.get("bos_token_id")
        if type(first) is not int:
            raise FileError(folder / "config.json", "bos_token_id", "the token that a text begins with", first)
        found = samples.write_self(options.model, options.own, options.tokens, options.seed, first,
                                   lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    elif str(options.data).endswith(".jsonl"):
        found = samples.read_tokens(options.data, options.samples, options.tokens, options.seed)
    else:
        found = samples.read_text(options.data, folder / "tokenizer.json", options.samples, options.tokens,
                                  options.seed)
    samples.check(found, checkpoint.size("vocab_size"), positions)
    return found


def calibrate(options, folder: Path) -> None:
    """Writes options.output. Raises FileError, RunError, NotRepresentable."""
    checkpoint = Checkpoint(folder)
    data = read_samples(options, folder, checkpoint)
    longest = max(map(len, data.tokens))
    if longest < options.tokens:
        print(f"  the longest sample has {longest} tokens, --tokens={options.tokens} would take more", file=sys.stderr)
    # The file says what was used.
    for name in ("alpha_samples", "kl_samples", "clip_samples"):
        setattr(options, name, min(getattr(options, name), len(data.tokens)))
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise RunError("--device=cuda: torch finds no GPU")
    from pmkvq.torch_model import Model

    model = Model(checkpoint, options.device, options.interpolation)
    settings = {
        "model": {"hash": checkpoint.fingerprint(), "model_type": checkpoint.config["model_type"],
                  "layers": model.layers, "kv_heads": model.kv_heads, "head_dim": model.head_dim},
        "data": {"hash": data.hash(), "kind": data.kind, "source": data.source, "samples": len(data.tokens),
                 "tokens": longest},
        "settings": {"measure": options.measure, "interpolation": options.interpolation, "seed": options.seed,
                     "key_format": str(options.key_format), "value_format": str(options.value_format),
                     "alpha_samples": options.alpha_samples,
                     **({"clip_samples": options.clip_samples} if options.clips else {}),
                     **({"kl_tokens": options.kl_tokens} if options.kl_samples or options.clips else {}),
                     **({"kl_samples": options.kl_samples, "key_scales": options.key_scales,
                         "rounding": options.rounding}
                        if options.kl_samples else {})},
    }
    partial = Path(f"{options.output}.partial")
    empty = Sums.empty(json.dumps(settings, sort_keys=True), model.layers, model.kv_heads, model.head_dim)
    sums = Sums.load(partial, empty)
    if sums is not None:
        print(f"  going on from {partial}: {sums.done[Pass.GRADIENTS]} of {len(data.tokens)} samples are done",
              file=sys.stderr, flush=True)
    else:
        sums = empty
    run_passes(model, data, options, sums, partial)
    calibration_file.write(options.output, document(sums, settings))
    partial.unlink(missing_ok=True)


def _check_before(options) -> None:
    """What would else be found after hours. Raises FileError, RunError."""
    output = Path(options.output)
    if not output.absolute().parent.is_dir():
        raise FileError(output, "file", problem="its folder does not exist")
    if output.exists() and not output.is_file():
        raise FileError(output, "file", problem="is no regular file, and would be replaced by one")
    if options.own and not TOOL.exists():
        raise RunError(f"{TOOL} is not built: script/build pmkvq-run")
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise RunError(f"calibration needs torch ({error}); script/calibrate installs it, or: "
                       "pip install -r python/requirements-calibrate.txt") from None


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    try:
        _check_before(options)
        if os.path.isdir(options.model):
            calibrate(options, Path(options.model))
        else:
            with tempfile.TemporaryDirectory() as folder:
                converted = Path(folder) / "model"
                gguf_import.convert(options.model, str(converted))
                calibrate(options, converted)
    except (FileError, RunError, quantize.NotRepresentable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"{options.output}: written", file=sys.stderr)
    return 0
