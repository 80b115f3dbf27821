"""CMC, mAP, verification and calibration against oracles that go through the definitions one pair at a time."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from reid_training.cli import main, write_scores
from reid_training.errors import DataError
from reid_training.evaluate import (
    _Lowest,
    as_row,
    calibrate,
    class_distance_ratio,
    mean_and_interval,
    rank,
    rank_by,
)


def unit(rng, n, d=6):
    emb = rng.normal(size=(n, d)).astype(np.float32)
    return emb / np.linalg.norm(emb, axis=1, keepdims=True)


def slow_rank(query, query_pids, query_camids, gallery, gallery_pids, gallery_camids):
    """For each query: a list of candidates, sorted, read from the top."""
    firsts, precisions = [], []
    for q, pid, camid in zip(query, query_pids, query_camids, strict=True):
        candidates = []
        for index, (g, other, camera) in enumerate(zip(gallery, gallery_pids, gallery_camids, strict=True)):
            if other == -1 or (other == pid and camera == camid):
                continue
            candidates.append((float(np.float32(1.0) - q @ g), index, other == pid))
        right_so_far, found = 0, []
        for place, (_, _, is_right) in enumerate(sorted(candidates), start=1):
            if is_right:
                right_so_far += 1
                found.append((place, right_so_far / place))
        if found:
            firsts.append(found[0][0])
            precisions.append(sum(precision for _, precision in found) / len(found))
    n = len(firsts)
    return [sum(first <= k for first in firsts) / n for k in (1, 5, 10)] + [sum(precisions) / n, n]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_rank_agrees_with_one_query_at_a_time(seed, chunk):
    rng = np.random.default_rng(seed)
    n_query, n_gallery = int(rng.integers(1, 12)), int(rng.integers(20, 60))
    arrays = (
        unit(rng, n_query),
        rng.integers(1, 6, n_query),
        rng.integers(1, 4, n_query),
        unit(rng, n_gallery),
        rng.integers(-1, 6, n_gallery),  # -1 is junk, 0 a distractor
        rng.integers(1, 4, n_gallery),
    )
    found = rank(*arrays, chunk=chunk)
    expected = slow_rank(*arrays)
    assert [found.rank1, found.rank5, found.rank10, found.mean_ap, found.n_queries] == pytest.approx(expected, abs=1e-9)


def slow_verification(dist, query_pids, query_camids, gallery_pids, gallery_camids, one_in):
    """All pairs in two lists; every distance is tried as the threshold."""
    same, diff = [], []
    for q, (pid, camid) in enumerate(zip(query_pids, query_camids, strict=True)):
        for g, (other, camera) in enumerate(zip(gallery_pids, gallery_camids, strict=True)):
            if other == -1 or (other == pid and camera == camid):
                continue
            (same if other == pid else diff).append(float(dist[q, g]))
    best = 0.0
    for threshold in sorted({*same, *diff}):
        if sum(d <= threshold for d in diff) * one_in > len(diff):
            break
        best = sum(s <= threshold for s in same) / len(same)
    return best, len(same), len(diff)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("chunk", "steps"), [(1, 0), (5, 0), (256, 0), (5, 40), (256, 8)])
def test_verification_agrees_with_one_pair_at_a_time(seed, chunk, steps):
    """`steps` > 0: so few different distances that most pairs share theirs with others."""
    rng = np.random.default_rng(seed)
    labels = (rng.integers(1, 9, 30), rng.integers(1, 4, 30), rng.integers(-1, 9, 70), rng.integers(1, 4, 70))
    dist = rng.random((30, 70)).astype(np.float32)
    dist[labels[0][:, None] == labels[2]] *= 0.2  # the same person is nearer, mostly
    if steps:
        dist = (dist * steps).round() / np.float32(steps)
    found = rank_by(lambda start, stop: dist[start:stop], *labels, chunk=chunk)
    for got, one_in in ((found.tpr_at_fpr_1e2, 100), (found.tpr_at_fpr_1e3, 1000)):
        assert (got, found.n_same_pairs, found.n_diff_pairs) == slow_verification(dist, *labels, one_in)


@pytest.mark.parametrize("chunk", [3, 256])
def test_equal_distances_keep_the_order_of_the_gallery(chunk):
    rng = np.random.default_rng(0)
    labels = (rng.integers(1, 5, 20), rng.integers(1, 4, 20), rng.integers(-1, 5, 50), rng.integers(1, 4, 50))
    corners = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    query, gallery = corners[rng.integers(0, 4, 20)], corners[rng.integers(0, 4, 50)]
    arrays = (query, *labels[:2], gallery, *labels[2:])
    found = rank(*arrays, chunk=chunk)
    expected = slow_rank(*arrays)
    assert [found.rank1, found.rank5, found.rank10, found.mean_ap, found.n_queries] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("count", [1, 2, 7, 3000])
@pytest.mark.parametrize("steps", [0, 10])
@pytest.mark.parametrize("smallest", ["anywhere", "first", "last"])
def test_lowest_values_of_a_stream_equal_those_of_the_whole(count, steps, smallest):
    rng = np.random.default_rng(count)
    values = rng.random(20_000).astype(np.float32)
    values = (values * steps).round() if steps else values
    parts = np.array_split(values, 23)
    parts = parts if smallest == "anywhere" else sorted(parts, key=np.min, reverse=smallest == "last")
    if smallest == "first":
        parts[0] = np.concatenate([-np.arange(2 * count, dtype=np.float32), parts[0]])
        rng.shuffle(parts[0])
    values = np.concatenate(parts)
    lowest = _Lowest(count)
    for part in parts:
        lowest.add(part[part <= lowest.bound])
    whole = sorted(values.tolist())
    for place in {0, count // 2, count - 1}:
        assert lowest.value(place) == whole[place]
    assert lowest.bound == whole[count - 1] or len(lowest.kept) > count
    assert len(lowest.kept) <= 2 * count


def test_verification_by_hand():
    """200 strangers at 0.01, 0.02, ...: at 1 % two may pass, at 0.1 % none; the third and the first are the limits."""
    dist = np.array([[0.005, 0.015, 0.0299, 0.03, 0.5, *np.arange(1, 201) / 100]], np.float32)
    pids, camids = np.array([1] * 5 + [2] * 200), np.full(205, 2)
    found = rank_by(lambda start, stop: dist[start:stop], np.array([1]), np.array([1]), pids, camids)
    assert (found.tpr_at_fpr_1e2, found.tpr_at_fpr_1e3) == (3 / 5, 1 / 5)
    assert (found.n_same_pairs, found.n_diff_pairs) == (5, 200)


def test_verification_without_negative_pairs_is_nan():
    emb = np.eye(2, dtype=np.float32)
    found = rank(emb, np.array([1, 1]), np.array([1, 1]), emb, np.array([1, 1]), np.array([2, 2]))
    assert np.isnan(found.tpr_at_fpr_1e2)
    assert found.n_diff_pairs == 0


def test_embeddings_that_are_not_finite_are_refused():
    emb = np.full((2, 2), np.nan, np.float32)
    with pytest.raises(DataError, match="not finite"):
        rank(emb, np.array([1, 1]), np.array([1, 1]), emb, np.array([1, 1]), np.array([2, 2]))


BIG = """
import re, sys
import numpy as np
from reid_training.evaluate import calibrate, rank, rank_by
from reid_training.rerank import reranked_rows

