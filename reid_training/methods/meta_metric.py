"""Meta metric learner: a matching network whose last layer is fitted to each task by a learned update rule.

Few-shot Learning with Meta Metric Learners. Yu Cheng, Mo Yu, Xiaoxiao Guo, Bowen Zhou. NIPS 2017 Meta-Learning
workshop, https://arxiv.org/abs/1901.09890. Only its abstract and introduction were available to us: the equations are
from digests of the full text. Optimization as a Model for Few-Shot Learning. Sachin Ravi, Hugo Larochelle. ICLR 2017:
the learned rule. Matching Networks for One Shot Learning. Vinyals et al. NIPS 2016, arXiv 1606.04080: the learner.

What we take: (1) the matching network, P(y|x) = sum over support items of softmax_i(f(x) . f(x_i)) [y_i = y], which no
number of classes touches: tasks may differ in classes, and classes in shots; (2) its loss, -log P(y|x), on images of
the task that no step has seen; (3, 4) gradient descent read as an LSTM cell, theta_t = f_t theta_(t-1) - i_t grad,
with one small network giving f and i for every coordinate, from its own gradient and the loss; (5) theta_0, the first
weights, is learned too; (6) first order: the gradients of the learner are constants where theta_0 is learned and the
rule; (7) in training, half of a class's images update and half judge; (8) where the task itself gives no gradient (one
image for each class), an auxiliary set of other tasks does: those whose own metric is right most often on the labelled
images of the task, in two stages, `fit` for each of them and `suited` for the task.
Where we differ: theta is the projection of our networks, and the body before it is shared by all tasks: the rule's
memory is 20 numbers for each coordinate, and the body's batch norms keep one set of statistics. The inner loss leaves
one item out at a time, the paper draws a support and a batch: nothing is random, no item is its own neighbour, and all
of a small set is used. The body learns with the rule, in one optimiser, that of the run. The plain variant alone, not
the one with LSTMs over the support. The own metric of an auxiliary task is a last layer, the paper trains a network.

`embed` uses theta_0. For a place, `adapted` gives a network with the theta of that place: `reid adapt` does so.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from reid_training import mining
from reid_training.errors import DataError
from reid_training.methods.base import Loss, Method, check_batch
from reid_training.nets.heads import unit_rows
from reid_training.nets.layers import PooledNet
from tracker.settings import Count, OneOf, Positive, Settings, Whole

RULES = ("learned", "sgd")
SIMILARITIES = ("dot", "cosine")
FLATTEST = 10.0  # p of `preprocessed`, Ravi and Larochelle's


@dataclass(frozen=True, slots=True)
class MetaMetricConfig(Settings):
    """Settings of `MetaMetric`."""

    steps: Whole = 5  # T; ours, where a recipe for 5 classes with 5 images takes 8. 0 = a matching network
    rule: Annotated[str, OneOf(RULES)] = "learned"  # or "sgd": plain fine-tuning from a theta_0 that is trained for it
    rate: Positive = 0.01  # of sgd; where the learned rule starts: sigmoid(-4.5)
    # The digests' equation; the matching network's own paper has "cosine", as a tracker does.
    similarity: Annotated[str, OneOf(SIMILARITIES)] = "dot"
    scale: Positive = 1.0  # of the similarities; cosines need one, 16 is that of N-pair in `siamese`
    hidden: Count = 20  # of the rule's LSTM; Ravi and Larochelle's, by a public port


# The matching network


def similarities(queries: Tensor, support: Tensor, kind: str = "dot", scale: float = 1.0) -> Tensor:
    """queries (Q, D), support (S, D). Returns (Q, S)."""
    if kind == "cosine":
        queries, support = unit_rows(queries), unit_rows(support)
    return scale * (queries @ support.T)


def class_probabilities(sim: Tensor, support_labels: Tensor, n_classes: int) -> Tensor:
    """Equation 1: softmax over the support *items*, summed within each class. sim (Q, S) to (Q, n_classes).

    support_labels (S,) in 0 .. n_classes - 1; a class with more items is likelier, as it is in the paper.
    """
    weights = F.softmax(sim, dim=1)  # (Q, S), rows sum to 1
    return sim.new_zeros(len(sim), n_classes).index_add_(1, support_labels, weights)


def matching_loss(sim: Tensor, query_labels: Tensor, support_labels: Tensor) -> Tensor:
    """Equation 2, as a loss: the mean of -log P(y|x). sim (Q, S), any labels (Q,) and (S,).

    Every query's class must be in the support.
    """
    same = query_labels[:, None] == support_labels
    if not bool(same.any(1).all()):
        raise DataError("meta_metric: a query shows a class that the support lacks")
    # Through logarithms: a probability that rounds to 0 would have no gradient.
    return (sim.logsumexp(1) - sim.masked_fill(~same, -math.inf).logsumexp(1)).mean()


def left_out(emb: Tensor, labels: Tensor, kind: str = "dot", scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Every item against all others: emb (N, D), labels (N,).

    Returns similarities (A, N), -inf to oneself, and which of the items are of the same class (A, N). Who is alone in
    his class is in the others' support, and no query. Raises DataError where all are.
    """
    alike = mining.same_identity(labels)  # (N, N), without the diagonal
    asked = alike.any(1)
    if not bool(asked.any()):
        raise DataError("meta_metric: every class has one image: there is nothing to fit to; an auxiliary set may help")
    sim = similarities(emb, emb, kind, scale)
    sim = sim.masked_fill(torch.eye(len(emb), dtype=torch.bool, device=emb.device), -math.inf)
    return sim[asked], alike[asked]


