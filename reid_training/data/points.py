"""Check and convert the points and classes given to an estimator; errors are one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reid_training.errors import DataError

FloatArray = npt.NDArray[np.float64]


class MetricDataError(DataError, ValueError):
    """Also a ValueError, which is what scikit-learn's tools expect of bad input."""


class NotFittedError(MetricDataError, AttributeError):
    """A method was called before `fit`."""


def as_numbers(X: Any, name: str) -> FloatArray:
    """A dense array of real numbers of any shape, float64. Objects raise numpy's TypeError: scikit-learn expects it."""
    if hasattr(X, "toarray"):
        raise MetricDataError(f"{name} is a sparse matrix; give a dense array, {name}.toarray()")
    try:
        raw = np.asarray(X)
        values = np.asarray(raw, dtype=np.float64) if not np.iscomplexobj(raw) else None
    except ValueError as error:
        raise MetricDataError(f"{name} must be numbers, rows of one length: {error}") from None
    if values is None:
        raise MetricDataError(f"Complex data not supported: {name} must be real numbers")
    return values


def checked_points(X: Any, name: str, estimator: str = "", n_features: int | None = None) -> FloatArray:
    """(n, p) finite float64, n and p at least 1; p = n_features, those that `estimator` was fitted to, if given."""
    points = as_numbers(X, name)
    if points.ndim != 2:
        raise MetricDataError(
            f"{name} must have two axes, samples and features, got shape {points.shape}. Reshape your data"
        )
    for axis, what in enumerate(("sample", "feature")):
        if points.shape[axis] == 0:
            raise MetricDataError(f"{name} has 0 {what}(s) (shape={points.shape}) while a minimum of 1 is required.")
    if n_features is not None and points.shape[1] != n_features:
        raise MetricDataError(
            f"{name} has {points.shape[1]} features, but {estimator} is expecting {n_features} features as input"
        )
    if not np.isfinite(points).all():
        row, column = np.argwhere(~np.isfinite(points))[0]
        raise MetricDataError(
            f"{name} has a value that is not finite (NaN or inf), the first in row {row}, column {column}"
        )
    return points


def checked_labels(y: Any, n: int, estimator: str) -> npt.NDArray[Any]:
    """One label for each of n points, (n,); numbers must be finite."""
    if y is None:
        raise MetricDataError(f"{estimator} requires y to be passed, but the target y is None")
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != n:
        raise MetricDataError(f"y must be one class per sample, {n} of them, got shape {labels.shape}")
    if labels.dtype.kind in "fc" and not np.isfinite(labels).all():
        raise MetricDataError("y has a value that is not finite (NaN or inf)")
    return labels


def check_classes(n_classes: int, n_points: int) -> None:
    """Raises MetricDataError for fewer than two classes."""
    if n_classes < 2:
        raise MetricDataError(
            f"y has 1 class in {n_points} sample{'s' * (n_points > 1)}; a metric needs at least 2 classes"
        )