rng = np.random.default_rng(0)
def unit(pids):
    emb = people[pids] + rng.normal(size=(len(pids), 512), scale=2.0).astype(np.float32)
    return (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32)
people = rng.normal(size=(1000, 512)).astype(np.float32)
labels = [rng.integers(low, high, n) for low, high, n in
          ((0, 1000, 3400), (0, 6, 3400), (0, 1000, 20000), (0, 6, 20000))]
query, gallery = unit(labels[0]), unit(labels[2])
if sys.argv[1] == "cosine":
    rank(query, *labels[:2], gallery, *labels[2:])
elif sys.argv[1] == "k-reciprocal":
    rank_by(reranked_rows(query, gallery), *labels)
else:
    calibrate(gallery, *labels[2:])
# Not ru_maxrss, which begins with that of the process that started this one.
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells it there")
@pytest.mark.parametrize("what", ["cosine", "k-reciprocal", "calibrate"])
def test_gallery_of_20000_needs_less_than_2_gib(what):
    """3,400 queries, 512 dimensions, a fresh interpreter, its whole resident memory."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BIG, what], env=environment, capture_output=True, check=True, text=True
    )
    assert int(done.stdout) < 2 * 2**20


@pytest.mark.slow
def test_evaluate_writes_all_scores(tmp_path, market, tiny, capsys):
    from reid_training.data import market1501
    from reid_training.train import train

    train(tiny, market1501.read(market), tmp_path / "run")
    files = ["--json", str(tmp_path / "scores.json"), "--csv", str(tmp_path / "scores.csv")]
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(market), "--rerank", *files]) == 0
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "scores.json").read_text())
    with (tmp_path / "scores.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    kinds = [("cosine", "other cameras"), ("k-reciprocal", "other cameras"), ("cosine", "same camera")]
    assert [(row["distance"], row["right"]) for row in rows] == kinds
    assert [{key: str(value) for key, value in row.items()} for row in rows] == table
    for row in rows:
        start = f"{row['distance']:<12}  {row['right']}"
        line = next(line for line in printed.splitlines() if line.startswith(start))
        names = ("rank1", "rank5", "rank10", "mean_ap", "map_at_r", "r_precision", "tpr_at_fpr_1e2", "tpr_at_fpr_1e3")
        assert line.split()[3:] == [f"{100 * row[name]:.2f}" for name in names]


def test_nan_score_is_written_as_an_empty_value(tmp_path):
    emb = np.eye(2, dtype=np.float32)
    scores = rank(emb, np.array([1, 1]), np.array([1, 1]), emb, np.array([1, 1]), np.array([2, 2]))
    write_scores([as_row(scores)], tmp_path / "s.json", tmp_path / "s.csv")
    assert json.loads((tmp_path / "s.json").read_text())[0]["tpr_at_fpr_1e2"] is None
    with (tmp_path / "s.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["tpr_at_fpr_1e2"], row["tpr_at_fpr_1e3"]) == ("", "")


# One query: person 1, camera 1, at angle 0. Gallery rows are (angle, pid, camid), nearest first.
CASES = {
    "right answer first": ([(1, 1, 2), (5, 2, 2)], 1.0, 1.0),
    "wrong one first": ([(1, 2, 2), (5, 1, 2)], 0.0, 0.5),
    "same person, same camera does not count": ([(1, 1, 1), (2, 2, 2), (5, 1, 2)], 0.0, 0.5),
    "another person, same camera does count": ([(1, 2, 1), (5, 1, 2)], 0.0, 0.5),
    "junk does not count": ([(1, -1, 2), (2, -1, 1), (5, 1, 2)], 1.0, 1.0),
    "a distractor counts as wrong": ([(1, 0, 2), (5, 1, 2)], 0.0, 0.5),
    "two right answers, places 1 and 3": ([(1, 1, 2), (2, 2, 2), (5, 1, 3)], 1.0, (1 + 2 / 3) / 2),
}


@pytest.mark.parametrize("name", CASES)
def test_protocol_example_by_hand(name):
    rows, rank1, mean_ap = CASES[name]
    angles = np.deg2rad([row[0] for row in rows])
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    pids, camids = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    found = rank(np.array([[1.0, 0.0]], np.float32), np.array([1]), np.array([1]), gallery, pids, camids)
    assert found.rank1 == rank1
    assert found.mean_ap == pytest.approx(mean_ap)


def test_query_without_a_match_is_skipped():
    emb = np.eye(3, dtype=np.float32)
    found = rank(emb[:2], np.array([1, 9]), np.array([1, 1]), emb, np.array([1, 2, 3]), np.array([2, 2, 2]))
    assert found.n_queries == 1


def test_no_query_with_a_match_is_an_error():
    emb = np.eye(2, dtype=np.float32)
    with pytest.raises(DataError, match="no query"):
        rank(emb[:1], np.array([1]), np.array([1]), emb, np.array([1, 2]), np.array([1, 1]))


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_calibration_agrees_with_one_pair_at_a_time(chunk):
    rng = np.random.default_rng(3)
    emb, pids, camids = unit(rng, 60), rng.integers(0, 10, 60), rng.integers(0, 3, 60)
    found = calibrate(emb, pids, camids, chunk=chunk)
    for name, wanted in (("pooled", (True, False)), ("same_camera", (True,)), ("cross_camera", (False,))):
        same, diff = [], []
        for i in range(60):
            for j in range(i):
                if bool(camids[i] == camids[j]) in wanted:
                    (same if pids[i] == pids[j] else diff).append(1.0 - float(emb[i] @ emb[j]))
        group = found[name]
        assert (group.n_same, group.n_diff) == (len(same), len(diff))
        assert group.tau_same == pytest.approx(np.quantile(diff, 0.01), abs=1e-6)
        assert group.tau_diff == pytest.approx(np.quantile(same, 0.99), abs=1e-6)
        # An interpolated quantile lies between two pairs: one pair more or less may pass.
        assert abs(sum(d <= group.tau_same for d in diff) - 0.01 * len(diff)) <= 1
        assert abs(sum(d <= group.tau_diff + 1e-6 for d in same) - 0.99 * len(same)) <= 1
        assert group.sigma_same == pytest.approx(np.sqrt(sum(d * d for d in same) / len(same)), rel=1e-5)
        assert group.tpr_at_tau_same == pytest.approx(sum(d <= group.tau_same for d in same) / len(same))


def test_calibration_of_a_perfect_metric_separates_all_people():
    emb = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
    found = calibrate(emb, np.repeat(np.arange(4), 3), np.tile([1, 2, 2], 4))["pooled"]
    assert (found.tau_diff, found.sigma_same, found.tau_same, found.tpr_at_tau_same) == (0.0, 0.0, 1.0, 1.0)


def test_calibration_skips_parts_without_both_kinds_of_pairs():
    emb = np.repeat(np.eye(2, dtype=np.float32), 2, axis=0)
    pids = np.array([1, 1, 2, 2])
    assert set(calibrate(emb, pids, np.array([1, 2, 1, 2]))) == {"pooled", "cross_camera"}
    assert set(calibrate(emb, pids, np.ones(4, np.int64))) == {"pooled", "same_camera"}
    assert calibrate(emb, np.ones(4, np.int64), pids) == {}


# Few shots


def test_interval_equals_scipy(rng):
    values = rng.uniform(0.4, 1.0, 600)
    mean, half = mean_and_interval(values)
    low, high = scipy.stats.norm.interval(0.95, values.mean(), scipy.stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), abs=1e-6)


def test_interval_holds_the_true_mean_95_times_of_100(rng):
    holds = []
    for _ in range(2000):
        mean, half = mean_and_interval(rng.binomial(25, 0.9, 600) / 25)
        holds.append(abs(mean - 0.9) < half)
    assert np.mean(holds) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, float("nan")]])
def test_no_interval_of_too_few_values(values):
    with pytest.raises(DataError, match="an interval needs at least 2 finite values"):
        mean_and_interval(values)


def test_class_distance_ratio_agrees_with_a_loop(rng):
    emb, labels = rng.normal(size=(30, 4)).astype(np.float32), rng.permutation(np.repeat([2, 3, 9], [5, 10, 15]))
    centres = {c: emb[labels == c].astype(np.float64).mean(0) for c in (2, 3, 9)}
    nearest = [min(np.linalg.norm(centres[a] - centres[b]) for b in centres if b != a) for a in centres]
    spread = [np.mean([np.linalg.norm(x - centres[c]) for x in emb[labels == c]]) for c in centres]
    ratio = class_distance_ratio(emb, labels)
    assert ratio == pytest.approx(np.mean(nearest) / np.mean(spread))
    assert class_distance_ratio(7 * emb, labels) == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("labels", "said"), [([1, 1, 1, 1], "at least 2 classes, got 1"), ([0, 1, 2, 3], "the same embedding")]
)
def test_no_class_distance_ratio_without_classes_or_spread(rng, labels, said):
    with pytest.raises(DataError, match=said):
        class_distance_ratio(rng.normal(size=(4, 2)).astype(np.float32), np.array(labels))


def test_class_distance_ratio_of_non_finite_embeddings_is_an_error():
    with pytest.raises(DataError, match="not finite"):
        class_distance_ratio(np.full((4, 2), np.nan, np.float32), np.array([0, 0, 1, 1]))
