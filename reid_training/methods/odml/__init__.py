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

File by file: `layers` the metric and stacks of it, `estimator` what learns and transforms, `config` its settings,
`checks` what comes in.
"""

from __future__ import annotations

from reid_training.methods.odml.checks import ArrayError, FloatArray, NotFittedError
from reid_training.methods.odml.config import STEPS, STRATEGIES, OdmlConfig
from reid_training.methods.odml.estimator import ODML
from reid_training.methods.odml.layers import ACTIVATIONS, MetricLayer, hinge, step_length, through, triplet_gradients

__all__ = [
    "ACTIVATIONS", "ODML", "STEPS", "STRATEGIES", "ArrayError", "FloatArray", "MetricLayer", "NotFittedError",
    "OdmlConfig", "hinge", "step_length", "through", "triplet_gradients",
]  # fmt: skip
