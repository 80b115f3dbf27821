"""Large margin few-shot: margin term, both classifiers and episodes against slow loops; weight 0 is the base."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from reid_training.errors import ConfigError, DataError
from reid_training.methods.large_margin_few_shot import (
    GraphClassifier,
    LargeMarginFewShot,
    LargeMarginFewShotConfig,
    episodes_of,
    large_margin_loss,
    proto_logits,
    prototypes,
)

SIZE = 6


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(seed=0, **options):
    """On numbers instead of pictures: the network is one linear layer."""
    torch.manual_seed(seed)
    return LargeMarginFewShot(nn.Linear(4, SIZE), SIZE, LargeMarginFewShotConfig(**options))


def squared(a, b):
    return float(((a - b) ** 2).sum())


def cross(labels, others):
    same = labels[:, None] == others[None]
    return same, ~same


@pytest.fixture
def batch():
    """Rows (12, 4) of four identities, three each, in no order."""
    labels = torch.tensor([7, 2, 5, 2, 9, 9, 7, 5, 2, 5, 9, 7])
    return drawn(12, 4, dtype=torch.float32), labels


# The margin term


@pytest.mark.parametrize("active_only", [False, True])
def test_margin_term_agrees_with_a_triple_loop(active_only):
    items, labels = drawn(12, 3), torch.arange(4).repeat(3)
    same, different = cross(labels, labels)
    same &= ~torch.eye(12, dtype=torch.bool)
    terms = []
    for a, p, n in itertools.product(range(12), repeat=3):
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]:
            terms.append(max(0.0, squared(items[a], items[p]) - squared(items[a], items[n]) + 2.0))
    n_terms = sum(term > 0 for term in terms) if active_only else len(terms)
    value = large_margin_loss(torch.cdist(items, items) ** 2, same, different, 2.0, active_only=active_only)
    assert float(value) == pytest.approx(sum(terms) / n_terms)


def test_anchor_gradient_equals_the_closed_form():
    others, labels, anchor = drawn(6, 3), torch.tensor([0, 0, 0, 1, 1, 2]), drawn(1, 3, seed=1).requires_grad_()
    same, different = cross(torch.tensor([0]), labels)

    def gradient(margin):
        dist = (anchor[:, None] - others[None]).pow(2).sum(2)
        return torch.autograd.grad(large_margin_loss(dist, same, different, margin), anchor)[0]

    expected = 2 * (others[3:].mean(0) - others[:3].mean(0))
    torch.testing.assert_close(gradient(1e3)[0], expected)  # every triplet active
    # In part: the means are over the active triplets, times their share.
    dist = (anchor.detach() - others).pow(2).sum(1)
    active = [(p, n) for p in range(3) for n in range(3, 6) if dist[p] - dist[n] + 1.0 > 0]
    assert 0 < len(active) < 9
    positives, negatives = (others[list(rows)].mean(0) for rows in zip(*active, strict=True))
    torch.testing.assert_close(gradient(1.0)[0], 2 * (negatives - positives) * len(active) / 9)


def test_gradient_agrees_with_finite_differences():
    labels = torch.tensor([0, 0, 1, 1, 2])
    same, different = cross(labels, labels)
    same &= ~torch.eye(5, dtype=torch.bool)

    def value(items):
        return large_margin_loss((items[:, None] - items[None]).pow(2).sum(2), same, different, 1.5)

    assert torch.autograd.gradcheck(value, drawn(5, 3).requires_grad_())


def test_term_is_zero_without_margin_or_for_separated_classes():
    items = (100.0 * torch.eye(3, dtype=torch.float64)).repeat_interleave(2, 0).requires_grad_()
    labels = torch.arange(3).repeat_interleave(2)
    same, different = cross(labels, labels)
    dist = (items[:, None] - items[None]).pow(2).sum(2)
    for margin, rows in ((5.0, dist), (-torch.inf, dist.detach() * 0 + dist.sum() * 0)):
        value = large_margin_loss(rows, same, different, margin)
        assert float(value.detach()) == 0.0
        assert not torch.autograd.grad(value, items, retain_graph=True)[0].any()


def test_term_without_triplets_is_zero_and_differentiable():
    dist = drawn(2, 3).requires_grad_()
    value = large_margin_loss(dist, torch.ones(2, 3).bool(), torch.zeros(2, 3).bool(), 1.0)
    assert torch.equal(torch.autograd.grad(value, dist)[0], torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("where", ["prototypes", "items"])
def test_margin_is_applied_to_the_chosen_points(where, batch):
    options = {"scale": 0.0, "margin_on": where, "margin": 3.0, "margin_weight": 0.7}
    method = make(**options)
    loss = method.loss(*batch)
    points, labels = method.points(batch[0]).detach().double(), batch[1].tolist()
    support = [next(i for i in range(12) if labels[i] == pid) for pid in (2, 5, 7, 9)]
    rows = range(12)
    if where == "prototypes":
        anchors = [i for i in rows if i not in support]
        triplets = [(a, p, n) for a in anchors for p in support for n in support if labels[a] == labels[p] != labels[n]]
    else:
        triplets = [(a, p, n) for a in rows for p in rows for n in rows if a != p and labels[a] == labels[p]]
        triplets = [(a, p, n) for a, p, n in triplets if labels[a] != labels[n]]
    terms = [max(0.0, squared(points[a], points[p]) - squared(points[a], points[n]) + 3.0) for a, p, n in triplets]
    assert loss.parts["margin"] == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert float(loss.total.detach()) == pytest.approx(loss.parts["few_shot"] + 0.7 * loss.parts["margin"], rel=1e-5)


def test_order_of_queries_does_not_matter(batch):
    images, labels = batch
    first = [next(i for i in range(12) if labels[i] == pid) for pid in (5, 2, 9, 7)]
    others = [i for i in reversed(range(12)) if i not in first]
    for options in ({}, {"margin_on": "items"}, {"base": "graph", "way": 4, "margin_on": "nodes", "hidden": 4}):
        method = make(**options)
        totals = [method.loss(images[rows], labels[rows]).total for rows in (torch.arange(12), first + others)]
        torch.testing.assert_close(*totals)


# The limiting case


@pytest.mark.parametrize("options", [{}, {"base": "graph", "way": 4, "hidden": 4}], ids=["prototypes", "graph"])
def test_weight_zero_equals_the_base_to_the_bit(options, batch):
    """The base, written here: classify the queries, cross-entropy, and nothing else; three steps of Adam."""
    images, labels = batch
    ours = make(margin_weight=0.0, scale=0.0, **options)
    base = copy.deepcopy(ours)
    classes = torch.tensor([[2, 5, 7, 9].index(int(label)) for label in labels])
    support = [i for i in range(12) if classes[i] not in classes[:i]]  # in the batch's order: a sum knows its order
    queries = [i for i in range(12) if i not in support]
    steps = [torch.optim.Adam(method.parameters(), lr=0.1) for method in (ours, base)]
    for _ in range(3):
        points = base.net(images)
        logits = base.classify(points[support][None], classes[support][None], points[queries][None], 4)
        for step, value in zip(
            steps, (ours.loss(images, labels).total, F.cross_entropy(logits[0], classes[queries])), strict=True
        ):
            step.zero_grad()
            value.backward()
            step.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), base.state_dict().values(), strict=True))
    with_margin, without = (make(margin_weight=weight, scale=0.0, **options) for weight in (0.1, 0.0))
    assert not torch.equal(with_margin.loss(images, labels).total, without.loss(images, labels).total)


# The bases


def test_prototypes_are_means_and_logits_their_distances():
    support, classes, queries = drawn(2, 5, 3), torch.tensor([[0, 1, 0, 2, 0], [2, 1, 1, 0, 2]]), drawn(2, 4, 3, seed=1)
    means = prototypes(support, classes, 3)
    logits = proto_logits(queries, means)
    for e, n in itertools.product(range(2), range(3)):
        mean = sum(support[e, i] for i in range(5) if classes[e, i] == n) / (classes[e] == n).sum()
        torch.testing.assert_close(means[e, n], mean)
        for m in range(4):
            assert float(logits[e, m, n]) == pytest.approx(-squared(queries[e, m], mean))


def slow_graph(graph, support, classes, query):
    """Logits of one query, one edge at a time: support (S, D), classes (S,), query (D,). In evaluation."""
    nodes = [torch.cat([query, torch.zeros(graph.way)])]
    nodes += [torch.cat([x, F.one_hot(c, graph.way)]) for x, c in zip(support, classes, strict=True)]
    for layer in range(3):
        gathered = []
        for i in range(len(nodes)):
            scores = [graph.edges[layer].score((nodes[i] - x).abs()[None])[0, 0] for x in nodes]
            scores[i] = torch.tensor(-torch.inf)
            weights = torch.stack(scores).softmax(0)
            gathered.append(torch.cat([nodes[i], sum(w * x for w, x in zip(weights, nodes, strict=True))]))
        if layer == 2:
            return graph.last(gathered[0])
        nodes = [torch.cat([x, graph.updates[layer](g[None])[0]]) for x, g in zip(nodes, gathered, strict=True)]
    raise AssertionError


def trained_graph(way=3):
    """Weights and running statistics that are not those of the start."""
    torch.manual_seed(0)
    graph = GraphClassifier(SIZE, way, 4).double()
    for seed in range(3):
        graph(drawn(1, 6, SIZE, seed=seed), torch.arange(6)[None] % way, drawn(1, 4, SIZE, seed=seed + 9))
    return graph.eval()


def test_graph_agrees_with_one_edge_at_a_time():
    graph = trained_graph()
    support, classes, queries = drawn(2, 5, SIZE), torch.tensor([[0, 1, 0, 2, 2], [2, 1, 1, 0, 2]]), drawn(2, 3, SIZE)
    logits, nodes = graph(support, classes, queries)
    assert nodes.shape == (2, 3, 6, SIZE + 2 * 2)
    for e, m in itertools.product(range(2), range(3)):
        torch.testing.assert_close(logits[e, m], slow_graph(graph, support[e], classes[e], queries[e, m]))


def test_edge_weights_sum_to_one_over_the_other_nodes():
    graph = trained_graph()
    weights = graph.edges[0](drawn(2, 5, SIZE + 3))
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 5, dtype=torch.float64))
    assert not torch.diagonal(weights, dim1=1, dim2=2).any()
    torch.testing.assert_close(graph.edges[0].of_first(drawn(2, 5, SIZE + 3)), weights[:, :1, 1:])


def test_graph_query_sees_neither_its_class_nor_other_queries():
    graph = trained_graph()
    support, classes, queries = drawn(1, 3, SIZE), torch.arange(3)[None], drawn(1, 4, SIZE, seed=1)
    logits, nodes = graph(support, classes, queries)
    alone, _ = graph(support, classes, queries[:, 2:3])
    torch.testing.assert_close(logits[:, 2:3], alone)
    # The margin's points begin with the embeddings; no label comes before the layers' output.
    torch.testing.assert_close(nodes[0, :, 0, :SIZE], queries[0])
    torch.testing.assert_close(nodes[0, 1, 1:, :SIZE], support[0])


def test_node_margin_compares_the_query_with_the_support(batch):
    method = make(base="graph", way=4, hidden=4, margin_on="nodes", margin=2.0).eval()
    some = episodes_of(batch[1], 1, 4)[0]
    points = method.points(batch[0]).detach()
    _, nodes = method.graph(points[some.support], some.support_classes, points[some.queries])
    terms = []
    for m, p, n in itertools.product(range(8), range(4), range(4)):
        if some.query_classes[0, m] == some.support_classes[0, p] != some.support_classes[0, n]:
            own = nodes[0, m]
            terms.append(max(0.0, squared(own[0], own[1 + p]) - squared(own[0], own[1 + n]) + 2.0))
    assert method.loss(*batch).parts["margin"] == pytest.approx(sum(terms) / len(terms), rel=1e-4)


def test_node_margin_is_not_solved_by_labels_alone():
    """Embeddings without information, a query of each class: for any weights, triplets and their mirrors cancel."""
    labels = torch.arange(4).repeat_interleave(2)
    for seed in range(5):
        method = make(seed, base="graph", way=4, hidden=4, margin_on="nodes", margin=2.0)
        assert method.loss(torch.ones(8, 4), labels).parts["margin"] >= 2.0 - 1e-5


@pytest.mark.parametrize("where", ["prototypes", "items"])
def test_class_numbers_do_not_matter(where, batch):
    images, labels = batch
    method = make(margin_on=where)
    renamed = torch.tensor([0, 0, 8, 0, 0, 3, 0, 1, 0, 6])[labels]  # 2, 5, 7, 9 in another order
    torch.testing.assert_close(method.loss(images, renamed).total, method.loss(images, labels).total)


def test_small_margin_problem_is_learned():
    """Two dimensions of noise among four: classes move apart, and queries are found."""
    labels = torch.arange(6).repeat_interleave(4)
    centres = drawn(6, 4, dtype=torch.float32) * torch.tensor([1.0, 1.0, 0.0, 0.0])
    images = centres[labels] + drawn(24, 4, seed=1, dtype=torch.float32) * torch.tensor([0.1, 0.1, 2.0, 2.0])
    method = make(scale=0.0)
    optimiser = torch.optim.Adam(method.parameters(), lr=0.05)
    before = method.loss(images, labels)
    for _ in range(100):
        optimiser.zero_grad()
        method.loss(images, labels).total.backward()
        optimiser.step()
    after = method.loss(images, labels)
    assert after.parts["accuracy"] > before.parts["accuracy"]
    assert after.parts["margin"] < 0.5 * before.parts["margin"]


# The episodes of a batch


def test_episode_support_is_the_first_images_queries_the_rest(batch):
    (some,) = episodes_of(batch[1], 2)
    assert some.n_classes == 4
    assert some.support.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert some.queries.tolist() == [[8, 9, 10, 11]]
    assert some.query_classes.tolist() == [[0, 1, 3, 2]]
    assert some.support_classes.tolist() == [[2, 0, 1, 0, 3, 3, 2, 1]]


def test_large_batch_is_divided_into_episodes():
    labels = torch.arange(10).repeat_interleave(3)
    found = episodes_of(labels, 1, way=4)
    assert sorted((some.n_classes, len(some.support)) for some in found) == [(3, 2), (4, 1)]
    seen = torch.cat([rows.flatten() for some in found for rows in (some.support, some.queries)])
    assert sorted(seen.tolist()) == list(range(30))
    for some in found:
        for e in range(len(some.support)):
            first = labels[some.support[e]].min()
            assert torch.equal(labels[some.support[e]] - first, some.support_classes[e])
            assert torch.equal(labels[some.queries[e]] - first, some.query_classes[e])


@pytest.mark.parametrize("way", [3, 4, 5, 7])
def test_every_episode_has_two_identities_or_more(way):
    for n in range(2, 40):
        assert all(2 <= some.n_classes <= way for some in episodes_of(torch.arange(n).repeat(2), 1, way))


def test_identity_without_query_is_support_only():
    (some,) = episodes_of(torch.tensor([3, 3, 5, 8, 8, 8]), 2)
    assert some.n_classes == 3
    assert some.support.tolist() == [[0, 1, 2, 3, 4]]
    assert some.queries.tolist() == [[5]]
    assert len(episodes_of(torch.tensor([0, 0, 1, 2, 3, 4]), 1, 3)) == 1  # the second episode has no query


def test_several_episodes_equal_the_mean_of_single_ones():
    labels, images = torch.arange(6).repeat_interleave(3), drawn(18, 4, dtype=torch.float32)
    method = make(way=3)
    alone = [method.loss(images[rows], labels[rows]).total for rows in (slice(9), slice(9, 18))]
    torch.testing.assert_close(method.loss(images, labels).total, sum(alone) / 2)


# Mistakes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base": "matching"}, "base must be one of prototypes, graph, got 'matching'"),
        ({"margin_on": "all"}, "margin_on must be one of prototypes, items, nodes, got 'all'"),
        ({"margin_on": "nodes"}, "method.margin_on = nodes needs method.base = graph"),
        ({"base": "graph"}, "way must be >= 3, got 0"),
        ({"way": 2}, "way must be >= 3, or 0 for all of a batch, got 2"),
        ({"shots": 0}, "shots must be >= 1, got 0"),
        ({"scale": -1.0}, "scale must be >= 0, got -1.0"),
        ({"margin_weight": float("nan")}, "margin_weight must be >= 0, got nan"),
        ({"margin": 0.0}, "margin must be > 0, got 0.0"),
        ({"hidden": 5}, "method.hidden must be even and >= 2, got 5"),
    ],
)
def test_setting_out_of_range_is_named(options, said):
    with pytest.raises(ConfigError, match=said):
        LargeMarginFewShotConfig(**options)


def test_batch_without_a_query_is_refused(batch):
    with pytest.raises(DataError, match="needs an identity with at least 4 images, got 3"):
        make(shots=3).loss(*batch)


def test_more_classes_than_a_graph_has_outputs_are_refused():
    method = make(base="graph", way=3, hidden=4)
    with pytest.raises(ConfigError, match=r"the graph is for method\.way = 3, got 5"):
        method.classify(*(torch.zeros(shape) for shape in ((1, 5, SIZE), (1, 5))), torch.zeros(1, 1, SIZE), 5)


def test_same_seed_gives_the_same_steps(batch):
    first, second = (make(base="graph", way=4, hidden=4).loss(*batch, np.random.default_rng(0)) for _ in range(2))
    assert torch.equal(first.total, second.total)
    assert first.parts == second.parts
