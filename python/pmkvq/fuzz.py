"""Mutates small modules and feeds them to pmkvq-opt: a diagnostic or success,
never a crash.

Seeds are the lit tests' modules. Neighbours: script/fuzz, test/python/test_fuzz.py.
"""

import argparse
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEEDS = ("test/IR", "test/Transforms", "test/Conversion", "test/Pipelines", "test/Import")
STAGES = ("plan", "tile", "fold", "vector", "buffers", "host", "llvm")
PASSES = ("canonicalize", "pmkvq-set-schedule", "pmkvq-set-formats", "pmkvq-apply-calibration",
          "pmkvq-fold-value-rotation", "pmkvq-add-page-functions", "convert-pmkvq-to-tile",
          "convert-pmkvq-tile-to-vector", "pmkvq-outline-loops", "pmkvq-lower-host", "pmkvq-split-units",
          "convert-pmkvq-tile-to-lanes", "pmkvq-lower-ring", "pmkvq-split-queries", "pmkvq-unpack-codes",
          "pmkvq-lower-online-softmax", "pmkvq-repack-weights", "pmkvq-lower-merges", "pmkvq-check-lowered",
          "pmkvq-lower-to-gpu")
# One invocation takes this many modules; a crash is then narrowed down.
BATCH = 25
TIMEOUT_S = 60

NUMBERS = ("0", "1", "-1", "2", "3", "7", "8", "15", "16", "17", "63", "64", "80", "127", "128", "129", "4096",
           "2147483648", "9223372036854775807", "99999999999999999999")
WORDS = ("key", "value", "per_channel", "per_token", "paper", "hadamard", "plain", "clip", "group", "layer", "page", "none", "rows", "attend",
         "merge", "f32", "f16", "bf16", "i32", "i1", "index", "tensor", "memref", "vector")


def seeds(root=ROOT):
    """The modules of the lit tests, split where the tests split them."""
    modules = []
    for folder in SEEDS:
        for path in sorted((root / folder).rglob("*.mlir")):
            text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("//")
                             or line.startswith("// -----"))
            modules += [part for part in re.split(r"^// -----.*$", text, flags=re.M) if part.strip()]
    return modules


def mutate(text, rng):
    """One to four small changes: numbers, words, lines, pieces between marks."""
    for _ in range(rng.randint(1, 4)):
        kind = rng.randrange(6)
        tokens = list(re.finditer(r"-?\d+" if kind < 2 else r"\b[a-z_0-9]+\b", text))
        if kind < 4 and tokens:
            token = rng.choice(tokens)
            choices = NUMBERS if kind < 2 else WORDS
            text = text[:token.start()] + rng.choice(choices) + text[token.end():]
            continue
        lines = text.splitlines()
        if not lines:
            return text
        at = rng.randrange(len(lines))
        if kind == 4:
            del lines[at]
        else:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        text = "\n".join(lines)
    return text


def run(tool, flags, modules):
    """Whether pmkvq-opt survived `modules`, and the end of what it said."""
    with tempfile.NamedTemporaryFile("w", suffix=".mlir") as file:
        file.write("\n// -----\n".join(modules))
        file.flush()
        try:
            done = subprocess.run([tool, *flags, "--split-input-file", "--allow-unregistered-dialect=false",
                                   "-o", "/dev/null", file.name],
                                  capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return False, f"no end after {TIMEOUT_S} s"
    crashed = done.returncode < 0 or done.returncode > 127 or "PLEASE submit a bug report" in done.stderr
    return not crashed, done.stderr[-2000:]


def narrow(tool, flags, modules):
    """The modules that crash alone, with what was said."""
    found = []
    for module in modules:
        survived, said = run(tool, flags, [module])
        if not survived:
            found.append((flags, module, said))
    return found


def fuzz(tool, seconds, count, seed):
    """Runs until `count` modules or `seconds` are over.

    Returns: modules tried, list of (flags, module, stderr) that crashed.
    """
    rng = random.Random(seed)
    corpus = seeds()
    pipelines = [["--verify-each"]] + [[f"--pmkvq-stage-{stage}"] for stage in STAGES]
    pipelines += [["--pmkvq-stage-plan", "--pmkvq-stage-tile", "--pmkvq-stage-fold", "--pmkvq-stage-vector"],
                  [f"--pmkvq-stage-{stage}" for stage in STAGES]]
    pipelines += [[f"--{name}"] for name in PASSES]
    crashes, tried, end = [], 0, time.monotonic() + seconds
    while tried < count and time.monotonic() < end:
        modules = [mutate(rng.choice(corpus), rng) for _ in range(BATCH)]
        for flags in pipelines:
            survived, _ = run(tool, flags, modules)
            if not survived:
                crashes += narrow(tool, flags, modules)
        tried += len(modules)
        if sys.stderr.isatty():
            print(f"\r{tried} modules, {len(crashes)} crashes", end="", file=sys.stderr)
    return tried, crashes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tool", default=str(ROOT / "build/bin/pmkvq-opt"))
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--count", type=int, default=2000, help="modules to try (default 2000)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    tried, crashes = fuzz(options.tool, options.seconds, options.count, options.seed)
    for flags, module, said in crashes:
        print(f"== {' '.join(flags)}\n{module}\n-- {said}\n")
    print(f"{tried} modules through every pipeline, {len(crashes)} crashes (seed {options.seed})")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
