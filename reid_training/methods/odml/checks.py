"""Check and convert rows and labels; errors are one line.

Rows are scaled to unit length, as in the paper; rows of zeros are kept.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import numpy.typing as npt

from reid_training.errors import DataError

FloatArray = npt.NDArray[np.float64]


class ArrayError(DataError, ValueError):
    """Rows or labels that nothing can be learned from. A ValueError too: that is what scikit-learn expects."""


class NotFittedError(ArrayError, AttributeError):
    """A method was called that needs a fitted estimator."""


def numeric_rows(X: npt.ArrayLike, size: int | None) -> FloatArray:
    """(N, d) float64, finite, N and d at least 1, d = `size` where that is known."""
    rows = numbers(X)
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


def numbers(values: npt.ArrayLike) -> FloatArray:
    if hasattr(values, "toarray"):
        raise ArrayError("odml: got a sparse matrix; rows must be dense: call its toarray()")
    array = np.asarray(values)
    if np.iscomplexobj(array):
        raise ArrayError(f"odml: Complex data not supported, got {array.dtype}")
    try:
        return np.asarray(array, np.float64)
    except ValueError as error:
        raise ArrayError(f"odml: rows must be numbers: {error}") from None


def unit(rows: FloatArray) -> FloatArray:
    """Rows of length 1 along the last axis; rows of zeros stay."""
    # By the largest first: the square of a tiny number would be 0.
    largest = np.abs(rows).max(axis=-1, keepdims=True)
    scaled = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    return np.asarray(scaled / np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), 1.0))


def checked_labels(y: npt.ArrayLike | None, n: int) -> list[Hashable]:
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
