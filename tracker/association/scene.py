"""What a stream itself says about the appearance metric and about newcomers: running estimates of bounded memory.

People visible at the same time are different people, and a track with no other box near it is one person. Both come
free in every stream, and calibrate the metric to its light, its clothes, and to any network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpotrf, dtrtrs

from tracker.types import FloatArray, State

QUANTILE = 2.326  # standard deviations from the mean to the 1 % quantile of a normal distribution
LEAST_STD = 0.02  # cosine distance
MEMORY_PAIRS = 20_000.0  # distances that a distribution remembers
PRIOR_PAIRS = 100.0  # weight of the network's calibration, in pairs
# An embedding network is calibrated on its own data. In a scene that it has never seen, more pairs of different people
# are within `tau_same` than the 1 % of the calibration: the first estimate takes 10 %.
STD_ABOVE_TAU_SAME = 1.282
MEMORY_BOXES = 2_000.0
PRIOR_BOXES = 5.0
MEMORY_FRAMES, PRIOR_FRAMES = 300.0, 10.0
PRIOR_NEWCOMERS = 0.5  # per frame, before anything is known
LEAST_NEWCOMERS = 1e-3
OTHER_VIEW = 0.5  # share of a person's crops that differ as in another view, instead of as from frame to frame
LOOKALIKES = 0.003  # share of different people at any distance at all, so that no distance proves anything
SPOILED = 0.01  # share of crops of a person that show someone else in front
ANYWHERE = 0.5  # share of newcomers whose place and height say nothing
LOG_HEIGHTS = 3.0  # range of the logarithm of the height of such newcomers
_DIST = np.linspace(0.0, 2.0, 401)  # cosine distances at which the ratio is computed, and interpolated between
BLUR = 0.01  # share of the height by which any box is uncertain: people who stand still leave no zero variance


@dataclass(slots=True)
class Normal:
    """A normal distribution of k-dimensional data that follows them, older ones fading."""

    n: float  # weight, in data
    mean: FloatArray  # (k,)
    cov: FloatArray  # (k, k)

    def add(self, values: FloatArray, memory: float) -> None:
        """values (m, k) join; `n` never exceeds `memory`."""
        m = len(values)
        if m == 0:
            return
        mean = np.add.reduce(values, axis=0) / m
        step, centred, total = mean - self.mean, values - mean, self.n + m
        between = step[:, None] * step * (self.n * m / total)
        self.cov = (self.n * self.cov + centred.T @ centred + between) / total
        self.mean = self.mean + step * (m / total)
        self.n = min(total, memory)

    def log_density(self, values: FloatArray, blur: FloatArray) -> FloatArray:
        """(m,) of values (m, k), each known up to the standard deviations `blur` (k,)."""
        # LAPACK itself: numpy's wrappers take longer than these small problems.
        factor, _ = dpotrf(self.cov + np.eye(len(blur)) * blur**2, lower=1)
        standard, _ = dtrtrs(factor, (values - self.mean).T, lower=1)  # (k, m) independent, of variance 1
        log_scale = np.add.reduce(np.log(math.sqrt(2 * math.pi) * factor.diagonal()))
        return np.asarray(-0.5 * np.add.reduce(standard * standard, axis=0) - log_scale)

    def state(self) -> State:
        return {"n": self.n, "mean": self.mean, "cov": self.cov}


class Scene:
    """Distances between embeddings of one person and of different people, and where newcomers appear.

    Without `observe_distances` the calibration of the network stays as it is.
    """

    def __init__(self, tau_same: float, tau_diff: float, sigma_same: float) -> None:
        """Cosine distances, see `stages.embed.Thresholds`."""
        mean, std = _same_person(tau_diff, sigma_same)
        self._other_view = (mean, std)
        self._same = Normal(PRIOR_PAIRS, np.array([mean]), np.array([[std**2]]))
        std = max((1.0 - tau_same) / QUANTILE, LEAST_STD)  # embeddings of unrelated people are orthogonal on average
        self._different = Normal(PRIOR_PAIRS, np.array([tau_same + STD_ABOVE_TAU_SAME * std]), np.array([[std**2]]))
        self._places: Normal | None = None
        self._extent = np.ones(2)
        self._newcomers, self._n_frames = PRIOR_NEWCOMERS, PRIOR_FRAMES

    def observe_distances(self, same: FloatArray, different: FloatArray) -> None:
        """Cosine distances (m,) of embeddings to the gallery of their own track, and (n,) to those of other people."""
        self._same.add(same[:, None], MEMORY_PAIRS)
        self._different.add(different[:, None], MEMORY_PAIRS)

    def observe_boxes(self, places: FloatArray, corners: FloatArray, n_new: int) -> None:
        """High-score detections of a frame: `places_of` (N, 3), lower right corners (N, 2), how many no track had."""
        self._newcomers += (n_new - self._newcomers) / (self._n_frames + 1.0)
        self._n_frames = min(self._n_frames + 1.0, MEMORY_FRAMES)
        if len(places) == 0:
            return
        self._extent = np.maximum(self._extent, corners.max(axis=0))
        if self._places is None:
            height = math.exp(float(places[:, 2].mean()))
            self._places = Normal(PRIOR_BOXES, places.mean(axis=0), np.diag([16.0 * height**2, 4.0 * height**2, 0.25]))
        self._places.add(places, MEMORY_BOXES)

    def log_ratio(self, dist: FloatArray) -> FloatArray:
        """Log likelihood ratio of cosine distances, the same person against different people; the same shape.

        One person differs as from frame to frame in this scene, or as in another view, for which the network's own
        calibration stands. Two small shares (`LOOKALIKES`, `SPOILED`) bound it on both sides. It never rises with the
        distance, as a ratio of normal densities would where the other view is wider than different people are here.
        """
        at = np.maximum(_DIST, self._same.mean)  # nearer than one person usually is says no more
        same = (1.0 - OTHER_VIEW) * _normal(at, *_one(self._same)) + OTHER_VIEW * _normal(at, *self._other_view)
        different = (1.0 - LOOKALIKES) * _normal(at, *_one(self._different)) + LOOKALIKES / 2.0  # any of [0, 2]
        ratio = np.log((1.0 - SPOILED) * same / different + SPOILED)
        return np.interp(dist, _DIST, np.minimum.accumulate(ratio))

    def log_newcomers(self, places: FloatArray) -> FloatArray:
        """(N,) log of the newcomers expected in a frame at places (N, 3), per square pixel and unit of log height."""
        anywhere = np.full(len(places), -math.log(float(self._extent.prod()) * LOG_HEIGHTS))
        density = anywhere
        if self._places is not None:
            height = math.exp(self._places.mean[2])
            blur = BLUR * np.array([height, height, 1.0])
            density = _log_sum(1.0 - ANYWHERE, self._places.log_density(places, blur), anywhere)
        return density + self.log_rate

    @property
    def log_rate(self) -> float:
        """Log of the newcomers expected in a frame."""
        return math.log(max(self._newcomers, LEAST_NEWCOMERS))

    def state(self) -> State:
        return {
            "same": self._same.state(), "different": self._different.state(), "extent": self._extent,
            "places": None if self._places is None else self._places.state(),
            "newcomers": self._newcomers, "n_frames": self._n_frames,
        }  # fmt: skip

    def restore(self, state: State) -> None:
        self._same, self._different = Normal(**state["same"]), Normal(**state["different"])
        self._places = None if state["places"] is None else Normal(**state["places"])
        self._extent, self._newcomers, self._n_frames = state["extent"], state["newcomers"], state["n_frames"]


def places_of(boxes: FloatArray) -> FloatArray:
    """(N, 3) centre x, centre y and log height of boxes (N, 4) xyxy."""
    left, top, right, bottom = boxes.T
    out = np.empty((len(boxes), 3))
    np.divide(left + right, 2, out=out[:, 0])
    np.divide(top + bottom, 2, out=out[:, 1])
    np.log(np.maximum(bottom - top, 1.0), out=out[:, 2])
    return out


def _same_person(tau_diff: float, sigma: float) -> tuple[float, float]:
    """Mean m and standard deviation s of the normal distribution with m + 2.326 s = tau_diff and m^2 + s^2 = sigma^2.

    Where there is none (sigma too small or too large for tau_diff), s is the least or the mean 0.
    """
    # s from (tau_diff - q s)^2 + s^2 = sigma^2, the smaller solution: the larger one has a negative mean or is wider.
    a, b, c = QUANTILE**2 + 1.0, -2.0 * QUANTILE * tau_diff, tau_diff**2 - sigma**2
    root = math.sqrt(max(b * b - 4.0 * a * c, 0.0))
    std = min(max((-b - root) / (2.0 * a), LEAST_STD), tau_diff / QUANTILE)
    return max(tau_diff - QUANTILE * std, 0.0), max(std, LEAST_STD)


def _one(normal: Normal) -> tuple[float, float]:
    """Mean and standard deviation of a one-dimensional distribution."""
    return float(normal.mean[0]), max(math.sqrt(float(normal.cov[0, 0])), LEAST_STD)


def _normal(x: FloatArray, mean: float, std: float) -> FloatArray:
    """Its density."""
    standard = (x - mean) / std
    return np.asarray(np.exp(-0.5 * standard * standard) / (std * math.sqrt(2.0 * math.pi)))


def _log_sum(share: float, a: FloatArray, b: FloatArray) -> FloatArray:
    """log(share e^a + (1 - share) e^b)."""
    return np.asarray(np.logaddexp(math.log(share) + a, math.log1p(-share) + b))