def left_out_loss(emb: Tensor, labels: Tensor, kind: str = "dot", scale: float = 1.0) -> Tensor:
    """The mean matching loss of `left_out`."""
    sim, alike = left_out(emb, labels, kind, scale)
    return (sim.logsumexp(1) - sim.masked_fill(~alike, -math.inf).logsumexp(1)).mean()


def left_out_accuracy(emb: Tensor, labels: Tensor, kind: str = "dot", scale: float = 1.0) -> float:
    """The share of `left_out` whose class is the most probable one."""
    sim, alike = left_out(emb, labels, kind, scale)
    classes, places = torch.unique(labels, return_inverse=True)
    guesses = class_probabilities(sim, places, len(classes)).argmax(1)
    return float(((places == guesses[:, None]) & alike).any(1).float().mean())


# The update rules


class Rule(Protocol):
    """theta (P,), its gradient (P,), the loss () and what the rule remembers to the next theta and memory."""

    def start(self, theta: Tensor) -> Any: ...

    def __call__(self, theta: Tensor, gradient: Tensor, loss: Tensor, memory: Any) -> tuple[Tensor, Any]: ...


def gated_step(theta: Tensor, gradient: Tensor, forget: Tensor, learn: Tensor) -> Tensor:
    """Equations 3 and 4: f theta - i grad, coordinate by coordinate, all (P,).

    One fused operation, the one of torch's SGD: with f = 1 and i = eta the step is that of SGD(eta) to the bit.
    """
    return torch.addcmul(forget * theta, learn, gradient, value=-1.0)


def preprocessed(values: Tensor) -> Tensor:
    """Numbers of any size as two of moderate size: (P,) to (P, 2).

    (log|x| / p, sign x) where |x| >= e^-p, else (-1, e^p x), with p = 10.

    References: Ravi and Larochelle 2017 (see above), after Learning to learn by gradient descent by gradient descent.
        Andrychowicz et al. NIPS 2016, https://arxiv.org/abs/1606.04474, appendix A.
    """
    size = values.abs()
    large = size >= math.exp(-FLATTEST)
    logs = size.clamp_min(math.exp(-FLATTEST)).log() / FLATTEST
    first = torch.where(large, logs, -torch.ones_like(values))
    second = torch.where(large, values.sign(), math.exp(FLATTEST) * values)
    return torch.stack([first, second], dim=1)


