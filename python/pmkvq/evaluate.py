"""`pmkvq eval`: methods of keeping a cache, compared at equal bytes.

pmkvq's side is the compiled product (pmkvq-run); baselines are fake quantization in
torch (torch_cache.py). Programs are scored by their only right answers, texts by KL
and equal top tokens against a bf16 cache, pmkvq-run's unless asked otherwise. Neighbours: eval_methods.py
(names), eval_data.py (files), eval_records.py (what is kept and printed).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from pmkvq import smollm2
from pmkvq.cache_plan import PAGE_TOKENS, BudgetError, Geometry, Limits, Plan, over_time
from pmkvq.divergence import divergences, read_logits
from pmkvq.errors import FileError
from pmkvq.eval_data import Data, read_data
from pmkvq.eval_methods import Method, MethodError, parse_methods
from pmkvq.eval_records import Records, digest_file, digest_model, print_table, summarize_programs, summarize_texts
from pmkvq.runner import ROOT, TOOL, Output, RunError, command, generate, shown

_HELP = """
A method is NAME[+OPTION...][:AMOUNT]:

  bf16                     the compiled product, cache in bf16
  pmkvq:3500KiB            the compiled product under a budget a sequence
  pmkvq:2.375bits          the same, budget in bits an element of pages, parameters included
  pmkvq:2   pmkvq:k4v2     every page at a fixed width; keys at 4 bits, values at 2
  torch                    the torch model with a bf16 cache: how far it is from the product
  paper:2   paper:3500KiB  PM-KVQ: per token, 16-bit codes lowered by shifts, layer by layer, so
                           that pages end at 2 bits, or in the budget
  kivi:2                   KIVI: keys per channel, values per token, window 128, no sink
  turboquant:2             fp16 norm, random signs, Hadamard, Lloyd-Max code book
  rtn:4                    round to nearest, per token
  trial:k2v1               pmkvq's formats in torch, at 8, 4, 2, 1.6 and 1 bits

With a budget, pages fall by pmkvq's default schedule: keys_last, or least_loss with a calibration by
divergence. Options:
  +page  +layer  +keys_last
                           another schedule (with a budget)
  +least_loss              pmkvq: by the losses of a calibration
  +floor=4  +floor=k4v2    lowest bits under a budget
  +key=FORMAT +value=...   pmkvq: formats of pmkvq-run, / for +: pmkvq+key=per_token/plain:2
  +calibration=FILE        pmkvq: clips of a calibration; the file's name has no + , or :
  +scales                  pmkvq: its key scales, too
  +nearest                 pmkvq: keys fall to the nearest codes even if it has squares of queries
  +allocate                pmkvq: by the calibration, each layer's keys and values have floors of their own; with
                           +none every page is at these from the start
  +group=128               kivi: elements that share a scale (32)
  +sink=1                  kivi: the first token stays at 16 bits, which KIVI does not have
  +prompt                  baselines: a prompt is read in bf16 until its end, as their own code does,
                           and counted so; without it all have their bytes at every moment
  +norm                    turboquant: decoded directions get length 1 again
  +floor=k2v1              baselines: where values end at 1 bit, after all is at 2
  +drop  +order=ORDER      baselines: what is at the floor is dropped, page by page; below 2 bits the
                           oldest fall first (age), or those of the least attention received so far
                           (mass), lately (recent), or times the length of values (error)
  +parameters=byte         trial: ranges, and minima of values, in a byte; or values with the largest
                           magnitude alone, in an fp16 or a byte (scale, scale_byte)
  +heads=2  +pages=2       trial: values' parameters shared by so many heads, keys' by two pages
  +exact                   trial: 1 bit from the values, not by a shift
  +mean                    trial: at 2 bits and less a page's values get their mean back
  +feedback=channels       trial: keys at 4 and 2 bits are rounded to where the queries seen so far are small,
                           by the mean square of each of their channels, or by all products of two (full)
  +calibration=FILE        trial+feedback=channels: squares of a calibration, in place of the queries seen

Examples:
  script/eval test/models/reasoner --data=test/models/reasoner/programs-256.jsonl --limit=16 \\
      --methods=bf16,pmkvq:3500KiB,paper:3500KiB,kivi:2,turboquant:3500KiB --output=build/eval.jsonl
  script/eval SmolLM2 --data=python/pmkvq/origin.txt --methods=pmkvq:2.375bits,kivi:2,rtn:4
