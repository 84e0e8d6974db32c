"""Refuses plans that lose too much by what calibration measured.

A plan's KL is predicted as the sum over layers and parts of the KL that each causes
alone at its level (docs/calibration.md says how well that predicts). Neighbours:
calibration_file.py; tools/pmkvq-run/Guardrail.cpp does the same for a run.
"""

from __future__ import annotations

import numpy as np

from pmkvq.allocation import loss_of, losses_at
from pmkvq.calibration_file import PARTS, Calibration
from pmkvq.errors import FileError

# Nats a token; docs/calibration.md has the reason.
MAX_LOSS = 0.1
# Parts that a refusal names.
_WORST = 3


class LossError(ValueError):
    """A plan is predicted to lose more than is allowed; says what to do."""


def check(calibration: Calibration, levels: np.ndarray, max_loss: float | None = None) -> float | None:
    """The predicted KL, nats a token, of a cache whose pages are at these levels.

    Args:
        levels: [layers, 2], bits of keys and values. max_loss: nats a token; None: MAX_LOSS, if the
            calibration has divergences.

    Returns:
        None if the calibration has no divergences.

    Raises:
        LossError: it is more than max_loss.
        FileError: max_loss is given, and the calibration has no divergences.
    """
    divergences = calibration.divergences()
    if divergences is None:
        if max_loss is not None:
            raise FileError(calibration.path, "layers[0].key.kl",
                            problem="there is none, so that no loss is predicted; calibrate with --kl-samples")
        return None
    limit = MAX_LOSS if max_loss is None else max_loss
    predicted = loss_of(divergences, levels)
    if predicted > limit:
        raise LossError(f"these floors are predicted to lose {predicted:.3g} nats of KL a token, more than {limit:g}, "
                        f"by {calibration.path}: {_worst(losses_at(divergences, levels), levels)}; give a larger "
                        "budget or calibrate other formats; --max-loss allows more, --accept-loss anything")
    return predicted


def _worst(losses: np.ndarray, levels: np.ndarray) -> str:
    order = np.argsort(-losses, axis=None, kind="stable")[:_WORST]
    places = zip(*np.unravel_index(order, losses.shape))
    return ", ".join(f"layer {layer} {PARTS[part]}s {losses[layer, part]:.3g} at {levels[layer, part]} bits"
                     for layer, part in places)