class FixedRule:
    """f = 1 and i = rate: plain gradient descent."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def start(self, theta: Tensor) -> None:
        return None

    def __call__(self, theta: Tensor, gradient: Tensor, loss: Tensor, memory: None) -> tuple[Tensor, None]:
        return gated_step(theta, gradient, torch.ones_like(theta), torch.full_like(theta, self.rate)), None


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the learned rule, for each of P coordinates."""

    hidden: Tensor  # (P, H)
    cell: Tensor  # (P, H)
    forget: Tensor  # (P,) the last gates
    learn: Tensor  # (P,)


class LearnedRule(nn.Module):
    """The meta-learner: an LSTM, the same for all coordinates, and two gates over its state, theta and the last gate.

    First weights as in a public port of Ravi and Larochelle's: within 0.01 of zero, the gates' biases in 4 .. 6 and
    -5 .. -4. It starts as gradient descent with a rate of about 0.01.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, hidden)
        self.forget = nn.Linear(hidden + 2, 1)
        self.learn = nn.Linear(hidden + 2, 1)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.01, 0.01)
        nn.init.uniform_(self.forget.bias, 4.0, 6.0)
        nn.init.uniform_(self.learn.bias, -5.0, -4.0)

    def start(self, theta: Tensor) -> Memory:
        zeros = theta.new_zeros(len(theta))
        state = theta.new_zeros(len(theta), self.cell.hidden_size)
        return Memory(state, state, zeros, zeros)

    def forward(self, theta: Tensor, gradient: Tensor, loss: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        seen = torch.cat([preprocessed(loss.reshape(1)).expand(len(theta), 2), preprocessed(gradient)], dim=1)  # (P, 4)
        hidden, cell = self.cell(seen, (memory.hidden, memory.cell))
        forget = _gate(self.forget, hidden, theta, memory.forget)
        learn = _gate(self.learn, hidden, theta, memory.learn)
        return gated_step(theta, gradient, forget, learn), Memory(hidden, cell, forget, learn)


def _gate(layer: nn.Linear, hidden: Tensor, theta: Tensor, last: Tensor) -> Tensor:
    gate: Tensor = torch.sigmoid(layer(torch.cat([hidden, theta[:, None], last[:, None]], dim=1)))
    return gate[:, 0]


def fitted(theta: Tensor, inner_loss: Callable[[Tensor], Tensor], rule: Rule, steps: int) -> Tensor:
    """theta after `steps` updates; any shape. The gradient of the result reaches theta and the rule's weights.

    It never passes through the gradients of `inner_loss`, which are constants: first order.
    """
    shape, flat = theta.shape, theta.reshape(-1)
    memory = rule.start(flat)
    for _ in range(steps):
        value, gradient = _value_and_gradient(flat.reshape(shape), inner_loss)
        flat, memory = rule(flat, gradient.reshape(-1), value, memory)
    return flat.reshape(shape)


def _value_and_gradient(theta: Tensor, inner_loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        point = theta.detach().requires_grad_()
        value = inner_loss(point)
        (gradient,) = torch.autograd.grad(value, point)
    return value.detach(), gradient


# Tasks


def halves(labels: Tensor, rng: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Rows of (N,) that update and rows that judge, drawn by `rng`; without one in their order.

    Half of every class judges, the odd one updates. Who is alone updates: nobody is asked whom the task has not shown.
    """
    order = torch.arange(len(labels)) if rng is None else torch.from_numpy(rng.permutation(len(labels)))
    order = order.to(labels.device)
    mine = labels[order]
    earlier = torch.tril(mine[:, None] == mine, diagonal=-1).sum(1)  # how many of the class come before, (N,)
    count = (mine[:, None] == mine).sum(1)
    judges = earlier < count // 2
    return order[~judges].sort().values, order[judges].sort().values


