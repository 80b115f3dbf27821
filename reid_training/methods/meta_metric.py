"""Meta metric learner: a matching network whose last layer is fitted to each task by a learned update rule.

Few-shot Learning with Meta Metric Learners. Yu Cheng, Mo Yu, Xiaoxiao Guo, Bowen Zhou. NIPS 2017 Meta-Learning
workshop, https://arxiv.org/abs/1901.09890. Only its abstract and introduction were available to us; the equations,
with their numbers, are from summaries of the full text.
Optimization as a Model for Few-Shot Learning. Sachin Ravi, Hugo Larochelle. ICLR 2017,
https://openreview.net/forum?id=rJY0-Kcll: the learned rule.
Matching Networks for One Shot Learning. Oriol Vinyals, Charles Blundell, Timothy Lillicrap, Koray Kavukcuoglu, Daan
Wierstra. NIPS 2016, https://arxiv.org/abs/1606.04080: the learner.

What we take:
(1) The matching network: P(y|x) = sum over support items i of softmax_i(f(x) . f(x_i)) [y_i = y]. It does not depend
    on the number of classes, so tasks may differ in classes, and classes in shots.
(2) Its loss, -log P(y|x), on images of the task that no update has used.
(3, 4) Gradient descent as an LSTM cell, theta_t = f_t theta_(t-1) - i_t grad. One small network computes f and i of
    every coordinate from its gradient and the loss.
(5) theta_0, the initial weights, is learned too.
(6) First order: the gradients of the learner are constants when theta_0 and the rule are learned.
(7) In training, half of the images of a class update and the other half are queries.
(8) A task with one image in each class gives no gradient. Auxiliary tasks do: those whose own metric is most often
    right on the task's labelled images. Two stages: `fit` for each of them, `suited` for the task.
Where we differ:
(1) The plain variant alone, not the one with LSTMs over the support. By default f(x) . f(x_i) is a cosine times a
    scale, as in the matching network's own paper; the summaries of this one disagree.
(2) The inner loss leaves one item out at a time, where the paper draws a support and a batch: nothing is random, no
    item is its own neighbour, and all of a small set is used.
(3, 4) theta is the projection of our networks; all tasks share the body before it. So the rule keeps 20 numbers for
    each coordinate of theta only, and the batch norms of the body keep one set of statistics.
(5) The body learns together with the rule, by the same optimiser.
(8) The own metric of an auxiliary task is a last layer; the paper trains a network.
`embed` uses theta_0; `adapted` returns a network with the theta of one site.
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
from reid_training.nets.projected import ProjectedNet
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
    # "dot" is what a summary of the paper shows: long features win, and the same weights then read out far worse.
    similarity: Annotated[str, OneOf(SIMILARITIES)] = "cosine"
    scale: Positive = 16.0  # of the similarities; that of N-pair in `siamese`. 1 suits "dot"
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
        raise DataError("meta_metric: the class of a query is not in the support")
    # Through logarithms: a probability that rounds to 0 would have no gradient.
    return (sim.logsumexp(1) - sim.masked_fill(~same, -math.inf).logsumexp(1)).mean()


def left_out(emb: Tensor, labels: Tensor, kind: str = "dot", scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Every item against all others: emb (N, D), labels (N,).

    Returns similarities (A, N), -inf to the item itself, and a mask of the items of its class (A, N). A single item
    of a class is support, never a query. Raises DataError where every class has one item.
    """
    alike = mining.same_identity(labels)  # (N, N), without the diagonal
    is_query = alike.any(1)
    if not bool(is_query.any()):
        raise DataError("meta_metric: every class has one image: no pairs to fit to; an auxiliary set may help")
    sim = similarities(emb, emb, kind, scale)
    sim = sim.masked_fill(torch.eye(len(emb), dtype=torch.bool, device=emb.device), -math.inf)
    return sim[is_query], alike[is_query]


def left_out_loss(emb: Tensor, labels: Tensor, kind: str = "dot", scale: float = 1.0) -> Tensor:
    """The mean matching loss of `left_out`."""
    sim, alike = left_out(emb, labels, kind, scale)
    return (sim.logsumexp(1) - sim.masked_fill(~alike, -math.inf).logsumexp(1)).mean()


def left_out_accuracy(emb: Tensor, labels: Tensor, kind: str = "dot", scale: float = 1.0) -> float:
    """The share of queries of `left_out` whose own class is the most probable one."""
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
    """Numbers of any size as two of moderate size, the input of the rule: (P,) to (P, 2).

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
    """Equations 3 and 4 with learned gates: an LSTM, shared by all coordinates, and two gates over its state and theta.

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
    """Rows of (N,) for the updates and rows of queries, drawn by `rng`; without one in their order.

    Half of each class, rounded down, are queries. A single item is for the updates: the support has all classes.
    """
    order = torch.arange(len(labels)) if rng is None else torch.from_numpy(rng.permutation(len(labels)))
    order = order.to(labels.device)
    mine = labels[order]
    earlier = torch.tril(mine[:, None] == mine, diagonal=-1).sum(1)  # how many of the class come before, (N,)
    count = (mine[:, None] == mine).sum(1)
    is_query = earlier < count // 2
    return order[~is_query].sort().values, order[is_query].sort().values


class MetaMetric(Method):
    """theta is the weight of the projection. A batch is a task: its people are the classes."""

    def __init__(self, net: ProjectedNet, size: int, config: MetaMetricConfig) -> None:
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
            updates, queried = halves(labels, rng)
            support, queries = (pooled[updates], labels[updates]), (pooled[queried], labels[queried])
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
        """Indices of the `n` metrics (D, F) that suit a task best, best first.

        Each was fitted (`fit`) to an auxiliary task, which may stand in for this one. It is scored on labelled items of
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
        """A copy with its projection fitted to a task: pooled features (N, F) as `net.pooled` gives them, labels (N,).

        Raises DataError where every class has one image.
        """
        other = copy.deepcopy(self)
        with torch.no_grad():
            other.net.project.weight.copy_(self.fit(pooled, labels))
        return other
