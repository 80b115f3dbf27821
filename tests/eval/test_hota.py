"""HOTA against explicit loops over its definition, cases worked by hand, and invariants."""

from __future__ import annotations

import numpy as np
import pytest

from tests.eval.scenes import as_table, frames_of, one_after_the_other, one_to_one_maps, random_case
from tracker.eval.hota import ALPHAS, combine, evaluate
from tracker.eval.mot_files import BoxTable


def hota_by_loops(truth, results):
    """HOTA, DetA and AssA at every alpha: each true positive is compared with every other one."""
    frames = list(frames_of(truth, results))
    boxes_of = {("p", p): np.count_nonzero(truth.id == p) for p in truth.id.tolist()}
    boxes_of |= {("i", i): np.count_nonzero(results.id == i) for i in results.id.tolist()}
    shared = {}
    for people, found, overlap in frames:
        for a, p in enumerate(people):
            for b, i in enumerate(found):
                if overlap[a, b] > 0:
                    either = overlap[a].sum() + overlap[:, b].sum() - overlap[a, b]
                    shared[p, i] = shared.get((p, i), 0) + overlap[a, b] / either
    alignment = {(p, i): s / (boxes_of["p", p] + boxes_of["i", i] - s) for (p, i), s in shared.items()}
    matches = []
    for people, found, overlap in frames:
        pairs = max(
            one_to_one_maps(len(people), len(found)),
            key=lambda m: sum(alignment.get((people[a], found[b]), 0) * overlap[a, b] for a, b in m),
        )
        matches += [(people[a], found[b], overlap[a, b]) for a, b in pairs]
    rows = []
    for alpha in ALPHAS:
        true_positives = [(p, i) for p, i, overlap in matches if overlap >= alpha]
        n = len(true_positives)
        a_sum = 0.0
        for p, i in true_positives:
            tpa = sum(other == (p, i) for other in true_positives)
            fna, fpa = boxes_of["p", p] - tpa, boxes_of["i", i] - tpa
            a_sum += tpa / (tpa + fna + fpa)
        everything = n + (len(truth) - n) + (len(results) - n)
        rows.append([np.sqrt(a_sum / everything), n / everything, a_sum / n if n else 0.0])
    return np.array(rows).T


@pytest.mark.parametrize("seed", range(40))
def test_hota_agrees_with_explicit_loops(seed):
    truth, results = random_case(seed)
    scores = evaluate(truth, results)
    ours = [scores.hota_at, scores.deta_at, scores.assa_at]
    np.testing.assert_allclose(ours, hota_by_loops(truth, results), atol=1e-12)


BOX, HALF, FAR = (0, 0, 10, 20), (0, 0, 10, 10), (50, 0, 10, 20)

# people and results as (frame, id, box) -> HOTA, DetA, AssA
WORKED = {
    "perfect": ([(1, 1, BOX), (2, 1, BOX)], [(1, 7, BOX), (2, 7, BOX)], (1, 1, 1)),
    "half of the frames: TPA 1, FNA 1": ([(1, 1, BOX), (2, 1, BOX)], [(1, 7, BOX)], (0.5, 0.5, 0.5)),
    "one false box: TP 1, FP 1; FPA 1": ([(1, 1, BOX)], [(1, 7, BOX), (2, 7, FAR)], (0.5, 0.5, 0.5)),
    "another false identity costs no association": (
        [(1, 1, BOX)], [(1, 7, BOX), (1, 8, FAR)], (np.sqrt(0.5), 0.5, 1),
    ),
    "a switch after 3 of 4 frames: 3 times A = 3/4, once 1/4": (
        [(t, 1, BOX) for t in range(4)], [(t, 7 + (t == 3), BOX) for t in range(4)], (np.sqrt(0.625), 1, 0.625),
    ),
    "IoU 0.5: found at 10 of 19 thresholds": ([(1, 1, BOX)], [(1, 7, HALF)], (10 / 19, 10 / 19, 10 / 19)),
    "no detections": ([(1, 1, BOX)], [], (0, 0, 0)),
    "only in the wrong place": ([(1, 1, BOX)], [(1, 7, FAR)], (0, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("case", WORKED)
def test_worked_cases(case):
    truth, results, expected = WORKED[case]
    scores = evaluate(*(as_table([(t + 1, i, *box) for t, i, box in rows]) for rows in (truth, results)))
    assert (scores.hota, scores.deta, scores.assa) == pytest.approx(expected)


def test_identity_with_more_matches_wins_the_frame():
    # Identity 8 fits a little better in frame 1, but 7 is the person's for 9 more frames: HOTA matches 7.
    truth = [(t, 1, *BOX) for t in range(1, 11)]
    results = [(1, 7, 1, 0, 10, 20), (1, 8, *BOX), *((t, 7, *BOX) for t in range(2, 11))]
    scores = evaluate(as_table(truth), as_table(results))
    assert scores.assa_at[0] == 1


@pytest.mark.parametrize("seed", range(10))
def test_ids_do_not_matter(seed):
    truth, results = random_case(seed)
    names = np.random.default_rng(seed).permutation(1000)
    renamed = [BoxTable(table.frame, names[table.id], table.boxes) for table in (truth, results)]
    a, b = evaluate(truth, results), evaluate(*renamed)
    np.testing.assert_allclose([a.hota_at, a.deta_at, a.assa_at], [b.hota_at, b.deta_at, b.assa_at])


@pytest.mark.parametrize("seed", range(10))
def test_invariants(seed):
    truth, results = random_case(seed)
    scores = evaluate(truth, results)
    np.testing.assert_allclose(scores.hota_at**2, scores.deta_at * scores.assa_at)
    for values in (scores.hota_at, scores.deta_at, scores.assa_at):
        assert ((values >= 0) & (values <= 1)).all()
    assert (np.diff(scores.true_positives) <= 0).all()  # a stricter threshold finds nothing new
    np.testing.assert_array_equal(scores.true_positives + scores.misses, len(truth))
    np.testing.assert_array_equal(scores.true_positives + scores.false_positives, len(results))
    perfect = evaluate(truth, truth)
    assert (perfect.hota, perfect.deta, perfect.assa) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("seed", range(10))
def test_combined_equals_concatenated_sequences(seed):
    (truth, results), (more_truth, more_results) = random_case(seed), random_case(seed + 10)
    together = evaluate(one_after_the_other(truth, more_truth), one_after_the_other(results, more_results))
    combined = combine([evaluate(truth, results), evaluate(more_truth, more_results)])
    for name in ("hota_at", "deta_at", "assa_at"):
        np.testing.assert_allclose(getattr(combined, name), getattr(together, name))


def test_combined_is_not_the_mean_of_sequences():
    perfect = [(t, 1, *BOX) for t in range(1, 10)]
    good = evaluate(as_table(perfect), as_table(perfect))
    bad = evaluate(as_table([(1, 1, *BOX)]), as_table([]))
    assert combine([good, bad]).hota == pytest.approx(np.sqrt(0.9))
