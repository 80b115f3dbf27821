"""Large margin few-shot learning: a margin between classes added to the softmax loss of a few-shot classifier.

Large Margin Few-Shot Learning. Yong Wang, Xiao-Ming Wu, Qimai Li, Jiatao Gu, Wangmeng Xiang, Lei Zhang, Victor O.K.
Li. 2018, https://arxiv.org/abs/1807.02872; short version: Large Margin Meta-Learning for Few-Shot Classification.
NeurIPS 2018 workshop on meta-learning.
Prototypical Networks for Few-shot Learning. Jake Snell, Kevin Swersky, Richard Zemel. NIPS 2017,
https://arxiv.org/abs/1703.05175: the base `prototypes`.
Few-Shot Learning with Graph Neural Networks. Victor Garcia, Joan Bruna. ICLR 2018, https://arxiv.org/abs/1711.04043:
the base `graph`.

What we take:
(1) total = softmax loss of the base + `margin_weight` * large-margin distance loss; the latter has no parameters.
(2) Base `prototypes`: a softmax over the negative squared distances of a query to the class means.
(3) Base `graph`: the nodes are the support images and one query, each an embedding and a one-hot label (zeros for the
    query). Two layers with learned edges append to the nodes; a last layer classifies the query.
Where we differ:
(1) The formula of the distance loss was not available to us. Ours is a **reconstruction**: the triplet loss over all
    triplets of an episode, on squared distances. Where it acts (`margin_on`), its margin and weight are ours too.
(2) The rows have unit length, times a scale that acts as a temperature, because a tracker compares by cosine. Scale 0
    leaves them free, as both bases do.
(3) A node has no edge to itself; it has no weight in the original either. The last layer computes only the query's
    edges, since no other is read there, so its batch norms see fewer edges.

A batch of P identities with K images is one episode, or several (`way`). The first `shots` images of each identity are
the support, the others are queries. One pass embeds them all, as in the public code of prototypical networks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from reid_training import distances, losses, mining
from reid_training.methods.base import Loss, Method, check_batch
from reid_training.nets.heads import unit_rows
from tracker.settings import Count, NotNegative, OneOf, Positive, Settings, require

BASES = ("prototypes", "graph")
MARGIN_ON = ("prototypes", "items", "nodes")
squared_distances = torch.vmap(distances.squared_euclidean)  # a (E, A, D), b (E, B, D) to (E, A, B)


@dataclass(frozen=True, slots=True)
class LargeMarginFewShotConfig(Settings):
    """Settings of `LargeMarginFewShot`."""

    base: Annotated[str, OneOf(BASES)] = "prototypes"  # the few-shot classifier that gets a margin
    shots: Count = 1  # support images of an identity, K of "K-shot"; its other images in the batch are queries
    # Identities of an episode, N of "N-way": a batch is divided into episodes of at most that many. 0 = all of the
    # batch, for prototypes alone: a graph has an output for each.
    way: int = 0
    # Of squared distances between unit rows: 16 spreads the logits of two classes by up to 64. Ours. 0 = free features.
    scale: NotNegative = 16.0
    margin_weight: NotNegative = 1.0  # lambda; 0 = the base. The paper's was not available to us
    margin: Positive = 5.0  # m, of squared distances, in the scale of the features; the paper's was not available to us
    # What is compared. prototypes: a query's embedding with the means of the classes; items: all embeddings of the
    # episode with each other; nodes: the query's node before the last layer of a graph with the nodes of the others.
    margin_on: Annotated[str, OneOf(MARGIN_ON)] = "prototypes"
    active_only: bool = False  # the mean over violated triplets instead of over all of them
    hidden: int = 96  # of a graph: channels of a layer's edges; half as many are appended to the nodes. Garcia's

    def check_together(self) -> None:
        is_graph = self.base == "graph"
        require(is_graph or self.margin_on != "nodes", "method.margin_on = nodes needs method.base = graph")
        # An odd number of identities, divided into episodes of two, would leave an episode of one.
        require(
            self.way >= 3 or (self.way == 0 and not is_graph),
            f"method.way must be >= 3{'' if is_graph else ', or 0 for all of a batch'}, got {self.way}",
        )
        require(self.hidden >= 2 and self.hidden % 2 == 0, f"method.hidden must be even and >= 2, got {self.hidden}")


@dataclass(frozen=True, slots=True)
class Episodes:
    """E episodes of the same shape."""

    support: Tensor  # (E, S) rows of the batch
    support_classes: Tensor  # (E, S) in 0 .. n_classes - 1
    queries: Tensor  # (E, M) rows of the batch
    query_classes: Tensor  # (E, M)
    n_classes: int


def episodes_of(labels: Tensor, shots: int, way: int = 0) -> list[Episodes]:
    """The episodes of a batch, those of one shape together.

    labels (B,), of at least two identities. The first `shots` images of an identity are its support, later ones are
    queries; an identity without a later one serves as a negative only. Identities are divided in the order of their
    labels, as evenly as possible; an episode without a query is left out.
    """
    people, classes = torch.unique(labels, return_inverse=True)
    same = classes[:, None] == classes[None]
    is_support = (same & torch.ones_like(same).tril(-1)).sum(1) < shots  # few images of the identity come before
    n_episodes = -(-len(people) // way) if way else 1
    by_shape: dict[tuple[int, int, int], list[tuple[Tensor, ...]]] = defaultdict(list)
    for members in torch.arange(len(people), device=labels.device).tensor_split(n_episodes):
        inside = (classes >= members[0]) & (classes <= members[-1])
        support, queries = (torch.nonzero(inside & chosen).squeeze(1) for chosen in (is_support, ~is_support))
        if len(queries):
            episode = (support, classes[support] - members[0], queries, classes[queries] - members[0])
            by_shape[len(members), len(support), len(queries)].append(episode)
    found = []
    for (n_classes, _, _), alike in by_shape.items():
        support, support_classes, queries, query_classes = (torch.stack(rows) for rows in zip(*alike, strict=True))
        found.append(Episodes(support, support_classes, queries, query_classes, n_classes))
    return found


def large_margin_loss(
    squared: Tensor, same: Tensor, different: Tensor, margin: float, *, active_only: bool = False
) -> Tensor:
    """Mean over all triplets (a, p, n) of max(0, d^2(a, p) - d^2(a, n) + margin).

    squared (A, B): squared distances of anchors to others; same, different (A, B) booleans: positives and
    a negative, of an anchor. `active_only`: the mean over the triplets above 0. All triplets of an anchor active, its
    gradient is 2 (mean of its negatives - mean of its positives), times its share of the triplets.
    """
    anchors, positives = torch.nonzero(same, as_tuple=True)
    rows, negatives = torch.nonzero(different[anchors], as_tuple=True)
    triplets = (anchors[rows], positives[rows], negatives)
    return losses.triplet_loss(squared, triplets, margin, active_only=active_only)


def prototypes(support: Tensor, classes: Tensor, n_classes: int) -> Tensor:
    """Means of the classes: support (E, S, D), classes (E, S), every class at least once. Returns (E, n_classes, D)."""
    member = F.one_hot(classes, n_classes).to(support.dtype)  # (E, S, N)
    return (member / member.sum(1, keepdim=True)).mT @ support


def proto_logits(queries: Tensor, means: Tensor) -> Tensor:
    """Minus the squared distances: queries (E, M, D), means (E, N, D). Returns (E, M, N)."""
    return -squared_distances(queries, means)


class Edges(nn.Module):
    """A weight for every edge, from the absolute difference of the nodes at its ends."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = size
        for n_out in (2 * hidden, 2 * hidden, hidden, hidden):
            # No bias: the norm has one.
            layers += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.LeakyReLU()]
            n_in = n_out
        self.score = nn.Sequential(*layers, nn.Linear(n_in, 1))

    def forward(self, nodes: Tensor) -> Tensor:
        """nodes (G, V, F). Returns (G, V, V): rows that sum to 1, with zeros on the diagonal."""
        n = nodes.shape[1]
        i, j = torch.triu_indices(n, n, 1, device=nodes.device)
        scores = self._scores((nodes[:, i] - nodes[:, j]).abs())  # (G, V (V - 1) / 2); an edge has no direction
        table = scores.new_full((len(nodes), n, n), -torch.inf)
        table[:, i, j] = scores
        table[:, j, i] = scores
        return table.softmax(2)

    def of_first(self, nodes: Tensor) -> Tensor:
        """The first node's edges to the others alone: (G, V, F) to (G, 1, V - 1)."""
        return self._scores((nodes[:, :1] - nodes[:, 1:]).abs()).softmax(1)[:, None]

    def _scores(self, differences: Tensor) -> Tensor:
        """(G, P, F) to (G, P)."""
        scores: Tensor = self.score(differences.flatten(0, 1))
        return scores.view(differences.shape[:2])


