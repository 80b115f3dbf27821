"""Check and convert the points and classes given to an estimator; errors are one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reid_training.data.base import IntArray
from reid_training.errors import DataError

FloatArray = npt.NDArray[np.float64]


class MetricDataError(DataError, ValueError):
    """Also a ValueError, which is what scikit-learn's tools expect of bad input."""


class NotFittedError(MetricDataError, AttributeError):
    """A method was called before `fit`."""


def checked_points(X: Any, name: str) -> FloatArray:
    """(n, p) finite float64."""
    if hasattr(X, "toarray"):
        raise MetricDataError(f"{name} is a sparse matrix; give a dense array, {name}.toarray()")
    try:
        raw = np.asarray(X)
        if np.iscomplexobj(raw):
            raise MetricDataError(f"Complex data not supported: {name} must be real numbers")
        points = np.asarray(raw, dtype=np.float64)
    except (TypeError, ValueError) as error:
        if isinstance(error, MetricDataError):
            raise
        raise MetricDataError(f"{name} must be numbers, rows of one length: {error}") from None
    if points.ndim != 2:
        raise MetricDataError(
            f"{name} must have two axes, samples and features, got shape {points.shape}. Reshape your data"
        )
    for axis, what in enumerate(("sample", "feature")):
        if points.shape[axis] == 0:
            raise MetricDataError(f"{name} has 0 {what}(s) (shape={points.shape}) while a minimum of 1 is required.")
    if not np.isfinite(points).all():
        row, column = np.argwhere(~np.isfinite(points))[0]
        raise MetricDataError(
            f"{name} has a value that is not finite (NaN or inf), the first in row {row}, column {column}"
        )
    return points


def checked_labels(y: Any, points: FloatArray) -> tuple[npt.NDArray[Any], IntArray]:
    """The classes, and the number of each point's (n,)."""
    if y is None:
        raise MetricDataError("MIPMahalanobis requires y to be passed, but the target y is None")
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != len(points):
        raise MetricDataError(f"y must be one class per sample, {len(points)} of them, got shape {labels.shape}")
    if labels.dtype.kind in "fc" and not np.isfinite(labels).all():
        raise MetricDataError("y has a value that is not finite (NaN or inf)")
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise MetricDataError(
            f"y has 1 class in {len(labels)} sample{'s' * (len(labels) > 1)}; a metric needs at least 2 classes"
        )
    return classes, numbers.astype(np.int64)
