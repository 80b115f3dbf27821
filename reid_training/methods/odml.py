"""Online metric layers: Mahalanobis metrics learned in one pass over a stream, with non-linearities between them.

Online Deep Metric Learning. Wenbin Li, Jing Huo, Yinghuan Shi, Yang Gao, Lei Wang, Jiebo Luo. 2018,
https://arxiv.org/abs/1805.05510; its third version, with Yanfang Liu: A Multilayer Framework for Online Metric
Learning. IEEE TNNLS 2023. We know the abstracts, a digest of the third version and an independent numpy port.

What we take: (1) one-pass triplets: each sample with the latest of its own class and the latest of another, its rows
scaled to unit length; (2) a metric layer (MOML): min over M >= 0 of |M - M_t-1|^2 / 2 + gamma [1 + tr(M A)]_+ with
A = (x - p)(x - p)' - (x - q)(x - q)', solved in closed form by M_t = M_t-1 - gamma A where the triplet has a loss,
M_0 = I; (3) a stack: z_i = f(L_i z_i-1) with L_i'L_i = M_i, and nothing after the last layer; (4) forward learning,
each layer on what the one before puts out, backward learning, by the gradient of the triplet loss of z_n, and both;
(5) numbers from Euclidean distances between the z.
Where we differ: (2) the exact step, min(gamma, loss / |A|^2), is an option, since gamma alone goes too far where little
is missing; what would leave M without being positive semi-definite is cut off, as the port does; (3) L is the
symmetric square root, as it moves no coordinate by more than M says: other roots of nearly the same M are turned
against each other, and a ReLU then cuts off other things; (4) "both" takes the closed form for the local losses, with
equal weights, and a gradient step for the rest, after which L = U M^1/2 keeps its U. The group's other layer (OPML,
which updates L itself) is left out.

The first ReLU deletes half of what zero-mean rows say: more than one layer wants rows that are not negative, or tanh.
An estimator as scikit-learn understands it, numpy alone: nothing of scikit-learn is imported unless it calls itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from reid_training.config import require
from reid_training.errors import DataError

FloatArray = npt.NDArray[np.float64]
STRATEGIES = ("forward", "backward", "both")
STEPS = ("paper", "exact")


class ArrayError(DataError, ValueError):
    """Rows or labels that nothing can be learned from. A ValueError too: that is what scikit-learn expects."""


class NotFittedError(ArrayError, AttributeError):
    """Asked for what only a fitted estimator knows."""


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


@dataclass(frozen=True, slots=True)
class OdmlConfig:
    """Settings of `ODML`, which checks them when it learns."""

    n_layers: int = 1  # the paper stacks 3 and 5; with ReLU on zero-mean rows our own runs got worse beyond 1
    gamma: float = 0.01  # the paper cross-validates around it
    step: str = "paper"  # "paper": gamma; "exact": the proximal step, which stops where the triplet has no loss left
    activation: str = "relu"  # the paper also names sigmoid and tanh
    strategy: str = "forward"  # the paper's main one
    backward_rate: float = 0.01  # of the gradient steps; ours, not tuned
    penalty: float = 0.0  # lambda / 2 of |L|^2 in the gradient steps; the paper's value is not known to us
    n_scans: int = 1  # of `fit`: 1 = online; the paper's tables of UCI sets use 20
    random_state: int = 0  # order of the scans after the first

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_scans"):
            value = getattr(self, name)
            require(_whole(value) and value >= 1, f"odml: {name} must be a whole number >= 1, got {value!r}")
        for name in ("gamma", "backward_rate", "penalty"):
            value = getattr(self, name)
            require(_number(value) and 0 <= value <= 1, f"odml: {name} must be a number in [0, 1], got {value!r}")
        for name, allowed in (("step", STEPS), ("activation", tuple(ACTIVATIONS)), ("strategy", STRATEGIES)):
            value = getattr(self, name)
            require(value in allowed, f"odml: {name} must be one of {', '.join(allowed)}, got {value!r}")
        state = self.random_state
        require(_whole(state) and state >= 0, f"odml: random_state must be a whole number >= 0, got {state!r}")


def _whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


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
    """One metric M (d, d), and the L with L'L = M that carries rows to where Euclid measures it."""

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


def through(rows: FloatArray, roots: Sequence[FloatArray], activation: str) -> list[FloatArray]:
    """What goes into each layer and out of the last, n + 1 arrays (N, d): rows, z_1, ..., z_n."""
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

    triplet (3, d): rows x, p, q as they came in.
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