"""

# Guesses are worth it while a step finds so many tokens: side by side it finds one for each program.
_KEPT = 3


class UsageError(Exception):
    """The command line, or the model, is not one that can be evaluated."""


class Progress:
    """Lines on stderr that say what is done and what time is left; on a terminal one line."""

    def __init__(self, label: str, total: int):
        self._label, self._total = label, total
        self._begin = self._last = time.monotonic()
        self._line = sys.stderr.isatty()

    def update(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last < (1 if self._line else 30) or not done:
            return
        self._last = now
        left = (now - self._begin) / done * (self._total - done)
        text = f"{self._label}: {done:,} of {self._total:,}, {left / 60:.0f} min {left % 60:.0f} s left"
        print(f"\r\033[K{text}" if self._line else text, end="" if self._line else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._line:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Model:
    """A Hugging Face folder and what its config says. end: tokens that end an answer."""

    folder: Path
    geometry: Geometry
    vocab: int
    positions: int
    end: frozenset[int]


def read_model(name: str) -> Model:
    """A folder, or SmolLM2: then it is fetched and converted. Raises UsageError, FileError, RunError."""
    folder = Path(name)
    if name == "SmolLM2" and not folder.exists():
        folder = ROOT / "build" / "figures" / "SmolLM2-135M-Instruct"
        if not (folder / "config.json").exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            smollm2.convert(folder)
    if not (folder / "config.json").is_file():
        raise UsageError(f"{name}: expected a Hugging Face folder (config.json, safetensors) or SmolLM2; a GGUF file "
                         "becomes one by: python -m pmkvq.gguf_import FILE.gguf FOLDER")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        heads = config["num_attention_heads"]
        geometry = Geometry(config["num_hidden_layers"], config.get("num_key_value_heads") or heads,
                            config.get("head_dim") or config["hidden_size"] // heads)
        end = config.get("eos_token_id")
        return Model(folder, geometry, config["vocab_size"], config["max_position_embeddings"],
                     frozenset(end if isinstance(end, list) else [] if end is None else [end]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(folder / "config.json", "file", problem=f"not a model's config: {error!r}") from None


class Evaluation:
    """All methods over the same data.

    Args:
        batch: programs or texts that run side by side in the product.
        device: of torch. threads: of the product and of torch; None: one a core.
        scratch: folder of this call alone. work: folder for the bf16 cache's logits.
        reference: whose bf16 cache texts are compared with, "pmkvq" or "torch".
    """

    def __init__(self, model: Model, data: Data, batch: int, device: str, threads: int | None,
                 scratch: Path, work: Path, reference: str):
        self._model, self._data, self._batch, self._work = model, data, batch, work
        self._device, self._threads, self._scratch, self._reference = device, threads, scratch, reference
        self._torch = None
        self._exact: dict[int, list] = {}

    def needs_tool(self, method: Method) -> bool:
        """Whether pmkvq-run takes part in the method's figures."""
        return method.is_product or (self._data.answers is None and self._reference == "pmkvq")

    def settings(self, method: Method, digest: str) -> dict:
        """What a record's figures depend on."""
        other = {"reference": "torch"} if self._data.answers is None and self._reference == "torch" else {}
        if calibration := method.options.get("calibration"):
            other["calibration"] = digest_file(calibration)
        return {"eval": 1, "method": method.text, "model": digest, "data": self._data.digest,
                "batch": self._batch if method.is_product else None,
                "tool": digest_file(TOOL) if self.needs_tool(method) else None, **other}

    def check(self, method: Method) -> None:
        """Whether all that the method will keep fits. Raises RunError, BudgetError."""
        for group in self._groups():
            count = self._data.cached(group[0]) + 1 - len(self._data.prompts[group[0]])
            if method.is_product:
                words = command(self._model.folder, f"--prompts={self._write_prompts(group)}",
                                f"--max-tokens={count}", "--explain", *method.product_options(len(group)))
                if subprocess.run(words, stdout=subprocess.DEVNULL).returncode:
                    raise RunError(f"{method.text}: pmkvq-run refuses it: {shown(words)}")
            else:
                try:
                    self._plan(method, self._data.cached(group[0]))
                except BudgetError as error:
                    raise BudgetError(f"{method.text}: {error}") from None

    def run(self, method: Method, label: str) -> dict:
        """Figures of one method. Raises RunError, BudgetError, OSError."""
        begin = time.monotonic()
        figures = self._programs(method, label) if self._data.answers else self._texts(method, label)
        return {**figures, "seconds": round(time.monotonic() - begin, 1)}

    # Programs

    def _groups(self) -> list[list[int]]:
        """Programs or texts of equal lengths, at most a batch of them."""
        def lengths(i):
            return len(self._data.prompts[i]), len(self._data.answers[i]) if self._data.answers else 0

        groups = []
        for _, members in groupby(sorted(range(len(self._data.prompts)), key=lengths), lengths):
            members = list(members)
            groups += [members[at:at + self._batch] for at in range(0, len(members), self._batch)]
        return groups

    def _programs(self, method: Method, label: str) -> dict:
        found: dict[int, list[int]] = {}
        usage = []
        groups = self._groups()
        for number, group in enumerate(groups, 1):
            part = label if len(groups) == 1 else f"{label}, batch {number} of {len(groups)}"
            run = self._run_product if method.is_product else self._run_baseline
            tokens, used = run(method, group, part)
            found.update(zip(group, (self._cut(answer) for answer in tokens)))
            usage.append(used)
        answers = [found[i] for i in range(len(found))]
        return {"accuracy": summarize_programs(answers, self._data.answers), "cache": _joined(usage)}

    def _cut(self, tokens: list[int]) -> list[int]:
        """Up to the token that ends an answer."""
        for at, token in enumerate(tokens):
            if token in self._model.end:
                return tokens[:at + 1]
        return tokens

    def _run_product(self, method: Method, group: list[int], label: str) -> tuple[list[list[int]], dict]:
        count = len(self._data.answers[group[0]])
        output = self._generate(method, group, label, f"--max-tokens={count}")
        return output.tokens, self._product_usage(method, group, output.summary)

    def _generate(self, method: Method, group: list[int], label: str, *options: str) -> Output:
        """pmkvq-run over the prompts of a group."""
        options = [f"--prompts={self._write_prompts(group)}", *options, *method.product_options(len(group)),
                   *([f"--threads={self._threads}"] if self._threads else [])]
        print(f"{label}\n  $ {shown(command(self._model.folder, *options))}", file=sys.stderr, flush=True)
        return generate(self._model.folder, *options)

    def _run_baseline(self, method: Method, group: list[int], label: str) -> tuple[list[list[int]], dict]:
        """One by one with the right answers as guesses, or side by side where too few guesses are kept."""
        from pmkvq import torch_cache

        answers, tokens = self._data.answers, []
        count, steps = len(answers[group[0]]), 0
        progress = Progress(label, count * len(group))

        def paged(sequences: int):
            return self._paged_cache(method, sequences, self._data.cached(group[0]))

        while len(tokens) < len(group) and steps * _KEPT <= count * len(tokens):
            done, i = len(tokens), group[len(tokens)]
            cache = paged(1)
            found, taken = torch_cache.generate_guessing(
                self._torch, cache, self._data.prompts[i], answers[i], lambda at: progress.update(done * count + at))
            tokens.append(found)
            steps += taken
        rest = group[len(tokens):]
        if rest:
            done, cache = len(tokens), paged(len(rest))
            tokens += torch_cache.generate(self._torch, cache, [self._data.prompts[i] for i in rest], count,
                                           lambda at: progress.update(done * count + len(rest) * at))
        progress.end()
        return tokens, self._baseline_usage(method, group, cache)

    def _write_prompts(self, group: list[int]) -> Path:
        path = self._scratch / "prompts.jsonl"
        path.write_text("".join(json.dumps({"prompt": self._data.prompts[i]}) + "\n" for i in group))
        return path

    # Texts

    def _texts(self, method: Method, label: str) -> dict:
        found, usage = {}, []
        for group in self._groups():
            references = self._references(group) if self._reference == "pmkvq" else self._torch_references(group)
            if method.is_product:
                parts, used = self._diverge_product(method, group, label, references)
                found.update(zip(group, parts))
                usage.append(used)
                continue
            for i, reference in zip(group, references):
                found[i], used = self._diverge_baseline(method, i, f"{label}, text {i + 1}", reference)
                usage.append(used)
        kl, same = zip(*(found[i] for i in range(len(found))))
        return {"divergence": summarize_texts(kl, same), "cache": _joined(usage)}

    def _references(self, group: list[int]) -> list[np.ndarray]:
        """Logits of the product's bf16 cache, computed once."""
        path = self._work / f"reference-{self._data.digest}-{group[0]}-{len(group)}-{digest_file(TOOL)}.safetensors"
        if not path.exists():
            partial = self._scratch / "reference.safetensors"
            self._generate(Method("bf16", "bf16"), group, "reference: bf16", "--max-tokens=1", f"--logits={partial}")
            shutil.move(partial, path)
        return [read_logits(path, at) for at in range(len(group))]

    def _torch_references(self, group: list[int]) -> list[np.ndarray]:
        """Logits of the torch model's bf16 cache, computed once."""
        for i in group:
            if i not in self._exact:
                rows: list[np.ndarray] = []
                self._force(Method("torch", "torch"), i, lambda _, logits, rows=rows: rows.append(logits.cpu().numpy()))
                self._exact[i] = np.concatenate(rows)
        return [self._exact[i] for i in group]

    def _diverge_product(self, method: Method, group: list[int], label: str, references: list[np.ndarray]):
        path = self._scratch / "logits.safetensors"
        output = self._generate(method, group, label, "--max-tokens=1", f"--logits={path}")
        found = [divergences(reference, read_logits(path, at)) for at, reference in enumerate(references)]
        path.unlink()
        return found, self._product_usage(method, group, output.summary)

    def _diverge_baseline(self, method: Method, index: int, label: str, reference: np.ndarray):
        from pmkvq.torch_cache import divergences_on_device

        tokens = self._data.prompts[index]
        kl, same = np.empty(len(tokens)), np.empty(len(tokens), bool)
        progress = Progress(label, len(tokens))

        def compare(begin: int, logits) -> None:
            here = slice(begin, begin + len(logits))
            kl[here], same[here] = divergences_on_device(reference[here], logits)
            progress.update(here.stop)

        cache = self._force(method, index, compare)
        progress.end()
        return (kl, same), self._baseline_usage(method, [index], cache)

    def _force(self, method: Method, index: int, on_logits):
        """Feeds a text to a baseline; its cache at the end."""
        from pmkvq.torch_cache import force

        tokens = self._data.prompts[index]
        cache = self._paged_cache(method, 1, len(tokens))
        force(self._torch, cache, tokens, on_logits)
        return cache

    # Bytes

    def _paged_cache(self, method: Method, sequences: int, tokens: int):
        """A baseline's empty cache; the torch model is loaded when the first is asked for."""
        from pmkvq.torch_cache import PagedCache, PagedModel

        geometry, limits = self._plan(method, tokens)
        cache = PagedCache(geometry, method.scheme(), limits, sequences, tokens, self._device, method.order)
        cache.read_back(codes=not method.exact_prompt or self._data.answers is None)
        self._torch = self._torch or PagedModel(self._model.folder, self._device, self._threads)
        return cache

    def _plan(self, method: Method, tokens: int) -> tuple[Geometry, Limits]:
        """A baseline's pages in one sequence of so many cached tokens. Raises BudgetError."""
        scheme = method.scheme()
        geometry = replace(self._model.geometry, sink=scheme.sink)
        if geometry.kv_heads % scheme.heads:
            raise UsageError(f"{method.text}: heads: expected a divisor of the model's {geometry.kv_heads} kv heads, "
                             f"got {scheme.heads}")
        slot = sum(scheme.parameter_bytes(geometry.head_dim, part) for part in (0, 1))
        limits = method.limits(geometry, slot, tokens)
        Plan(geometry, limits, 1, tokens)
        return geometry, limits

    def _baseline_usage(self, method: Method, group: list[int], cache) -> dict:
        shared = method.scheme().shared_bytes(self._model.geometry.head_dim)
        points = [[tokens, used + shared] for tokens, used in cache.points]
        return {"sequences": len(group), "peak": max(used for _, used in points) * len(group),
                "bits": cache.bits(), "bf16": self._bf16(group), "over_time": points}

    def _product_usage(self, method: Method, group: list[int], summary: dict) -> dict:
        """As pmkvq-run counts; over time as the same plan has it, a sequence's share; of layers that differ in
        floors the end alone."""
        geometry, tokens, peak = self._model.geometry, self._data.cached(group[0]), summary["kv_bytes_peak"]
        slot = method.product_slot_bytes(geometry.head_dim)
        if method.allocates:
            points, bits = [[tokens, peak]], bits_of_levels(summary["levels"], geometry.head_dim, slot)
        else:
            limits = method.limits(geometry, slot, tokens).times(len(group))
            points, bits = over_time(geometry, limits, len(group), tokens)
        return {"sequences": len(group), "peak": peak, "bits": bits, "bf16": self._bf16(group),
                "levels": summary["levels"],
                "over_time": [[at, used // len(group)] for at, used in points]}

    def _bf16(self, group: list[int]) -> int:
        return sum(self._model.geometry.bf16_bytes(self._data.cached(i)) for i in group)


def bits_of_levels(levels: dict, head_dim: int, slot_bytes: int) -> float:
    """Bits an element of pages, parameters included; 16 without pages.

    Args:
        levels: as pmkvq-run's summary has them: of "key" and "value", page-heads at each level.
        slot_bytes: parameters of a page-head.
    """
    pages = sum(levels["key"].values())
    if not pages:
        return 16.0
    codes = sum(int(bits) * count for part in ("key", "value") for bits, count in levels[part].items())
    return codes / (2 * pages) + 8 * slot_bytes / (2 * PAGE_TOKENS * head_dim)


def _joined(usage: list[dict]) -> dict:
    """Batches or texts as one; curves and levels of the first."""
    sequences = sum(used["sequences"] for used in usage)
    return {**usage[0], "sequences": sequences, "peak": sum(used["peak"] for used in usage),
            "bf16": sum(used["bf16"] for used in usage),
            "bits": sum(used["bits"] * used["sequences"] for used in usage) / sequences}


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pmkvq eval", description="Compares ways to keep a key-value cache at equal bytes.", epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="a Hugging Face folder, or SmolLM2 (fetched)")
    parser.add_argument("--methods", required=True, metavar="LIST", help="what to compare, separated by commas")
    parser.add_argument("--data", required=True, action="append", metavar="FILE",
                        help='JSON lines of {"prompt", "answer"} or {"tokens"}, or a text; may be repeated')
    parser.add_argument("--output", metavar="FILE", help="JSON lines, a record a method; records that are there "
                        "with the same settings are not computed again")
    parser.add_argument("--limit", type=_positive, metavar="N", help="the first N programs or texts")
    parser.add_argument("--tokens", type=_positive, metavar="N", help="the first N tokens of each text")
    parser.add_argument("--batch", type=_positive, default=16, metavar="N",
                        help="programs, or texts of one length, side by side in the product (16)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where torch runs (cpu)")
    parser.add_argument("--reference", default="pmkvq", choices=("pmkvq", "torch"), help="whose bf16 cache texts are "
                        "compared with (pmkvq); torch needs no build, where all methods are baselines")
    parser.add_argument("--threads", type=_positive, metavar="N", help="threads (default: one a core)")
    parser.add_argument("--work", metavar="DIR", help="keep the bf16 cache's logits of texts here for the next call "
                        "(default: a temporary folder)")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _need_torch(methods: list[Method], texts_too: bool) -> None:
    """texts_too: the reference is torch's."""
    wanted = [method.text for method in methods if texts_too or not method.is_product]
    if not wanted:
        return
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{wanted[0]}: needs torch and transformers ({error}); script/eval installs them, or: "
                         "pip install -r python/requirements-smollm2.txt") from None


def evaluate(options: argparse.Namespace) -> None:
    """Raises UsageError, MethodError, FileError, RunError, BudgetError, OSError."""
    methods = parse_methods(options.methods)
    model = read_model(options.model)
    data = read_data(options.data, model.folder, model.vocab, model.positions, options.limit, options.tokens)
    records = Records(options.output)
    digest = digest_model(model.folder)
    work = Path(options.work) if options.work else None
    if work:
        work.mkdir(parents=True, exist_ok=True)
    # Beside what stays, so that it has the room and can be renamed.
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        evaluation = Evaluation(model, data, options.batch, options.device, options.threads, Path(scratch),
                                work or Path(scratch), options.reference)
        if not TOOL.exists() and any(map(evaluation.needs_tool, methods)):
            raise UsageError(f"{TOOL} is not built: script/build pmkvq-run")
        settings = {method: evaluation.settings(method, digest) for method in methods}
        missing = [method for method in methods if not records.find(settings[method])]
        _need_torch(missing, data.answers is None and options.reference == "torch")
        for method in missing:
            evaluation.check(method)
        for number, method in enumerate(missing, 1):
            label = f"{number} of {len(missing)}: {method.text}"
            figures = evaluation.run(method, label)
            records.add({"settings": settings[method], "model": str(options.model), "data": data.name, **figures})
    print_table([records.find(settings[method]) for method in methods])


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    try:
        evaluate(options)
    except BrokenPipeError:
        return 1
    except (UsageError, MethodError, FileError, RunError, BudgetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
