"""A scikit-learn compatible estimator of online metric layers, learning from a stream of triplets.

One-pass triplets (1), forward and backward learning (4) of the package docstring.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from reid_training.data.points import (
    MetricDataError,
    NotFittedError,
    as_numbers,
    check_classes,
    checked_labels,
    checked_points,
)
from reid_training.methods.odml.config import OdmlConfig
from reid_training.methods.odml.layers import ACTIVATIONS, LAYERS, FloatArray, through, triplet_gradients, unit
from tracker.settings import require


class _Stream:
    """The latest row of each class, in order of arrival. Input rows are kept, because the layers change."""

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
    """A stack of online metric layers, as a transformer of rows (N, d) to (N, d), to be compared by Euclidean distance.

    The settings are those of `OdmlConfig`. After learning: `layers_`, the first one first; `n_features_in_` = d;
    `n_triplets_`, those that were formed so far.
    """

    _defaults: ClassVar[OdmlConfig] = OdmlConfig()

    def __init__(
        self,
        n_layers: int = _defaults.n_layers,
        layer: str = _defaults.layer,
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
        self.layer = layer
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
        """Learn from scratch: the first scan in the given order (shuffle sorted rows), the others in random orders."""
        config = self._config()
        rows, labels = self._checked(X, y, None)
        check_classes(len(set(labels)), len(rows))
        self._begin(rows.shape[1], config)
        rng = np.random.default_rng(config.random_state)
        self._learn(rows, labels, config)
        for _ in range(config.n_scans - 1):
            order = rng.permutation(len(rows))
            self._learn(rows[order], [labels[i] for i in order], config)
        return self

    def partial_fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> ODML:
        """Continue with these rows (N, d) and labels (N,), in one scan. A class with one row waits for others."""
        config = self._config()
        rows, labels = self._checked(X, y, getattr(self, "n_features_in_", None))
        if not hasattr(self, "layers_"):
            self._begin(rows.shape[1], config)
        self._learn(rows, labels, config)
        return self

    def partial_fit_triplets(self, triplets: npt.ArrayLike) -> ODML:
        """Continue with given triplets (N, 3, d): rows x, p of the class of x, q of another."""
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
        self.layers_ = [LAYERS[config.layer](size) for _ in range(config.n_layers)]
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
        """Each layer learns from the output of the layer before, which is already updated."""
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
                raise MetricDataError("odml: the metric is no longer finite; lower backward_rate")
            layer.set_root(moved)

    # -------------------------------------------------------------------------------------------------- inference

    def transform(self, X: npt.ArrayLike) -> FloatArray:
        """Rows (N, d) to z_n (N, d), to be compared by Euclidean distance."""
        self._check_fitted()
        return self._embedded(unit(checked_points(X, "X", "ODML", self.n_features_in_)))

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
        """The settings by name. deep: no effect, there are no nested estimators."""
        return {name: getattr(self, name) for name in inspect.signature(ODML).parameters}

    def set_params(self, **params: Any) -> ODML:
        """Other settings from now on; `n_layers` and `layer` from the next `fit` on."""
        known = self.get_params()
        for name in params:
            require(name in known, f"odml: {name} is unknown; known: {', '.join(known)}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """Tags for scikit-learn only."""
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=True),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(),
        )

    # ----------------------------------------------------------------------------------------------------- checks

    def _checked(self, X: npt.ArrayLike, y: npt.ArrayLike, size: int | None) -> tuple[FloatArray, list[Hashable]]:
        rows = unit(checked_points(X, "X", "ODML", size))
        return rows, checked_labels(y, len(rows), "ODML").tolist()

    def _tuples(self, values: npt.ArrayLike, n: int) -> FloatArray:
        """(N, n, d) with unit rows."""
        array = as_numbers(values, "X")
        if array.ndim != 3 or array.shape[1] != n:
            raise MetricDataError(f"odml: expected an array (N, {n}, d), got one of shape {array.shape}")
        size: int | None = getattr(self, "n_features_in_", None)
        return unit(checked_points(array.reshape(-1, array.shape[2]), "X", "ODML", size)).reshape(array.shape)