class _Stream:
    """The latest row of each class, in the order of their coming. Rows as they came in: layers change, those do not."""

    def __init__(self) -> None:
        self._latest: dict[Hashable, FloatArray] = {}

    def triplet(self, row: FloatArray, label: Hashable) -> FloatArray | None:
        """(3, d): the row, the latest of its class, the latest of another. None while there is no such."""
        same = self._latest.pop(label, None)
        # The last key is the latest one, and the row's own class is not among them now.
        other = next(reversed(self._latest.values()), None)
        self._latest[label] = row
        return None if same is None or other is None else np.stack([row, same, other])


class ODML:
    """A stack of online metric layers, as a transformer of rows (N, d) to rows (N, d) that Euclid compares.

    The settings are those of `OdmlConfig`. After learning: `layers_`, the first one first; `n_features_in_` = d;
    `n_triplets_`, those that were formed so far.
    """

    _defaults: ClassVar[OdmlConfig] = OdmlConfig()

    def __init__(
        self,
        n_layers: int = _defaults.n_layers,
        gamma: float = _defaults.gamma,
        step: str = _defaults.step,
        activation: str = _defaults.activation,
        strategy: str = _defaults.strategy,
        backward_rate: float = _defaults.backward_rate,
        penalty: float = _defaults.penalty,
        n_scans: int = _defaults.n_scans,
        random_state: int = _defaults.random_state,
    ) -> None:
        # Stored as they are and checked by `fit`: scikit-learn's clones and searches build on that.
        self.n_layers = n_layers
        self.gamma = gamma
        self.step = step
        self.activation = activation
        self.strategy = strategy
        self.backward_rate = backward_rate
        self.penalty = penalty
        self.n_scans = n_scans
        self.random_state = random_state

    # ---------------------------------------------------------------------------------------------------- learning

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> ODML:
        """Learn anew: the first scan in the order given (shuffle rows that are sorted), others in random orders."""
        config = self._config()
        rows, labels = self._checked(X, y, None)
        if len(set(labels)) < 2:
            raise ArrayError(f"odml: fit needs rows of at least 2 classes, got {len(rows)} of one class, {labels[0]!r}")
        self._begin(rows.shape[1], config)
        rng = np.random.default_rng(config.random_state)
        self._learn(rows, labels, config)
        for _ in range(config.n_scans - 1):
            order = rng.permutation(len(rows))
            self._learn(rows[order], [labels[i] for i in order], config)
        return self

    def partial_fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> ODML:
        """Go on with these rows (N, d) and labels (N,), in one scan; rows of a class of its own wait for others."""
        config = self._config()
        rows, labels = self._checked(X, y, getattr(self, "n_features_in_", None))
        if not hasattr(self, "layers_"):
            self._begin(rows.shape[1], config)
        self._learn(rows, labels, config)
        return self

    def partial_fit_triplets(self, triplets: npt.ArrayLike) -> ODML:
        """Go on with triplets (N, 3, d) that are known without labels: rows x, p like x, q unlike x."""
        config = self._config()
        rows = self._tuples(triplets, 3)
        if not hasattr(self, "layers_"):
            self._begin(rows.shape[2], config)
        for triplet in rows:
            self._learn_one(triplet, config)
        return self

    def _config(self) -> OdmlConfig:
        return OdmlConfig(**self.get_params())

    def _begin(self, size: int, config: OdmlConfig) -> None:
        self.n_features_in_ = size
        self.layers_ = [MetricLayer(size) for _ in range(config.n_layers)]
        self.n_triplets_ = 0
        self._stream = _Stream()

    def _learn(self, rows: FloatArray, labels: Sequence[Hashable], config: OdmlConfig) -> None:
        for row, label in zip(rows, labels, strict=True):
            triplet = self._stream.triplet(row, label)
            if triplet is not None:
                self._learn_one(triplet, config)

    def _learn_one(self, triplet: FloatArray, config: OdmlConfig) -> None:
        self.n_triplets_ += 1
        if config.strategy != "backward":
            self._forward(triplet, config)
        if config.strategy != "forward":
            self._backward(triplet, config)

    def _forward(self, triplet: FloatArray, config: OdmlConfig) -> None:
        """Each layer learns from what the one before, already updated, makes of the triplet."""
        function, _ = ACTIVATIONS[config.activation]
        for number, layer in enumerate(self.layers_, start=1):
            layer.update(triplet, config.gamma, config.step)
            if number < len(self.layers_):
                triplet = function(triplet @ layer.root.T)

    def _backward(self, triplet: FloatArray, config: OdmlConfig) -> None:
        """A gradient step on half the triplet loss behind the last layer plus penalty / 2 |L|^2 of every layer."""
        roots = [layer.root for layer in self.layers_]
        loss, gradients = triplet_gradients(triplet, roots, config.activation)
        if config.backward_rate == 0.0 or (loss == 0.0 and config.penalty == 0.0):
            return
        for layer, root, gradient in zip(self.layers_, roots, gradients, strict=True):
            moved = root - config.backward_rate * (0.5 * gradient + config.penalty * root)
            if not np.isfinite(moved).all():
                raise ArrayError("odml: the metric is no longer finite; lower backward_rate")
            layer.set_root(moved)

    # ----------------------------------------------------------------------------------------------------- asking

    def transform(self, X: npt.ArrayLike) -> FloatArray:
        """Rows (N, d) to z_n (N, d), which Euclid compares."""
        self._check_fitted()
        return self._embedded(_unit(_rows(X, self.n_features_in_)))

    def fit_transform(self, X: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        return self.fit(X, y).transform(X)

    def score_pairs(self, pairs: npt.ArrayLike) -> FloatArray:
        """Distances (N,) of the two rows of each pair (N, 2, d) under the metric learned; small = alike."""
        self._check_fitted()
        rows = self._tuples(pairs, 2)
        difference = self._embedded(rows[:, 0]) - self._embedded(rows[:, 1])
        return np.asarray(np.linalg.norm(difference, axis=1))

    def _embedded(self, rows: FloatArray) -> FloatArray:
        return through(rows, [layer.root for layer in self.layers_], self._config().activation)[-1]

    def _check_fitted(self) -> None:
        if not hasattr(self, "layers_"):
            raise NotFittedError("odml: not fitted yet; call fit or partial_fit first")

    # -------------------------------------------------------------------------------------------------- estimator

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name. deep: there is nothing deeper."""
        return {name: getattr(self, name) for name in inspect.signature(ODML).parameters}

    def set_params(self, **params: Any) -> ODML:
        """Other settings from now on; `n_layers` from the next `fit` on."""
        known = self.get_params()
        for name in params:
            require(name in known, f"odml: {name} is unknown; known: {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn, and nobody else, asks for."""
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=True),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(),
        )

    # ----------------------------------------------------------------------------------------------------- checks

    def _checked(self, X: npt.ArrayLike, y: npt.ArrayLike, size: int | None) -> tuple[FloatArray, list[Hashable]]:
        rows = _unit(_rows(X, size))
        return rows, _labels(y, len(rows))

    def _tuples(self, values: npt.ArrayLike, n: int) -> FloatArray:
        """(N, n, d) with unit rows."""
        array = _numbers(values)
        if array.ndim != 3 or array.shape[1] != n:
            raise ArrayError(f"odml: expected an array (N, {n}, d), got one of shape {array.shape}")
        size: int | None = getattr(self, "n_features_in_", None)
        return _unit(_rows(array.reshape(-1, array.shape[2]), size)).reshape(array.shape)


