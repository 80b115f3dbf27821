"""What a score means: from the network's logit to the share of boxes with that score that are people.

Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods. John Platt. 1999.
Training asks for the overlap of a box, so its scores are small and right boxes begin at 0.2; a tracker's thresholds
mean probabilities. Two numbers, fitted on photographs held out, make one of the other and change no order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from reid_training.errors import DataError
from tools.detector_training.ap import BoolArray, FloatArray, match
from tools.detector_training.config import RunConfig
from tools.detector_training.net import PersonNet
from tools.detector_training.predict import TorchDetector
from tools.detector_training.scenes import read_image, read_sources

LEAST_BOXES = 50  # right ones, and wrong ones


def calibrate(net: PersonNet, config: RunConfig, data: Path) -> tuple[float, float]:
    """Slope and shift of the logit, on the held-out pictures of sources with all people labelled."""
    detector = TorchDetector(net, config.schedule.calibrate_side)
    scores, right = [], []
    for name, (_, held) in read_sources(config.sources, data).items():
        for picture in held if config.sources[name].complete else ():
            boxes, found = detector(read_image(picture.path))
            what = match(boxes, found, picture.boxes, picture.ignored)
            scores.append(what.scores[what.counts])
            right.append(what.right[what.counts])
    n_right = sum(int(one.sum()) for one in right)
    if min(n_right, sum(map(len, right)) - n_right) < LEAST_BOXES:
        raise DataError(f"{data}: {n_right} right boxes on held-out pictures; {LEAST_BOXES} right and wrong are needed")
    return platt(np.concatenate(scores), np.concatenate(right))


def platt(scores: FloatArray, right: BoolArray) -> tuple[float, float]:
    """The a and b that make expit(a logit(score) + b) the likeliest chances of being right; scores, right (N,)."""
    x = logit(np.clip(scores, 1e-6, 1 - 1e-6))
    sign = np.where(right, 1.0, -1.0)

    def loss(w: FloatArray) -> tuple[float, FloatArray]:
        margin = sign * (w[0] * x + w[1])
        pull = -sign * expit(-margin) / len(x)
        return float(np.logaddexp(0.0, -margin).mean()), np.array([pull @ x, pull.sum()])

    slope, shift = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B").x
    return float(slope), float(shift)
