"""Online metric layers: Mahalanobis metrics learned in one pass over a stream, with non-linearities between them.

Online Deep Metric Learning. Wenbin Li, Jing Huo, Yinghuan Shi, Yang Gao, Lei Wang, Jiebo Luo. 2018,
https://arxiv.org/abs/1805.05510. Its third version, with Yanfang Liu: A Multilayer Framework for Online Metric
Learning. IEEE TNNLS 2023. We know the abstracts, a summary of the third version and an independent NumPy port.

What we take:
(1) One-pass triplets: each sample with the latest one of its class and the latest of another. Rows have unit length.
(2) A metric layer (MOML): min over M >= 0 of |M - M_t-1|^2 / 2 + gamma [1 + tr(M A)]_+ with
    A = (x - p)(x - p)' - (x - q)(x - q)'. Closed form: M_t = M_t-1 - gamma A where the triplet has a loss; M_0 = I.
(2b) Any other online metric learner can be the layer, which is the paper's point. Here also OPML (Li, Gao, Wang, Zhou,
    Huo, Shi. OPML: A One-Pass Closed-Form Solution for Online Metric Learning. 2016, arXiv 1609.09178): min over L of
    |L - L_t-1|^2 / 2 + gamma / 2 [1 + tr(L A L')]_+, hence L_t = L_t-1 (I + gamma A)^-1 where the triplet has a loss.
(3) A stack: z_i = f(L_i z_i-1) with L_i'L_i = M_i, and no non-linearity after the last layer.
(4) Forward learning: each layer learns from the output of the layer before. Backward learning: by the gradient of the
    triplet loss of z_n. Or both.
(5) Distances are Euclidean distances of z_n.
Where we differ:
(2) The exact step, min(gamma, loss / |A|^2), is an option: a step of gamma is too long where the loss is small.
    Negative eigenvalues of M are set to 0, as in the port.
(3) L is the symmetric square root, which moves coordinates as little as M allows. Other roots of nearly the same M are
    rotated against each other, and a ReLU would then cut different parts.
(4) "both" takes the closed form for the local losses, with equal weights, and a gradient step for the rest; after that
    L = U M^1/2 keeps its U.
(2b) A step is at most 1 / (2 |x - q|^2): I + gamma A is then positive definite also where rows are longer than 1, as
    behind the first layer. For unit rows and gamma up to 1/8 that changes nothing.
The first ReLU deletes half of the information of zero-mean rows: more than one layer needs rows that are not negative,
or tanh.

A scikit-learn compatible estimator in NumPy alone; scikit-learn is imported only when it calls the estimator.
Modules: `layers` one metric and a stack of them, `estimator` learns and transforms, `config` settings.
"""

from __future__ import annotations

from reid_training.methods.odml.config import STEPS, STRATEGIES, OdmlConfig
from reid_training.methods.odml.estimator import ODML
from reid_training.methods.odml.layers import (
    ACTIVATIONS,
    LAYERS,
    MetricLayer,
    OpmlLayer,
    hinge,
    step_length,
    through,
    triplet_gradients,
)

__all__ = [
    "ACTIVATIONS", "LAYERS", "ODML", "STEPS", "STRATEGIES", "MetricLayer", "OdmlConfig", "OpmlLayer", "hinge",
    "step_length", "through", "triplet_gradients",
]  # fmt: skip