class MetaMetric(Method):
    """theta is the weight of the projection. A batch is a task: its people are the classes."""

    def __init__(self, net: PooledNet, size: int, config: MetaMetricConfig) -> None:
        super().__init__()
        self.net = net
        self.config = config
        self.size = size
        learned = config.steps > 0 and config.rule == "learned"
        self.rule: Rule = LearnedRule(config.hidden) if learned else FixedRule(config.rate)

    def embed(self, images: Tensor) -> Tensor:
        return unit_rows(self.net(images).float())

    def loss(self, images: Tensor, labels: Tensor, rng: np.random.Generator | None = None) -> Loss:
        check_batch("meta_metric", images, labels)
        pooled = self.net.pooled(images).float()  # (B, F)
        with torch.autocast(pooled.device.type, enabled=False):
            updates, judges = halves(labels, rng)
            support, queries = (pooled[updates], labels[updates]), (pooled[judges], labels[judges])
            # People with two images leave one to learn from: such a batch trains the matching network alone.
            fits = len(torch.unique(support[1])) < len(support[1])
            theta = self.fit(*support) if fits else self.net.project.weight
            value, accuracy = self.judge(theta, *support, *queries)
            emb = unit_rows(F.linear(pooled, self.net.project.weight))
        return Loss(value, {"matching": float(value.detach()), "episode_accuracy": accuracy}, emb)

    def fit(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """theta_T (D, F) from pooled features (N, F) of a task, or of its auxiliary set, with their labels (N,)."""
        constant = pooled.detach()
        kind, scale = self.config.similarity, self.config.scale

        def inner_loss(theta: Tensor) -> Tensor:
            return left_out_loss(F.linear(constant, theta), labels, kind, scale)

        return fitted(self.net.project.weight, inner_loss, self.rule, self.config.steps)

    def judge(
        self, theta: Tensor, support: Tensor, support_labels: Tensor, queries: Tensor, query_labels: Tensor
    ) -> tuple[Tensor, float]:
        """Matching loss and accuracy of queries (Q, F) among a support (S, F), both pooled features, under theta."""
        emb = F.linear(queries, theta), F.linear(support, theta)
        sim = similarities(*emb, self.config.similarity, self.config.scale)
        value = matching_loss(sim, query_labels, support_labels)
        classes, places = torch.unique(support_labels, return_inverse=True)
        guesses = classes[class_probabilities(sim.detach(), places, len(classes)).argmax(1)]
        return value, float((guesses == query_labels).float().mean())

    def suited(self, metrics: Sequence[Tensor], pooled: Tensor, labels: Tensor, n: int) -> list[int]:
        """Places of the `n` metrics (D, F) that suit a task best, best first.

        Each was fitted (`fit`) to an auxiliary task, which may stand in for this one. It is judged on labelled items of
        the task, pooled features (N, F) and labels (N,), each among all others: by accuracy, then by the loss. Where
        every class has one image, a changed copy of each makes two.
        """
        kind, scale = self.config.similarity, self.config.scale

        def rank(place: int) -> tuple[float, float]:
            emb = F.linear(pooled, metrics[place])
            return -left_out_accuracy(emb, labels, kind, scale), float(left_out_loss(emb, labels, kind, scale))

        with torch.no_grad():
            return sorted(range(len(metrics)), key=rank)[:n]

    def adapted(self, pooled: Tensor, labels: Tensor) -> MetaMetric:
        """A copy whose projection is fitted to a task: pooled features (N, F) as `net.pooled` gives them, labels (N,).

        Raises DataError where every class has one image.
        """
        other = copy.deepcopy(self)
        with torch.no_grad():
            other.net.project.weight.copy_(self.fit(pooled, labels))
        return other
