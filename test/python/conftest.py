"""Shared pieces of the Python tests."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))


@pytest.fixture(scope="session")
def python_environment():
    """Environment in which `python -m pmkvq.…` works."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "python")}


@pytest.fixture(scope="session")
def reasoner():
    return ROOT / "test" / "models" / "reasoner"