def _rows(X: npt.ArrayLike, size: int | None) -> FloatArray:
    """(N, d) float64, finite, N and d at least 1, d = `size` where that is known."""
    rows = _numbers(X)
    if rows.ndim != 2:
        raise ArrayError(f"odml: expected rows (N, d), got an array of shape {rows.shape}. Reshape your data")
    if rows.shape[0] < 1:
        raise ArrayError(f"odml: 0 sample(s) (shape={rows.shape}) while a minimum of 1 is required.")
    if rows.shape[1] < 1:
        raise ArrayError(f"odml: 0 feature(s) (shape={rows.shape}) while a minimum of 1 is required.")
    if size is not None and rows.shape[1] != size:
        raise ArrayError(f"odml: X has {rows.shape[1]} features, but ODML is expecting {size} features as input")
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ArrayError(f"odml: row {bad[0]} holds NaN or inf; all values must be finite")
    return rows


def _numbers(values: npt.ArrayLike) -> FloatArray:
    if hasattr(values, "toarray"):
        raise ArrayError("odml: got a sparse matrix; rows must be dense: call its toarray()")
    array = np.asarray(values)
    if np.iscomplexobj(array):
        raise ArrayError(f"odml: Complex data not supported, got {array.dtype}")
    try:
        return np.asarray(array, np.float64)
    except ValueError as error:
        raise ArrayError(f"odml: rows must be numbers: {error}") from None


def _unit(rows: FloatArray) -> FloatArray:
    """Rows of length 1 along the last axis; rows of zeros stay."""
    # By the largest first: the square of a tiny number would be 0.
    largest = np.abs(rows).max(axis=-1, keepdims=True)
    scaled = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    return np.asarray(scaled / np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), 1.0))


def _labels(y: npt.ArrayLike | None, n: int) -> list[Hashable]:
    if y is None:
        raise ArrayError("odml: requires y to be passed, but the target y is None")
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != n:
        raise ArrayError(f"odml: expected one label for each of {n} rows, got an array of shape {labels.shape}")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ArrayError("odml: y holds NaN or inf; a label must be a number or a text")
    known: list[Hashable] = labels.tolist()
    return known
