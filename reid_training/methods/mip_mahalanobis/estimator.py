"""A scikit-learn compatible estimator of the metric; scikit-learn itself is not needed.

From the paper: fit a metric to few labelled points, then choose more points to label. Bounds and status are ours.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
from scipy.spatial.distance import cdist

from reid_training.data.points import MetricDataError, NotFittedError, check_classes, checked_labels, checked_points
from reid_training.methods.mip_mahalanobis.config import MIPMahalanobisConfig
from reid_training.methods.mip_mahalanobis.metric import FloatArray, IntArray, root
from reid_training.methods.mip_mahalanobis.problem import given_up, make_problem, reaches
from reid_training.methods.mip_mahalanobis.questions import (
    OUTLIER_SHARE,
    doubt_of,
    is_outlying,
    most_telling,
    mutual_nearest,
    thinned,
)
from reid_training.methods.mip_mahalanobis.solver import solve
from tracker.settings import require


class MIPMahalanobis:
    """The metric as scikit-learn's tools expect an estimator: fit, transform, get_params. See MIPMahalanobisConfig.

    After `fit`: metric_ (p, p), M of trace p; components_, its root: `transform` is X @ components_, and Euclid behind
    it the metric; status_, one of "optimal", "time limit", "limit of the solver's tolerance", "heuristic" and
    "subsamples"; value_ and bound_ of the objective, gap_ between them; given_up_ (n,) and radii_ (n,) of the points
    fitted on: the distance to the last neighbour that each needs.
    """

    _names: ClassVar[tuple[str, ...]] = tuple(field.name for field in fields(MIPMahalanobisConfig))

    def __init__(
        self,
        k: int = 1,
        mu: float = 0.02,
        margin: float = 0.3,
        form: str = "diagonal",
        time_limit_s: float = 10.0,
        max_points: int = 60,
        n_subsamples: int = 4,
        seed: int = 0,
    ) -> None:
        # Checked by `fit`: scikit-learn sets parameters one by one.
        self.k = k
        self.mu = mu
        self.margin = margin
        self.form = form
        self.time_limit_s = time_limit_s
        self.max_points = max_points
        self.n_subsamples = n_subsamples
        self.seed = seed

    def __repr__(self) -> str:
        return f"MIPMahalanobis({', '.join(f'{name}={getattr(self, name)!r}' for name in self._names)})"

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def set_params(self, **params: Any) -> MIPMahalanobis:
        for name, value in params.items():
            if name not in self._names:
                raise MetricDataError(f"MIPMahalanobis has no parameter {name!r}; it has {', '.join(self._names)}")
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        # Called by scikit-learn alone, which is then there.
        from sklearn.utils import Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="transformer",
            target_tags=TargetTags(required=True, single_output=True),
            transformer_tags=TransformerTags(),
        )

    def fit(self, X: Any, y: Any = None) -> MIPMahalanobis:
        """X (n, p) finite numbers, y (n,) classes of any kind, at least two of them."""
        config = MIPMahalanobisConfig(**self.get_params())
        points = checked_points(X, "X")
        self.classes_, labels = np.unique(checked_labels(y, len(points), "MIPMahalanobis"), return_inverse=True)
        check_classes(len(self.classes_), len(points))
        self.n_features_in_ = points.shape[1]
        problem, place, scale = make_problem(points, labels, config)
        found = solve(problem, config)
        self.metric_, self.components_ = found.metric, root(found.metric)
        self.value_, self.bound_, self.gap_, self.status_ = found.value, found.bound, found.gap, found.status
        own, _ = reaches(problem, found.metric)
        self.given_up_ = given_up(problem, found.metric)[place]
        self.radii_ = np.sqrt(own)[place] * scale
        self._points, self._labels = points, labels
        return self

    def transform(self, X: Any) -> FloatArray:
        """X (m, p). Returns (m, p), where Euclid is the metric."""
        points = self._checked(X)
        return np.asarray(points @ self.components_)

    def fit_transform(self, X: Any, y: Any = None) -> FloatArray:
        return self.fit(X, y).transform(X)

    def distances(self, X: Any, Y: Any) -> FloatArray:
        """X (n, p), Y (m, p). Returns (n, m), the metric itself, not its square."""
        return np.asarray(cdist(self.transform(X), self.transform(Y)))

    def recommend(self, pool: Any, n: int, outliers: float = OUTLIER_SHARE) -> IntArray:
        """Rows of the pool (m, p) that a person should label next, the most useful first, min(n, m) of them.

        A share `outliers` of them are far from everything that is labelled, or next to a labelled point that was given
        up, as long as there are such rows; the others settle most doubt, which is largest where the nearest labelled
        point and the nearest of another class are equally far. See `most_telling`. A pool of more than MOST_COMPARED
        rows is thinned.
        """
        points = self._checked(pool)
        require(n >= 1, f"recommend: n must be >= 1, got {n}")
        require(0.0 <= outliers <= 1.0, f"recommend: outliers must be in [0, 1], got {outliers}")
        n = min(n, len(points))
        rows = thinned(len(points), n)
        points = points[rows]
        to_labelled = self.distances(points, self._points)
        doubt = doubt_of(to_labelled, self._labels)
        outlying = is_outlying(to_labelled, self._spacing(), self.given_up_)
        chosen = most_telling(self.distances(points, points), to_labelled.min(1), doubt, outlying, n, outliers)
        return rows[chosen]

    def segments(self) -> IntArray:
        """Rows (s, 2) of the points fitted on that are each other's nearest of another class: a boundary runs between.

        With the balls of `radii_` round the points given up, where to look for further points if there is no pool.
        """
        self._check_fitted()
        dist = self.distances(self._points, self._points)
        dist[self._labels[:, None] == self._labels] = np.inf
        return mutual_nearest(dist)

    def _spacing(self) -> FloatArray:
        """How far each labelled point is from the nearest other one, (n,)."""
        among = self.distances(self._points, self._points)
        np.fill_diagonal(among, np.inf)
        return np.asarray(among.min(1))

    def _check_fitted(self) -> None:
        if not hasattr(self, "metric_"):
            raise NotFittedError("MIPMahalanobis has no metric yet; call fit first")

    def _checked(self, X: Any) -> FloatArray:
        self._check_fitted()
        return checked_points(X, "X", "MIPMahalanobis", self.n_features_in_)
