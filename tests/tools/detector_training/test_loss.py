"""Assignment and losses against one cell at a time in plain Python, gradients against finite differences."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tools.detector_training.config import LossConfig
from tools.detector_training.loss import (
    KNOWN_AROUND,
    Assignment,
    Truth,
    assign,
    costs,
    detection_loss,
    giou,
    pairwise_iou,
    quality_focal,
)
from tools.detector_training.net import cells, decode

HEIGHT, WIDTH = 64, 96
PLACES = cells(HEIGHT, WIDTH)
N = len(PLACES.strides)


def truth_of(people, ignored=None, *, padding=0):
    """One picture or several: lists of boxes."""
    n = max(map(len, people)) + padding
    ignored = ignored or [[] for _ in people]
    m = max(map(len, ignored))
    boxes, real, out = torch.zeros(len(people), n, 4), torch.zeros(len(people), n, dtype=torch.bool), []
    for k, rows in enumerate(people):
        for j, row in enumerate(rows):
            boxes[k, j], real[k, j] = torch.tensor(row), True
    for rows in ignored:
        out.append([*rows, *[[0.0] * 4] * (m - len(rows))])
    return Truth(boxes, real, torch.tensor(out).reshape(len(people), m, 4), real.float())


def random_people(generator, n):
    low = torch.rand(n, 2, generator=generator) * torch.tensor([70.0, 40.0])
    return torch.cat([low, low + 6 + torch.rand(n, 2, generator=generator) * 40], 1).tolist()


def slow_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union


def slow_assign(scores, boxes, people, ignored, config):
    """The definition, for one picture: plain lists in, (person, target, counts) out."""
    centres, strides = PLACES.centres.tolist(), PLACES.strides.tolist()
    overlap = [[slow_iou(person, box) for box in boxes] for person in people]
    aligned = [
        [
            score**config.score_power * max(o, 1e-9 ** (1 / 8)) ** config.iou_power
            for score, o in zip(scores, row, strict=True)
        ]
        for row in overlap
    ]
    chosen = []
    for row, (left, top, right, bottom) in enumerate(people):
        inside = {n for n, (x, y) in enumerate(centres) if left < x < right and top < y < bottom}
        middle = ((left + right) / 2, (top + bottom) / 2)
        finest = [n for n in range(N) if strides[n] == 8]
        inside.add(min(finest, key=lambda n: (centres[n][0] - middle[0]) ** 2 + (centres[n][1] - middle[1]) ** 2))
        best = sorted(inside, key=lambda n: -aligned[row][n])[: config.top_k]
        chosen.append(set(best))
    person = [-1] * N
    for n in range(N):
        takers = [row for row in range(len(people)) if n in chosen[row]]
        if takers:
            person[n] = max(takers, key=lambda row: overlap[row][n])
    target = [0.0] * N
    for row in range(len(people)):
        mine = [n for n in range(N) if person[n] == row]
        if mine:
            most, best_iou = max(aligned[row][n] for n in mine), max(overlap[row][n] for n in mine)
            for n in mine:
                target[n] = aligned[row][n] / most * best_iou
    counts = []
    for n, (x, y) in enumerate(centres):
        unknown = any(left < x < right and top < y < bottom for left, top, right, bottom in ignored)
        known = any(
            left - KNOWN_AROUND * (right - left) < x < right + KNOWN_AROUND * (right - left)
            and top - KNOWN_AROUND * (bottom - top) < y < bottom + KNOWN_AROUND * (bottom - top)
            for left, top, right, bottom in people
        )
        counts.append(not unknown or known or person[n] >= 0)
    return person, target, counts


@pytest.mark.parametrize(("n_people", "n_ignored"), [(0, 0), (0, 2), (1, 0), (3, 1), (12, 2)])
@pytest.mark.parametrize("top_k", [1, 10, 500])
def test_assignment_agrees_with_one_cell_at_a_time(n_people, n_ignored, top_k):
    generator = torch.Generator().manual_seed(n_people + 100 * n_ignored)
    config = LossConfig(top_k=top_k)
    people = [random_people(generator, n_people), random_people(generator, max(n_people - 1, 0))]
    ignored = [random_people(generator, n_ignored), random_people(generator, n_ignored)]
    scores = torch.rand(2, N, generator=generator)
    boxes = decode(torch.randn(2, N, 4, generator=generator) * 0.5 + 0.5, PLACES)
    given = assign(scores, boxes, truth_of(people, ignored, padding=2), PLACES, config)
    for k in range(2):
        person, target, counts = slow_assign(scores[k].tolist(), boxes[k].tolist(), people[k], ignored[k], config)
        assert given.person[k].tolist() == person
        assert given.counts[k].tolist() == counts
        torch.testing.assert_close(given.target[k], torch.tensor(target), rtol=1e-4, atol=1e-6)


def test_a_person_between_the_cells_gets_the_nearest_one():
    truth = truth_of([[[13.0, 13.0, 15.0, 15.0]]])
    given = assign(torch.full((1, N), 0.01), decode(torch.zeros(1, N, 4), PLACES), truth, PLACES, LossConfig())
    (cell,) = (given.person[0] >= 0).nonzero()[:, 0].tolist()
    assert PLACES.centres[cell].tolist() == [12.0, 12.0]


def test_a_person_who_is_not_certain_has_smaller_targets():
    generator = torch.Generator().manual_seed(5)
    scores = torch.rand(1, N, generator=generator)
    boxes = decode(torch.randn(1, N, 4, generator=generator) * 0.5 + 0.5, PLACES)
    truth = truth_of([random_people(generator, 3)])
    sure = assign(scores, boxes, truth, PLACES, LossConfig())
    weights = torch.tensor([[0.5, 1.0, 0.25]])
    half = assign(scores, boxes, dataclasses.replace(truth, weights=weights), PLACES, LossConfig())
    assert half.person.equal(sure.person)
    taken = sure.person[0] >= 0
    torch.testing.assert_close(half.target[0][taken], sure.target[0][taken] * weights[0][sure.person[0][taken]])


def test_giou_agrees_with_the_definition():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.tensor(random_people(generator, 50)), torch.tensor(random_people(generator, 50))
    for got, p, q in zip(giou(a, b).tolist(), a.tolist(), b.tolist(), strict=True):
        hull = (max(p[2], q[2]) - min(p[0], q[0])) * (max(p[3], q[3]) - min(p[1], q[1]))
        sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (p, q)]
        iou = slow_iou(p, q)
        union = sum(sizes) / (1 + iou)
        assert got == pytest.approx(iou - (hull - union) / hull, abs=1e-5)
    assert giou(a, a).tolist() == pytest.approx([1.0] * 50, abs=1e-5)


def test_pairwise_iou_agrees_with_one_pair_at_a_time():
    generator = torch.Generator().manual_seed(1)
    a, b = random_people(generator, 4), random_people(generator, 6)
    got = pairwise_iou(torch.tensor([a]), torch.tensor([b]))[0]
    torch.testing.assert_close(got, torch.tensor([[slow_iou(p, q) for q in b] for p in a]))


def test_quality_focal_agrees_with_the_formula():
    logits, targets = torch.tensor([-3.0, 0.2, 2.0, 0.0]), torch.tensor([0.0, 0.7, 1.0, 0.5])
    for got, logit, y in zip(quality_focal(logits, targets, 2.0), logits.tolist(), targets.tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        expected = abs(y - p) ** 2 * -((1 - y) * math.log(1 - p) + y * math.log(p))
        assert float(got) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_gradients_agree_with_finite_differences(beta):
    generator = torch.Generator().manual_seed(2)
    places = cells(32, 64)
    n = len(places.strides)
    truth = truth_of([[[3.0, 2.0, 20.0, 28.0], [30.0, 4.0, 52.0, 31.0]]], [[[50.0, 0.0, 64.0, 32.0]]])
    truth = Truth(truth.people.double(), truth.is_person, truth.ignored.double(), truth.weights.double())
    logits = torch.randn(1, n, generator=generator, dtype=torch.float64)
    distances = torch.randn(1, n, 4, generator=generator, dtype=torch.float64) * 0.3 + 0.4
    config = LossConfig(beta=beta, top_k=4)
    # Which cell answers for whom is decided before, without a gradient.
    given = assign(logits.sigmoid(), decode(distances, places), truth, places, config)

    def cost(logits, distances):
        return costs(logits, decode(distances, places), truth, given, config)

    assert torch.autograd.gradcheck(cost, (logits.requires_grad_(), distances.requires_grad_()))


def test_ignored_cells_and_padding_change_nothing():
    generator = torch.Generator().manual_seed(3)
    logits, distances = torch.randn(1, N, generator=generator), torch.randn(1, N, 4, generator=generator) * 0.3
    people = [[[10.0, 10.0, 30.0, 50.0]]]
    plain = detection_loss(logits, distances, truth_of(people), PLACES, LossConfig())[0]
    padded = detection_loss(logits, distances, truth_of(people, padding=3), PLACES, LossConfig())[0]
    assert float(plain) == pytest.approx(float(padded))

    logits.requires_grad_()
    loss, _ = detection_loss(logits, distances, truth_of(people, [[[0.0, 0.0, 97.0, 65.0]]]), PLACES, LossConfig())
    loss.backward()
    x, y = PLACES.centres.T
    near = (x > 10 - 4) & (x < 30 + 4) & (y > 10 - 8) & (y < 50 + 8)  # KNOWN_AROUND of 20 x 40
    assert ((logits.grad[0] != 0) == near).all()


def test_a_picture_without_people_pushes_all_scores_down_and_no_box():
    logits, distances = torch.zeros(2, N, requires_grad=True), torch.zeros(2, N, 4, requires_grad=True)
    loss, parts = detection_loss(logits, distances, truth_of([[], []]), PLACES, LossConfig())
    loss.backward()
    assert (logits.grad > 0).all()
    assert distances.grad is None or not distances.grad.any()
    assert parts["box_loss"] == 0.0


def test_scores_count_without_the_boxes():
    """The target of a score is no way for gradients to flow."""
    given = Assignment(
        torch.zeros(1, N, dtype=torch.int64), torch.full((1, N), 0.5), torch.ones(1, N, dtype=torch.bool)
    )
    distances = torch.zeros(1, N, 4, requires_grad=True)
    score, _ = costs(
        torch.zeros(1, N), decode(distances, PLACES), truth_of([[[0.0, 0.0, 40.0, 60.0]]]), given, LossConfig()
    )
    assert not score.requires_grad
