"""A minute of script/fuzz: mutated modules never crash pmkvq-opt."""

import pytest

from pmkvq import fuzz
from pmkvq_run import BUILD

SECONDS = 60


@pytest.mark.slow
def test_mutated_modules_never_crash():
    tried, crashes = fuzz.fuzz(str(BUILD / "bin" / "pmkvq-opt"), SECONDS, 2000, seed=20)
    assert tried >= fuzz.BATCH
    assert crashes == [], "\n\n".join(f"{flags}\n{module}\n{said}" for flags, module, said in crashes[:3])
