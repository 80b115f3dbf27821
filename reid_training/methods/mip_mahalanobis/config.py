"""What may be set of the mixed-integer metric, and the runs that chose each default."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reid_training.config import require

FORMS = ("diagonal", "full")


@dataclass(frozen=True, slots=True)
class MIPMahalanobisConfig:
    """Settings of `MIPMahalanobis`."""

    # Members of its class that a point gathers; 1 allows classes in many pieces. By the heuristic on moons and noise,
    # iris, wine (45 points each) and breast cancer (60), splits 100 to 111, 1-NN against Euclid: with 1 +13.7 +0.5 +2.4
    # -0.1, with 3 +14.3 +1.5 +2.0 +1.2; 5, in five splits, loses the moons (+1.5). With few points 1 is better: moons
    # with 4 to 44 of them 91.0 on average, 3 87.4.
    k: int = 1
    # Both first chosen on wine and breast cancer. Beside the splits above, and k = 3, mu 0.1 and 0.3 and margin 0.1 are
    # within chance of these; mu = 1 is 4 behind on moons, margin = 1 is 9. The comparison has other splits.
    mu: float = 0.02  # what bending space costs, in points given up; inf = Euclid
    margin: float = 0.3  # delta, of the median squared distance to the nearest point of another class
    form: str = "diagonal"  # of M; full has p (p + 1) / 2 unknowns
    time_limit_s: float = 10.0  # of the exact part, all subsamples together; 0 = the heuristic alone
    max_points: int = 60  # of one program; more are drawn into subsamples. HiGHS seldom closes the gap beyond 30
    n_subsamples: int = 4
    seed: int = 0  # of the subsamples

    def __post_init__(self) -> None:
        require(self.form in FORMS, f"mip_mahalanobis.form must be one of {', '.join(FORMS)}, got {self.form!r}")
        for name, least in (("k", 1), ("max_points", 4), ("n_subsamples", 1), ("seed", 0)):
            require(
                getattr(self, name) >= least, f"mip_mahalanobis.{name} must be >= {least}, got {getattr(self, name)}"
            )
        for name in ("mu", "time_limit_s"):
            require(getattr(self, name) >= 0, f"mip_mahalanobis.{name} must be >= 0, got {getattr(self, name)}")
        require(0 < self.margin < np.inf, f"mip_mahalanobis.margin must be > 0 and finite, got {self.margin}")
