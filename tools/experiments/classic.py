"""Well-known batch metric learners beside ours: NCA of scikit-learn; LMNN and ITML of metric-learn.

Neighbourhood Components Analysis. Goldberger, Hinton, Roweis, Salakhutdinov. NIPS 2004. Distance Metric Learning for
Large Margin Nearest Neighbor Classification. Weinberger, Saul. JMLR 2009. Information-Theoretic Metric Learning.
Davis, Kulis, Jain, Sra, Dhillon. ICML 2007. All with their libraries' own settings. metric-learn 0.7 calls scikit-learn
with an argument that its version 1.8 removed, and is therefore in no extra: `pip install metric-learn
"scikit-learn<1.8"`.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from reid_training.data.base import IntArray

FloatArray = npt.NDArray[np.float64]
NEIGHBOURS = 3  # of LMNN, its default; fewer where a class is smaller


def available() -> tuple[str, ...]:
    """Names of the learners that are installed in versions that work together; one message for those that are not."""
    try:
        import sklearn
    except ModuleNotFoundError:
        found: tuple[str, ...] = ()
    else:
        old = tuple(int(part) for part in sklearn.__version__.split(".")[:2]) < (1, 8)
        found = ("NCA", "LMNN", "ITML") if old and _has_metric_learn() else ("NCA",)
    missing = [name for name in ("NCA", "LMNN", "ITML") if name not in found]
    if missing:
        print(
            f"experiments: the rows of {', '.join(missing)} are left out; "
            'they need pip install metric-learn "scikit-learn<1.8"',
            file=sys.stderr,
        )
    return found


def _has_metric_learn() -> bool:
    try:
        import metric_learn  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def fitted(name: str, rows: FloatArray, labels: IntArray, seed: int) -> FloatArray:
    """A transform L (d, d) of a learner of `available`, for rows (N, d) and labels (N,); compare L x by Euclid."""
    model: Any
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that did not converge, and of a library's own library
        if name == "NCA":
            from sklearn.neighbors import NeighborhoodComponentsAnalysis

            model = NeighborhoodComponentsAnalysis(random_state=seed)
        elif name == "LMNN":
            from metric_learn import LMNN

            smallest = int(np.bincount(labels)[np.unique(labels)].min())
            model = LMNN(n_neighbors=max(1, min(NEIGHBOURS, smallest - 1)), random_state=seed)
        else:
            from metric_learn import ITML_Supervised

            model = ITML_Supervised(random_state=seed)
        return np.asarray(model.fit(rows, labels).components_, np.float64)
