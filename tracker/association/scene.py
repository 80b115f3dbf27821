"""What the stream itself says about appearance and about newcomers: running estimates of bounded memory.

People visible at the same time are different people, and a track with nobody near it is one person: both come free in
every stream, and calibrate the metric to this scene and to this network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracker.types import FloatArray, State

import math
import os
NU = float(os.environ.get("NU", 0))
NUB = float(os.environ.get("NUB", 0))
T_CONST = math.lgamma((NU + 3) / 2) - math.lgamma(NU / 2) - 1.5 * math.log(NU * math.pi) if NU else 0.0
MEMORY = 20_000.0  # pairs that a distribution of distances remembers
PRIOR_PAIRS = 100.0  # weight of the network's calibration, in pairs
PLACES = 2_000.0  # boxes that the distribution of places remembers
LOOKALIKES = 0.01  # share of different people who are as near as one person, at any distance
SPOILED = 0.01  # share of crops of the person that show something else
LOG_HEIGHTS = 3.0  # range of the logarithm of heights, where newcomers are possible anywhere
FRAMES = 300.0  # frames that the rate of newcomers remembers


@dataclass(slots=True)
class Normal:
    """A normal distribution whose mean and covariance follow the data: weight n, mean (k,), covariance (k, k)."""

    n: float
    mean: FloatArray
    cov: FloatArray

    def add(self, values: FloatArray, memory: float) -> None:
        """values (m, k) join; the older ones fade when the weight exceeds `memory`."""
        if len(values) == 0:
            return
        m = len(values)
        total = self.n + m
        step = values.mean(axis=0) - self.mean
        spread = (values - values.mean(axis=0)).T @ (values - values.mean(axis=0))
        self.cov = (self.n * self.cov + spread + np.outer(step, step) * self.n * m / total) / total
        self.mean = self.mean + step * m / total
        self.n = min(total, memory)

    def log_density(self, values: FloatArray) -> FloatArray:
        """(...,) for values (..., k)."""
        k = len(self.mean)
        centred = values - self.mean
        inverse = np.linalg.inv(self.cov)
        return np.asarray(
            -0.5 * np.einsum("...i,ij,...j->...", centred, inverse, centred)
            - 0.5 * np.linalg.slogdet(2 * np.pi * self.cov)[1]
        ) + 0.0 * k


class Scene:
    def __init__(self, tau_same: float, tau_diff: float, sigma: float) -> None:
        spread = max((tau_diff - _mean(tau_diff, sigma)) / 2.326, 0.02)
        self.other_view = (_mean(tau_diff, sigma), spread)
        sd_d = max((1.0 - tau_same) / 2.326, 0.02)
        mu_d = tau_same + 1.282 * sd_d
        self.same = Normal(0.0, np.array([self.other_view[0]]), np.array([[spread**2]]))
        self.diff = Normal(PRIOR_PAIRS, np.array([mu_d]), np.array([[sd_d**2]]))
        self.same.n = PRIOR_PAIRS
        self.places: Normal | None = None
        self.arrivals = 0.5
        self.frames = 10.0
        self.extent = np.ones(2)

    def frozen(self) -> bool:
        return "FROZEN" in os.environ

    def observe_boxes(self, boxes: FloatArray, n_unmatched: int) -> None:
        if len(boxes):
            self.extent = np.maximum(self.extent, boxes[:, 2:].max(axis=0))
        self.arrivals += (n_unmatched - self.arrivals) / (self.frames + 1)
        self.frames = min(self.frames + 1, FRAMES)
        if len(boxes) == 0:
            return
        z = places_of(boxes)
        if self.places is None:
            h = float(np.exp(z[:, 2].mean()))
            self.places = Normal(5.0, z.mean(axis=0), np.diag([(4 * h) ** 2, (2 * h) ** 2, 0.5**2]))
        self.places.add(z, PLACES)

    def newcomers(self, boxes: FloatArray) -> FloatArray:
        """(N,) log of the expected number of newcomers of this frame, per pixel^2 and unit of log height."""
        assert self.places is not None
        anywhere = -np.log(self.extent.prod() * LOG_HEIGHTS)
        density = np.logaddexp(self.places.log_density(places_of(boxes)), anywhere) - np.log(2.0)
        if "UNI" in os.environ:
            density = np.full(len(boxes), anywhere)
        return density + np.log(max(self.arrivals if "NOARR" not in os.environ else 0.4, 1e-3))

    def appearance(self, dist: FloatArray) -> FloatArray:
        """log likelihood ratio of a distance: same person against different people."""
        same = np.logaddexp(_log(dist, *_one(self.same)), _log(dist, *self.other_view)) - np.log(2.0)
        diff = np.logaddexp(np.log1p(-LOOKALIKES) + _log(dist, *_one(self.diff)), np.log(LOOKALIKES / 2.0))
        return np.asarray(np.logaddexp(np.log1p(-SPOILED) + same, np.log(SPOILED) + diff) - diff)


    def appearance_now(self, dist: FloatArray, visible: FloatArray) -> FloatArray:
        share = np.where(visible, float(os.environ.get("VIEW", 0.5)), float(os.environ.get("VIEWG", 0.5)))
        same = np.logaddexp(np.log1p(-share) + _log(dist, *_one(self.same)), np.log(share) + _log(dist, *self.other_view))
        look = float(os.environ.get("LOOK", LOOKALIKES))
        diff = np.logaddexp(np.log1p(-look) + _log(dist, *_one(self.diff)), np.log(look / 2.0))
        spoiled = float(os.environ.get("SPOIL", SPOILED))
        return np.asarray(np.logaddexp(np.log1p(-spoiled) + same, np.log(spoiled) + diff) - diff)


def _one(normal: Normal) -> tuple[float, float]:
    return float(normal.mean[0]), float(np.sqrt(normal.cov[0, 0]))


def _log(x: FloatArray, mean: float, std: float) -> FloatArray:
    return np.asarray(-0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi))


def _mean(tau_diff: float, sigma: float) -> float:
    """Mean m of a normal with m + 2.326 s = tau_diff and m^2 + s^2 = sigma^2."""
    z = 2.326
    a, b, c = 1 + 1 / z**2, -2 * tau_diff / z**2, tau_diff**2 / z**2 - sigma**2
    disc = max(b * b - 4 * a * c, 0.0)
    roots = [(-b - disc**0.5) / (2 * a), (-b + disc**0.5) / (2 * a)]
    good = [r for r in roots if 0 <= r <= tau_diff]
    return good[0] if good else sigma


def places_of(boxes: FloatArray) -> FloatArray:
    h = np.maximum(boxes[:, 3] - boxes[:, 1], 1.0)
    return np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2, np.log(h)], axis=1)


def paired_motion(mean: FloatArray, variance: FloatArray, boxes: FloatArray) -> FloatArray:
    """(P,) as `motion`, pair by pair."""
    z = places_of(boxes)
    height = np.maximum(mean[:, 3], 1.0)
    var = np.stack([variance[:, 0], variance[:, 1], variance[:, 3] / height**2], axis=1)
    centre = np.stack([mean[:, 0], mean[:, 1], np.log(height)], axis=1)
    total = ((z - centre) ** 2 / var).sum(axis=1)
    if NU > 0:
        return np.asarray(T_CONST - 0.5 * (NU + 3) * np.log1p(total / NU) - 0.5 * np.log(var).sum(axis=1))
    return np.asarray(-0.5 * total - 0.5 * np.log(var).sum(axis=1) - 1.5 * np.log(2 * np.pi))


def motion(mean: FloatArray, variance: FloatArray, boxes: FloatArray) -> FloatArray:
    """(T, N) log density of boxes given the prediction, per pixel^2 and unit of log height."""
    z = places_of(boxes)
    height = np.maximum(mean[:, 3], 1.0)
    var = np.stack([variance[:, 0], variance[:, 1], variance[:, 3] / height**2], axis=1)
    centre = np.stack([mean[:, 0], mean[:, 1], np.log(height)], axis=1)
    total = ((z[None] - centre[:, None]) ** 2 / var[:, None]).sum(axis=2)
    if NUB > 0:
        c = math.lgamma((NUB + 3) / 2) - math.lgamma(NUB / 2) - 1.5 * math.log(NUB * math.pi)
        return np.asarray(c - 0.5 * (NUB + 3) * np.log1p(total / NUB) - 0.5 * np.log(var).sum(axis=1)[:, None])
    return np.asarray(-0.5 * total - 0.5 * np.log(var).sum(axis=1)[:, None] - 1.5 * np.log(2 * np.pi))
