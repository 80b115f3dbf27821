"""Constraint rows shared by the linear and the mixed-integer program, over (theta, t, others).

theta: the q unknowns of M; t >= |theta - identity|, their sum is the distortion; others: further variables.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array, hstack, vstack

from reid_training.methods.mip_mahalanobis.metric import FloatArray, Unknowns

FIRST_IMPOSTORS = 5  # rows of the first program, per point: further ones come where they are violated


def bending_rows(unknowns: Unknowns, n_others: int) -> tuple[csr_array, FloatArray]:
    """t >= |theta - identity| as rows over (theta, t, n_others), with their lower bounds."""
    q = len(unknowns.times())
    eye, rest = csr_array(np.eye(q)), csr_array((q, n_others))
    identity = unknowns.vector(np.eye(unknowns.p))
    rows = vstack([hstack([-eye, eye, rest]), hstack([eye, eye, rest])])
    return rows, np.concatenate([-identity, identity])


def psd_rows(unknowns: Unknowns, directions: FloatArray, n_others: int) -> csr_array:
    """v' M v over (theta, t, n_others); the same factors as a distance along v."""
    return csr_array(np.pad(unknowns.coefficients(directions), ((0, 0), (0, len(unknowns.times()) + n_others))))


def trace_row(unknowns: Unknowns, n_others: int) -> csr_array:
    on_diagonal = unknowns.vector(np.eye(unknowns.p))
    return csr_array(np.pad(on_diagonal, (0, len(on_diagonal) + n_others))[None])
