"""Metric layers, equations (2) and (2b) of the package docstring; a stack of them: output (3) and gradient (4).

Ours, as explained there: the exact step, the cut that keeps M positive semi-definite, the symmetric root L, and the
bound on the step of OPML.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def _relu(x: FloatArray) -> FloatArray:
    return np.maximum(x, 0.0)


def _sigmoid(x: FloatArray) -> FloatArray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))  # overflows nowhere


# name -> f, and f' as a function of f(x)
ACTIVATIONS: dict[str, tuple[Callable[[FloatArray], FloatArray], Callable[[FloatArray], FloatArray]]] = {
    "relu": (_relu, lambda z: (z > 0).astype(np.float64)),
    "sigmoid": (_sigmoid, lambda z: z * (1.0 - z)),
    "tanh": (np.tanh, lambda z: 1.0 - z * z),
}


def unit(rows: FloatArray) -> FloatArray:
    """Rows of length 1 along the last axis, as in the paper; rows of zeros, which it does not mention, stay."""
    # By the largest first: the square of a tiny number would be 0.
    largest = np.abs(rows).max(axis=-1, keepdims=True)
    scaled = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    return np.asarray(scaled / np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), 1.0))


def hinge(metric: FloatArray, triplet: FloatArray) -> float:
    """[1 + tr(M A)]_+ of one triplet (3, d): rows x, p of its class, q of another. metric (d, d)."""
    near, far = triplet[0] - triplet[1], triplet[0] - triplet[2]
    return max(0.0, float(1.0 + near @ metric @ near - far @ metric @ far))


def step_length(metric: FloatArray, triplet: FloatArray, gamma: float, step: str) -> float:
    """tau of M - tau A: 0 where the triplet has no loss."""
    loss = hinge(metric, triplet)
    if loss == 0.0 or step == "paper":
        return gamma if loss > 0.0 else 0.0
    near, far = triplet[0] - triplet[1], triplet[0] - triplet[2]
    squared = float((near @ near) ** 2 + (far @ far) ** 2 - 2.0 * (near @ far) ** 2)  # |A|^2, Frobenius
    return min(gamma, loss / squared) if squared > 0.0 else gamma


class MetricLayer:
    """One metric M (d, d), and L with L'L = M: the Euclidean distance after L is the distance under M."""

    def __init__(self, size: int) -> None:
        self.metric: FloatArray = np.eye(size)
        self._turn: FloatArray | None = None  # U of L = U M^1/2; None: the identity, until a gradient step turns L
        self._root: FloatArray | None = np.eye(size)  # L; None: not known for this M
        self._least = 1.0  # no eigenvalue of M is smaller

    @property
    def root(self) -> FloatArray:
        """L (d, d)."""
        if self._root is None:
            values, vectors = np.linalg.eigh(self.metric)
            symmetric = (vectors * np.sqrt(values.clip(0.0))) @ vectors.T
            self._root = symmetric if self._turn is None else self._turn @ symmetric
        return self._root

    def update(self, triplet: FloatArray, gamma: float, step: str) -> None:
        """The closed form for one triplet (3, d) of this layer's input."""
        tau = step_length(self.metric, triplet, gamma, step)
        if tau == 0.0:
            return
        near, far = triplet[0] - triplet[1], triplet[0] - triplet[2]
        self.metric = self.metric - tau * (np.outer(near, near) - np.outer(far, far))
        self._root = None
        self._least -= tau * float(near @ near)  # Weyl: taking away tau near near' lowers no eigenvalue by more
        if self._least < 0.0:
            self._cut()

    def _cut(self) -> None:
        """Negative eigenvalues become 0: the nearest metric that measures no negative distance."""
        values, vectors = np.linalg.eigh(self.metric)
        if values[0] < 0.0:
            cut = (vectors * values.clip(0.0)) @ vectors.T
            self.metric = (cut + cut.T) / 2.0
        self._least = max(float(values[0]), 0.0)

    def set_root(self, root: FloatArray) -> None:
        """Make L this matrix (d, d)."""
        left, values, right = np.linalg.svd(root)
        metric = (right.T * values**2) @ right
        self.metric = (metric + metric.T) / 2.0
        self._turn, self._root, self._least = left @ right, root, float(values[-1] ** 2)


class OpmlLayer:
    """One transform L (d, d), learned itself; the metric is M = L'L."""

    def __init__(self, size: int) -> None:
        self.root: FloatArray = np.eye(size)

    @property
    def metric(self) -> FloatArray:
        """M (d, d)."""
        return self.root.T @ self.root

    def update(self, triplet: FloatArray, gamma: float, step: str) -> None:
        """L (I + tau A)^-1 for one triplet (3, d) of this layer's input; `step` can only be "paper"."""
        x, p, q = triplet @ self.root.T
        if 1.0 + float((x - p) @ (x - p) - (x - q) @ (x - q)) <= 0.0:
            return
        pair = np.stack([triplet[0] - triplet[1], triplet[0] - triplet[2]])  # (2, d)
        tau = min(gamma, 0.5 / max(float(pair[1] @ pair[1]), 1e-12))
        if tau == 0.0:
            return
        # Woodbury: A = pair' diag(1, -1) pair has rank 2.
        inner = np.diag([1.0, -1.0]) / tau + pair @ pair.T
        self.root = self.root - (self.root @ pair.T) @ np.linalg.solve(inner, pair)

    def set_root(self, root: FloatArray) -> None:
        """Make L this matrix (d, d)."""
        self.root = root


LAYERS: dict[str, Callable[[int], MetricLayer | OpmlLayer]] = {"moml": MetricLayer, "opml": OpmlLayer}


def through(rows: FloatArray, roots: Sequence[FloatArray], activation: str) -> list[FloatArray]:
    """The input of each layer and the output of the last, n + 1 arrays (N, d): rows, z_1, ..., z_n."""
    function, _ = ACTIVATIONS[activation]
    seen = [rows]
    for number, root in enumerate(roots, start=1):
        out = seen[-1] @ root.T
        seen.append(out if number == len(roots) else function(out))
    return seen


def triplet_gradients(
    triplet: FloatArray, roots: Sequence[FloatArray], activation: str
) -> tuple[float, list[FloatArray]]:
    """The triplet loss [1 + |z_x - z_p|^2 - |z_x - z_q|^2]_+ behind all layers, and its gradient in each L.

    triplet (3, d): input rows x, p, q.
    """
    seen = through(triplet, roots, activation)
    x, p, q = seen[-1]
    loss = 1.0 + float((x - p) @ (x - p) - (x - q) @ (x - q))
    if loss <= 0.0:
        return 0.0, [np.zeros_like(root) for root in roots]
    _, slope = ACTIVATIONS[activation]
    upstream = 2.0 * np.stack([q - p, p - x, x - q])  # (3, d), of L_i z_i-1
    gradients = []
    for i in reversed(range(len(roots))):
        gradients.append(upstream.T @ seen[i])
        if i:
            upstream = (upstream @ roots[i]) * slope(seen[i])
    return loss, gradients[::-1]