class GraphClassifier(nn.Module):
    """Garcia and Bruna's network, two layers and the last; one graph for each query, so that no query sees another."""

    def __init__(self, size: int, way: int, hidden: int) -> None:
        super().__init__()
        self.size, self.way = size, way
        appended = hidden // 2
        sizes = [size + way + i * appended for i in range(3)]
        self.edges = nn.ModuleList(Edges(n, hidden) for n in sizes)
        self.updates = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * n, appended, bias=False), nn.BatchNorm1d(appended), nn.LeakyReLU())
            for n in sizes[:2]
        )
        self.last = nn.Linear(2 * sizes[2], way)

    def forward(self, support: Tensor, classes: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """support (E, S, D), classes (E, S), queries (E, M, D).

        Returns logits (E, M, way), and what the last layer sees: (E, M, 1 + S, F), the query's node first. Its labels
        are left out there: they would make images of one class similar.
        """
        nodes = self._start(support, classes, queries)
        for edges, update in zip(self.edges, self.updates, strict=False):
            both = torch.cat([nodes, edges(nodes) @ nodes], dim=2)  # a node and the weighted mean of its neighbours
            new = update(both.flatten(0, 1)).view(*nodes.shape[:2], -1)
            nodes = torch.cat([nodes, new], dim=2)
        message = self.edges[-1].of_first(nodes) @ nodes[:, 1:]  # type: ignore[operator]
        logits = self.last(torch.cat([nodes[:, :1], message], dim=2)).view(*queries.shape[:2], self.way)
        unlabelled = torch.cat([nodes[..., : self.size], nodes[..., self.size + self.way :]], dim=2)
        return logits, unlabelled.view(*queries.shape[:2], *unlabelled.shape[1:])

    def _start(self, support: Tensor, classes: Tensor, queries: Tensor) -> Tensor:
        """(E * M, 1 + S, D + way)."""
        labelled = torch.cat([support, F.one_hot(classes, self.way).to(support.dtype)], dim=2)
        unlabelled = F.pad(queries, (0, self.way))[:, :, None]  # (E, M, 1, D + way)
        known = labelled[:, None].expand(-1, queries.shape[1], -1, -1)
        return torch.cat([unlabelled, known], dim=2).flatten(0, 1)


class LargeMarginFewShot(Method):
    """Embedding: the features at unit length. The few-shot classifier needs support images."""

    def __init__(self, net: nn.Module, size: int, config: LargeMarginFewShotConfig) -> None:
        super().__init__()
        self.net = net
        self.config = config
        self.size = size
        self.graph = GraphClassifier(size, config.way, config.hidden) if config.base == "graph" else None

    def embed(self, images: Tensor) -> Tensor:
        return unit_rows(self.net(images).float())

    def points(self, images: Tensor) -> Tensor:
        """(B, D): what episodes compare, by squared distance."""
        return self._points(self.net(images).float())

    def classify(self, support: Tensor, classes: Tensor, queries: Tensor, n_classes: int) -> Tensor:
        """Logits (E, M, n_classes) of points: support (E, S, D) of classes (E, S), queries (E, M, D)."""
        if self.graph is None:
            return proto_logits(queries, prototypes(support, classes, n_classes))
        return self._through_graph(support, classes, queries, n_classes)[0]

    def loss(self, images: Tensor, labels: Tensor, rng: np.random.Generator | None = None) -> Loss:
        check_batch("large_margin_few_shot", images, labels, n_per_id=self.config.shots + 1)
        features = self.net(images).float()  # (B, D)
        with torch.autocast(features.device.type, enabled=False):
            points = self._points(features)
            episodes = episodes_of(labels, self.config.shots, self.config.way)
            n_queries = sum(some.queries.numel() for some in episodes)
            total = features.new_zeros(())
            parts: dict[str, float] = defaultdict(float)
            for some in episodes:
                share = some.queries.numel() / n_queries
                total = total + share * self._loss(points, some, share, parts)
        return Loss(total, dict(parts), unit_rows(features))

    def _points(self, features: Tensor) -> Tensor:
        return features if self.config.scale == 0 else math.sqrt(self.config.scale) * unit_rows(features)

    def _loss(self, points: Tensor, some: Episodes, share: float, parts: dict[str, float]) -> Tensor:
        """Adds its share to `parts`."""
        support, queries = points[some.support], points[some.queries]  # (E, S, D), (E, M, D)
        means, nodes = prototypes(support, some.support_classes, some.n_classes), None
        if self.graph is None:
            logits = proto_logits(queries, means)
        else:
            logits, nodes = self._through_graph(support, some.support_classes, queries, some.n_classes)
        total = F.cross_entropy(logits.flatten(0, 1), some.query_classes.flatten())
        parts["few_shot"] += share * float(total.detach())
        right = logits.detach().argmax(2) == some.query_classes
        parts["accuracy"] += share * float(right.float().mean())
        if self.config.margin_weight > 0:
            value = self._margin(support, queries, means, nodes, some)
            total = total + self.config.margin_weight * value
            parts["margin"] += share * float(value.detach())
        return total

    def _through_graph(
        self, support: Tensor, classes: Tensor, queries: Tensor, n_classes: int
    ) -> tuple[Tensor, Tensor]:
        assert self.graph is not None
        require(n_classes <= self.config.way, f"the graph is for method.way = {self.config.way}, got {n_classes}")
        logits, nodes = self.graph(support, classes, queries)
        return logits[..., :n_classes], nodes  # outputs that no class of the episode has are not read

    def _margin(self, support: Tensor, queries: Tensor, means: Tensor, nodes: Tensor | None, some: Episodes) -> Tensor:
        """Rows of (A, B) are the anchors of all episodes, columns what each of them is compared with in its own."""
        config = self.config
        anchor_classes = some.query_classes
        if config.margin_on == "nodes":
            assert nodes is not None
            squared = (nodes[:, :, :1] - nodes[:, :, 1:]).pow(2).sum(3)  # (E, M, S)
            same = anchor_classes[:, :, None] == some.support_classes[:, None]
            different = ~same
        elif config.margin_on == "items":
            items = torch.cat([support, queries], dim=1)
            anchor_classes = torch.cat([some.support_classes, anchor_classes], dim=1)
            squared = squared_distances(items, items)
            same = torch.stack([mining.same_identity(classes) for classes in anchor_classes])
            different = anchor_classes[:, :, None] != anchor_classes[:, None]
        else:
            squared = squared_distances(queries, means)
            same = F.one_hot(anchor_classes, some.n_classes).bool()
            different = ~same
        rows = (squared.flatten(0, 1), same.flatten(0, 1), different.flatten(0, 1))
        return large_margin_loss(*rows, config.margin, active_only=config.active_only)
