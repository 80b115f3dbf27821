"""CLEAR and identity measures against explicit loops."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest

from tracker.boxes import iou
from tracker.eval.clear_identity import accumulate, combine, distances, evaluate
from tracker.eval.mot_files import BoxTable


def random_case(seed: int) -> tuple[BoxTable, BoxTable]:
    """Up to 4 people and 4 identities in up to 8 frames, with misses, false boxes and swaps."""
    rng = np.random.default_rng(seed)
    truth, results = [], []
    n_people = int(rng.integers(1, 5))
    owner = np.arange(n_people) % 4 + 1
    for frame in range(1, int(rng.integers(2, 9))):
        if rng.random() < 0.3:
            rng.shuffle(owner)
        for person in range(n_people):
            box = np.array([person * 12 + frame, 5.0, 10.0, 20.0])
            if rng.random() < 0.85:
                truth.append([frame, person + 1, *box])
            if rng.random() < 0.7:
                results.append([frame, owner[person], *(box + rng.normal(0, 1.5, 4) * [1, 1, 0, 0])])
        if rng.random() < 0.3:
            results.append([frame, 9, 300, 5, 10, 20])
    return as_table(truth or [[1, 1, 0, 0, 10, 20]]), as_table(results)


def as_table(rows: list[list[float]]) -> BoxTable:
    values = np.array(rows, dtype=float).reshape(-1, 6)
    boxes = np.concatenate([values[:, 2:4], values[:, 2:4] + values[:, 4:]], axis=1)
    return BoxTable(values[:, 0].astype(int), values[:, 1].astype(int), boxes)


def frames_of(truth, results):
    for frame in sorted(set(truth.frame.tolist()) | set(results.frame.tolist())):
        g, r = truth.frame == frame, results.frame == frame
        overlap = iou(truth.boxes[g], results.boxes[r])
        yield truth.id[g].tolist(), results.id[r].tolist(), overlap


def best_pairs(left, right, overlap):
    """Most pairs with IoU >= 0.5, of those the largest summed IoU: every one-to-one map is tried."""
    best = (-1, -1.0, [])
    slots = [*right, *([None] * len(left))]
    for chosen in set(itertools.permutations(slots, len(left))):
        pairs = [(i, j) for i, j in zip(left, chosen, strict=True) if j is not None and overlap[i, j] >= 0.5]
        best = max(best, (len(pairs), sum(overlap[p] for p in pairs), sorted(pairs)))
    return best[2]


def clear_by_loops(truth, results):
    """FP, FN, IDs, Frag, MT, ML by the definition of Bernardin and Stiefelhagen, one pair at a time."""
    last: dict[int, int] = {}
    history: dict[int, list[bool]] = {}
    false_positives = misses = switches = 0
    for people, found, overlap in frames_of(truth, results):
        pairs = []
        for i, person in enumerate(people):  # a pair that still holds is kept
            if person in last and last[person] in found:
                j = found.index(last[person])
                if overlap[i, j] >= 0.5 and all(j != other for _, other in pairs):
                    pairs.append((i, j))
        left = [i for i in range(len(people)) if all(i != k for k, _ in pairs)]
        right = [j for j in range(len(found)) if all(j != k for _, k in pairs)]
        pairs += best_pairs(left, right, overlap)
        for i, j in pairs:
            switches += last.get(people[i], found[j]) != found[j]
            last[people[i]] = found[j]
        seen = {people[i] for i, _ in pairs}
        for person in people:
            history.setdefault(person, []).append(person in seen)
        misses += len(people) - len(pairs)
        false_positives += len(found) - len(pairs)
    frag = mt = ml = 0
    for flags in history.values():
        share = sum(flags) / len(flags)
        mt, ml = mt + (share >= 0.8), ml + (share < 0.2)
        runs = [key for key, _ in itertools.groupby(flags)]
        frag += max(0, runs.count(True) - 1)
    return false_positives, misses, switches, frag, mt, ml


def idf1_by_brute_force(truth, results):
    people, tracks = sorted(set(truth.id.tolist())), sorted(set(results.id.tolist()))
    together = {(p, t): 0 for p in people for t in tracks}
    for left, right, overlap in frames_of(truth, results):
        for (i, p), (j, t) in itertools.product(enumerate(left), enumerate(right)):
            together[p, t] += overlap[i, j] >= 0.5
    slots = [*tracks, *([None] * len(people))]
    best = max(
        sum(together[p, t] for p, t in zip(people, chosen, strict=True) if t is not None)
        for chosen in set(itertools.permutations(slots, len(people)))
    )
    return 2 * best / (len(truth) + len(results))


@pytest.mark.parametrize("seed", range(25))
def test_scores_agree_with_explicit_loops(seed):
    truth, results = random_case(seed)
    scores = evaluate(truth, results)
    ours = (scores.false_positives, scores.misses, scores.switches, scores.fragmentations)
    assert (*ours, scores.mostly_tracked, scores.mostly_lost) == clear_by_loops(truth, results)
    assert scores.idf1 == pytest.approx(idf1_by_brute_force(truth, results))


@pytest.mark.parametrize("seed", range(25))
def test_mota_and_mostly_tracked_follow_from_the_event_list(seed):
    truth, results = random_case(seed)
    scores = evaluate(truth, results)
    events = accumulate(truth, results).mot_events
    kinds = events["Type"].astype(str).tolist()
    owners = events["OId"].tolist()
    wrong = sum(kind in ("FP", "MISS", "SWITCH") for kind in kinds)
    assert scores.mota == pytest.approx(1 - wrong / len(truth))
    mt = ml = 0
    for person in set(truth.id.tolist()):
        found = sum(o == person and kind in ("MATCH", "SWITCH") for o, kind in zip(owners, kinds, strict=True))
        share = found / np.count_nonzero(truth.id == person)
        mt, ml = mt + (share >= 0.8), ml + (share < 0.2)
    assert (scores.mostly_tracked, scores.mostly_lost) == (mt, ml)


def test_perfect_and_empty_results():
    truth, _ = random_case(3)
    perfect, nobody = evaluate(truth, truth), evaluate(truth, as_table([]))
    assert (perfect.mota, perfect.idf1, perfect.precision, perfect.recall) == (1, 1, 1, 1)
    assert (nobody.mota, nobody.idf1, nobody.recall, nobody.mostly_lost) == (0, 0, 0, nobody.n_people)
    assert np.isnan(nobody.precision)


def test_combined_rates_come_from_added_counts():
    parts = [evaluate(*random_case(seed)) for seed in range(4)]
    total = combine(parts)
    wrong = sum(p.false_positives + p.misses + p.switches for p in parts)
    assert total.mota == pytest.approx(1 - wrong / sum(p.n_truth for p in parts))
    assert total.n_people == sum(p.n_people for p in parts)


def test_a_pair_at_exactly_half_overlap_is_allowed():
    whole, half, less = [[0.0, 0, 10, 20]], [[0.0, 0, 10, 10]], [[0.0, 0, 10, 9.99]]
    assert distances(np.array(whole), np.array(half))[0, 0] == 0.5
    assert np.isnan(distances(np.array(whole), np.array(less))[0, 0])


def test_nothing_used_of_motmetrics_is_deprecated():
    truth, results = random_case(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(truth, results)
