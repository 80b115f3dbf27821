"""CLEAR and identity measures: MOTChallenge's, against explicit loops and cases worked by hand."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from tests.eval.scenes import as_table, frames_of, one_after_the_other, one_to_one_maps, random_case
from tracker.eval.clear_identity import clear_events, combine, evaluate
from tracker.eval.mot_files import read_ground_truth, read_results
from tracker.eval.overlap import compare
from tracker.eval.preprocess import prepare


def clear_by_loops(truth, results):
    """FP, FN, IDs, Frag, MT, ML as MOTChallenge defines them, one frame and every one-to-one map at a time."""
    last, before = {}, {}  # person -> identity: whenever it was, and in the frame before
    seen, shown, found_in = {}, {}, {}
    false_positives = misses = switches = 0
    n_compared = 0
    for people, found, overlap in frames_of(truth, results):
        pairs = []
        if people and found:
            n_compared += 1
            allowed = (p for p in one_to_one_maps(len(people), len(found)) if all(overlap[i, j] >= 0.5 for i, j in p))
            pairs = max(
                allowed,
                key=lambda p: (sum(before.get(people[i]) == found[j] for i, j in p), sum(overlap[i, j] for i, j in p)),
            )
            before = {people[i]: found[j] for i, j in pairs}
        for i, j in pairs:
            switches += last.get(people[i], found[j]) != found[j]
            last[people[i]] = found[j]
            seen[people[i]] = seen.get(people[i], 0) + 1
            found_in.setdefault(people[i], []).append(n_compared)
        for person in people:
            shown[person] = shown.get(person, 0) + 1
        misses += len(people) - len(pairs)
        false_positives += len(found) - len(pairs)
    shares = [seen.get(person, 0) / shown[person] for person in shown]
    frag = sum(b > a + 1 for times in found_in.values() for a, b in itertools.pairwise(times))
    return false_positives, misses, switches, frag, sum(s > 0.8 for s in shares), sum(s < 0.2 for s in shares)


def idf1_by_brute_force(truth, results):
    people, tracks = sorted(set(truth.id.tolist())), sorted(set(results.id.tolist()))
    together = {(p, t): 0 for p in people for t in tracks}
    for left, right, overlap in frames_of(truth, results):
        for (i, p), (j, t) in itertools.product(enumerate(left), enumerate(right)):
            together[p, t] += overlap[i, j] >= 0.5
    best = max(
        sum(together[people[i], tracks[j]] for i, j in pairs) for pairs in one_to_one_maps(len(people), len(tracks))
    )
    return 2 * best / (len(truth) + len(results))


def counts(scores):
    return (
        scores.false_positives, scores.misses, scores.switches, scores.fragmentations,
        scores.mostly_tracked, scores.mostly_lost,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_scores_agree_with_explicit_loops(seed):
    truth, results = random_case(seed)
    scores = evaluate(truth, results)
    assert counts(scores) == clear_by_loops(truth, results)
    assert scores.idf1 == pytest.approx(idf1_by_brute_force(truth, results))


@pytest.mark.parametrize("seed", range(10))
def test_mota_and_mostly_tracked_follow_from_the_event_list(seed):
    truth, results = random_case(seed)
    scores = evaluate(truth, results)
    events = clear_events(compare(truth, results)).mot_events
    kinds, owners = events["Type"].astype(str).tolist(), events["OId"].tolist()
    wrong = sum(kind in ("FP", "MISS", "SWITCH") for kind in kinds)
    assert scores.mota == pytest.approx(1 - wrong / len(truth))
    shares = []
    for number, person in enumerate(sorted(set(truth.id.tolist()))):
        found = sum(o == number and kind in ("MATCH", "SWITCH") for o, kind in zip(owners, kinds, strict=True))
        shares.append(found / np.count_nonzero(truth.id == person))
    assert scores.mostly_tracked == sum(share > 0.8 for share in shares)
    assert scores.mostly_lost == sum(share < 0.2 for share in shares)


BOX, NEAR, FAR = (0, 0, 10, 20), (2, 0, 10, 20), (50, 0, 10, 20)  # NEAR has IoU 0.67 with BOX


def scores_of(truth, results):
    """Rows of frame, id, box."""
    return evaluate(as_table([(f, i, *box) for f, i, box in truth]), as_table([(f, i, *box) for f, i, box in results]))


def test_pair_is_kept_to_next_frame_but_not_over_gap():
    truth = [(1, 1, BOX), (2, 1, BOX), (3, 1, BOX)]
    without_gap = scores_of(truth, [(1, 1, BOX), (2, 1, NEAR), (2, 2, BOX)])
    with_gap = scores_of(truth, [(1, 1, BOX), (2, 9, FAR), (3, 1, NEAR), (3, 2, BOX)])
    assert without_gap.switches == 0  # motmetrics and MOTChallenge agree
    assert with_gap.switches == 1  # motmetrics by itself would keep identity 1


def test_frame_without_results_or_people_is_not_a_gap():
    # Frame 2 has no result at all; frame 3 holds only another person, with a result of its own.
    truth = [(f, 1, BOX) for f in (1, 2, 4)] + [(f, 2, FAR) for f in (1, 2, 3, 4)]
    results = [(f, 1, BOX) for f in (1, 4)] + [(f, 2, FAR) for f in (1, 3, 4)]
    assert scores_of(truth[:3], results[:2]).fragmentations == 0
    scores = scores_of(truth, results)
    assert scores.fragmentations == 1  # person 1, absent from frame 3
    assert scores.misses == 2


def test_mostly_tracked_needs_more_than_80_percent():
    truth = [(f, 1, BOX) for f in range(1, 6)]
    assert scores_of(truth, [(f, 1, BOX) for f in range(1, 5)]).mostly_tracked == 0
    assert scores_of(truth, [(f, 1, BOX) for f in range(1, 6)]).mostly_tracked == 1


def test_pair_at_iou_one_half_is_a_match():
    assert scores_of([(1, 1, BOX)], [(1, 1, (0, 0, 10, 10))]).misses == 0
    assert scores_of([(1, 1, BOX)], [(1, 1, (0, 0, 10, 9.99))]).misses == 1


def test_perfect_and_empty_results():
    truth, _ = random_case(3)
    perfect, empty = evaluate(truth, truth), evaluate(truth, as_table([]))
    assert (perfect.mota, perfect.idf1, perfect.precision, perfect.recall) == (1, 1, 1, 1)
    assert (empty.mota, empty.idf1, empty.recall, empty.mostly_lost) == (0, 0, 0, empty.n_people)
    assert np.isnan(empty.precision)


@pytest.mark.parametrize("seed", range(5))
def test_combined_equals_concatenated_sequences(seed):
    (truth, results), (more_truth, more_results) = random_case(seed), random_case(seed + 5)
    together = evaluate(one_after_the_other(truth, more_truth), one_after_the_other(results, more_results))
    assert astuple(combine([evaluate(truth, results), evaluate(more_truth, more_results)])) == astuple(together)


@pytest.mark.parametrize(
    ("name", "rates", "numbers"),
    [
        # IDF1, Rcll, Prcn, MOTA; GT, MT, ML, FP, FN, IDs, FM: as motmetrics' README and its own test have them
        ("TUD-Campus", (0.557659, 0.582173, 0.941441, 0.526462), (8, 1, 1, 13, 150, 7, 7)),
        ("TUD-Stadtmitte", (0.644619, 0.608997, 0.939920, 0.564014), (10, 5, 1, 45, 452, 7, 6)),
    ],
)
def test_motmetrics_examples_give_documented_numbers(name, rates, numbers):
    import motmetrics

    folder = Path(motmetrics.__file__).parent / "data" / name
    s = evaluate(*prepare(read_ground_truth(folder / "gt.txt"), read_results(folder / "test.txt")))
    assert (s.idf1, s.recall, s.precision, s.mota) == pytest.approx(rates, abs=1e-6)
    assert numbers == (
        s.n_people, s.mostly_tracked, s.mostly_lost, s.false_positives, s.misses, s.switches, s.fragmentations
    )  # fmt: skip


def test_used_parts_of_motmetrics_are_not_deprecated():
    truth, results = random_case(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(truth, results)
