"""Which cells answer for which person, and what a wrong answer costs.

TOOD: Task-aligned One-stage Object Detection. Chengjian Feng et al., 2021, https://arxiv.org/abs/2108.07755
    Section 3.2: a cell's alignment with a person is t = score^a * IoU^b; the k best cells inside the box answer for
    it, and their target score is t, scaled so that the person's best cell has its best IoU.
Generalized Focal Loss. Xiang Li et al., 2020, https://arxiv.org/abs/2006.04388
    Equation 5: |y - p|^beta times cross entropy, for scores p whose target y is not only 0 or 1.
Generalized Intersection over Union. Hamid Rezatofighi et al., 2019, https://arxiv.org/abs/1902.09630

Where we differ: cells in ignored regions cost nothing unless they lie in or close to a labelled person, about whom
something is known; a person too small to have a cell's centre inside gets the nearest cell of the finest stride; the
targets of a person who is not certain are smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tools.detector_training.config import LossConfig
from tools.detector_training.net import Cells, decode

KNOWN_AROUND = 0.2  # of a labelled person's size: so far around it the background counts as labelled, too
TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Truth:
    """People of a batch, padded to the same number: boxes xyxy in pixels of the input."""

    people: Tensor  # (B, G, 4)
    is_person: Tensor  # (B, G) bool; False is padding
    ignored: Tensor  # (B, I, 4); padding has no area
    weights: Tensor  # (B, G) in [0, 1]: how certain each person is

    def to(self, device: torch.device) -> Truth:
        parts = (self.people, self.is_person, self.ignored, self.weights)
        return Truth(*(part.to(device, non_blocking=True) for part in parts))


@dataclass(frozen=True, slots=True)
class Assignment:
    person: Tensor  # (B, N) int64 row of `people`; -1: background
    target: Tensor  # (B, N) in [0, 1], score to be learnt
    counts: Tensor  # (B, N) bool; False: the score costs nothing


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """a (B, G, 4), b (B, N, 4) -> (B, G, N)."""
    low = torch.maximum(a[:, :, None, :2], b[:, None, :, :2])
    high = torch.minimum(a[:, :, None, 2:], b[:, None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    union = area(a)[:, :, None] + area(b)[:, None] - common
    return common / union.clamp(min=TINY)


def area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Row by row: (N, 4), (N, 4) -> (N,) in [-1, 1]; gives a direction also to boxes that do not meet."""
    common = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0).prod(-1)
    union = area(a) + area(b) - common
    return common / union.clamp(min=TINY) - (hull - union) / hull.clamp(min=TINY)


def contains(boxes: Tensor, points: Tensor) -> Tensor:
    """boxes (B, G, 4), points (N, 2) -> (B, G, N) bool, borders outside."""
    x, y = points[:, 0], points[:, 1]
    left, top, right, bottom = (edge[..., None] for edge in boxes.unbind(-1))
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def candidates(truth: Truth, places: Cells) -> Tensor:
    """Cells that may answer for each person -> (B, G, N) bool."""
    inside = contains(truth.people, places.centres)
    finest = int((places.strides == places.strides[0]).sum())
    middle = (truth.people[..., :2] + truth.people[..., 2:]) / 2  # (B, G, 2)
    far = (middle[:, :, None] - places.centres[:finest]).square().sum(-1)  # (B, G, n)
    nearest = torch.zeros_like(inside).scatter_(2, far.argmin(-1, keepdim=True), True)
    return (inside | nearest) & truth.is_person[..., None]


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, truth: Truth, places: Cells, config: LossConfig) -> Assignment:
    """scores (B, N) in [0, 1], boxes (B, N, 4) as the network gives them now."""
    n_people = truth.people.shape[1]
    if n_people == 0:
        none = torch.full_like(scores, -1, dtype=torch.int64)
        return Assignment(none, torch.zeros_like(scores), counted(none, truth, places))
    may = candidates(truth, places)
    overlap = pairwise_iou(truth.people, boxes)  # (B, G, N)
    # TINY: a person that no box overlaps yet still gets its cells, those with the best scores.
    aligned = scores[:, None].pow(config.score_power) * overlap.clamp(min=TINY ** (1 / 8)).pow(config.iou_power)
    aligned = aligned.masked_fill(~may, -1.0)
    k = min(config.top_k, aligned.shape[2])
    best = aligned.topk(k, dim=2).indices
    chosen = torch.zeros_like(may).scatter_(2, best, True) & may
    # A cell that several people chose answers for the one it overlaps most.
    contested = overlap.masked_fill(~chosen, -1.0)
    share, person = contested.max(1)  # (B, N)
    person = person.masked_fill(share < 0, -1)

    mine = chosen & (person[:, None] == torch.arange(n_people, device=person.device)[:, None])  # (B, G, N)
    aligned = aligned.masked_fill(~mine, 0.0)
    best_aligned = aligned.amax(2, keepdim=True).clamp(min=1e-30)
    best_overlap = overlap.masked_fill(~mine, 0.0).amax(2, keepdim=True)
    # One person a cell: the others are 0.
    target = (aligned / best_aligned * best_overlap * truth.weights[..., None]).amax(1)
    return Assignment(person, target, counted(person, truth, places))


def counted(person: Tensor, truth: Truth, places: Cells) -> Tensor:
    """Cells whose score costs something -> (B, N)."""
    if truth.ignored.shape[1] == 0:
        return torch.ones_like(person, dtype=torch.bool)
    unknown = contains(truth.ignored, places.centres).any(1)
    size = truth.people[..., 2:] - truth.people[..., :2]
    around = torch.cat([truth.people[..., :2] - KNOWN_AROUND * size, truth.people[..., 2:] + KNOWN_AROUND * size], -1)
    known = (contains(around, places.centres) & truth.is_person[..., None]).any(1)
    return ~unknown | known | (person >= 0)


def quality_focal(logits: Tensor, targets: Tensor, beta: float) -> Tensor:
    """(N,), (N,) -> (N,): equation 5 of Generalized Focal Loss."""
    return (targets - logits.sigmoid()).abs().pow(beta) * functional.binary_cross_entropy_with_logits(
        logits, targets, reduction="none"
    )


def detection_loss(
    logits: Tensor, distances: Tensor, truth: Truth, places: Cells, config: LossConfig
) -> tuple[Tensor, dict[str, float]]:
    """logits (B, N), distances (B, N, 4) -> the loss of the batch, and its parts for the log."""
    boxes = decode(distances, places)
    given = assign(logits.detach().sigmoid(), boxes.detach(), truth, places, config)
    score, box = costs(logits, boxes, truth, given, config)
    total = config.score_weight * score + config.box_weight * box
    return total, {"score_loss": float(score.detach()), "box_loss": float(box.detach())}


def costs(logits: Tensor, boxes: Tensor, truth: Truth, given: Assignment, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Of the scores and of the boxes, per person: both are divided by the sum of the targets."""
    total = given.target.sum().clamp(min=1.0)
    score = quality_focal(logits[given.counts], given.target[given.counts], config.beta).sum() / total
    rows = given.person >= 0
    wanted = truth.people[rows.nonzero()[:, 0], given.person[rows]]
    box = ((1.0 - giou(boxes[rows], wanted)) * given.target[rows]).sum() / total
    return score, box
