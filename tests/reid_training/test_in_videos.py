"""Evaluation inside videos against an oracle that goes through all pairs, and through the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from reid_training.cli import load_embedder, main
from reid_training.data import csv_table, market1501
from reid_training.embedders import embed_images
from reid_training.errors import DataError
from reid_training.evaluate import rank_in_videos
from reid_training.train import train
from tests.oracles.training_runs import mistake

NAMES = ("rank1", "rank5", "rank10", "mean_ap", "tpr_at_fpr_1e2", "tpr_at_fpr_1e3", "n_queries")
NAMES += ("n_same_pairs", "n_diff_pairs")


def slow_rank_in_videos(dist, pids, videos, frames, min_gap):
    """One query after the other, one pair after the other, one threshold after the other."""
    firsts, precisions, same, diff = [], [], [], []
    for i in range(len(pids)):
        candidates = []
        for j in range(len(pids)):
            if i == j or videos[i] != videos[j] or (pids[i] == pids[j] and abs(frames[i] - frames[j]) < min_gap):
                continue
            candidates.append((float(dist[i][j]), j, pids[i] == pids[j]))
            (same if pids[i] == pids[j] else diff).append(float(dist[i][j]))
        found = []
        for place, (_, _, is_right) in enumerate(sorted(candidates), start=1):
            if is_right:
                found.append((place, (len(found) + 1) / place))
        if found:
            firsts.append(found[0][0])
            precisions.append(sum(precision for _, precision in found) / len(found))
    rates = []
    for one_in in (100, 1000):
        rates.append(0.0)
        for threshold in sorted({*same, *diff}):
            if sum(d <= threshold for d in diff) * one_in > len(diff):
                break
            rates[-1] = sum(s <= threshold for s in same) / len(same)
    n = len(firsts)
    ranks = [sum(first <= k for first in firsts) / n for k in (1, 5, 10)]
    return [*ranks, sum(precisions) / n, *rates, n, len(same), len(diff)]


def scores_of(ranking) -> list[float]:
    return [getattr(ranking, name) for name in NAMES]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("min_gap", "chunk"), [(1, 7), (3, 1), (10, 256)])
@pytest.mark.parametrize("many_equal", [False, True])
def test_agrees_with_one_pair_at_a_time(seed, min_gap, chunk, many_equal):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(30, 70))
    pids, videos, frames = rng.integers(1, 7, n), rng.integers(1, 4, n), rng.integers(0, 25, n)
    emb = np.eye(5, dtype=np.float32)[rng.integers(0, 5, n)]
    if not many_equal:
        emb = emb + rng.normal(size=(n, 5)).astype(np.float32)
        emb /= np.linalg.norm(emb, axis=1, keepdims=True)
    # Sums of whole blocks and of single rows differ in the last bit; on a grid of 1/4096 they do not.
    emb = (emb * 64).round() / np.float32(64)
    found = rank_in_videos(emb, pids, videos, frames, min_gap, chunk)
    assert scores_of(found) == pytest.approx(slow_rank_in_videos(1 - emb @ emb.T, pids, videos, frames, min_gap))


# Person 1 of video 1 in frame 100 stands at angle 0. The others are (angle, pid, video, frame). In every case the first
# crop and one other find each other; the other crops have no match.
CASES = {
    "far enough": ([(1, 1, 1, 130), (5, 2, 1, 100)], 1.0, 1.0),
    "far enough, before": ([(1, 1, 1, 70), (5, 2, 1, 100)], 1.0, 1.0),
    "one frame too near is ignored": ([(1, 1, 1, 129), (2, 2, 1, 100), (5, 1, 1, 130)], 0.0, 0.5),
    "another person in the same frame counts": ([(1, 2, 1, 100), (5, 1, 1, 130)], 0.0, 0.5),
    "another video does not count": ([(1, 2, 2, 100), (2, 1, 2, 130), (5, 1, 1, 130)], 1.0, 1.0),
}


@pytest.mark.parametrize("name", CASES)
def test_rank_in_videos_example_cases(name):
    others, rank1, mean_ap = CASES[name]
    rows = [(0, 1, 1, 100), *others]
    angles = np.deg2rad([row[0] for row in rows])
    emb = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = rank_in_videos(emb, *(np.array([row[k] for row in rows]) for k in (1, 2, 3)), 30)
    assert (found.rank1, found.mean_ap, found.n_queries) == (rank1, mean_ap, 2)


def test_no_pair_with_enough_gap_is_an_error():
    ones = np.ones(3, np.int64)
    with pytest.raises(DataError, match="no person is seen twice in one video at least 30 frames apart"):
        rank_in_videos(np.eye(3, dtype=np.float32), ones, ones, np.array([1, 10, 20]), 30)


def test_embeddings_that_are_not_finite_are_refused():
    ones = np.ones(2, np.int64)
    with pytest.raises(DataError, match="not finite"):
        rank_in_videos(np.full((2, 2), np.nan, np.float32), ones, ones, np.array([1, 90]), 30)


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def model(tmp_path_factory, market, tiny) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "videos"
    train(tiny, market1501.read(market), folder)
    return folder


@pytest.fixture(scope="module")
def crops(tmp_path_factory) -> Path:
    """`reid crops` of two videos of twelve frames: four people each, told apart by a noisy colour."""
    root = tmp_path_factory.mktemp("mot")
    rng = np.random.default_rng(0)
    for video in ("A", "B"):
        (root / video / "gt").mkdir(parents=True)
        (root / video / "img1").mkdir()
        truth = []
        for frame in range(1, 13):
            picture = np.zeros((70, 160, 3), np.uint8)
            for person in range(1, 5):
                colour = rng.integers(0, 60, (60, 30, 3)) + np.array([40 * person, 180 - 40 * person, 20 * person])
                picture[5:65, 40 * person - 36 : 40 * person - 6] = colour
                if (frame + person) % 5:
                    truth.append(f"{frame},{person},{40 * person - 35},6,30,60,1,1,1")
            cv2.imwrite(str(root / video / "img1" / f"{frame:06d}.png"), picture)
        (root / video / "gt" / "gt.txt").write_text("\n".join(truth) + "\n")
    assert main(["crops", str(root), "--out", str(root / "crops")]) == 0
    return root / "crops"


def test_command_scores_crops_of_mot_truth(model, crops, tmp_path, capsys):
    with (crops / "people.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    embedder = load_embedder(model)
    pictures = [cv2.imread(str(crops / row["image"]))[:, :, ::-1] for row in rows]
    images = np.stack([cv2.resize(p, (embedder.width, embedder.height)) for p in pictures])
    emb = embed_images(embedder, images)
    columns = [[row["id"] for row in rows], [row["camera"] for row in rows], [int(row["frame"]) for row in rows]]
    expected = dict(zip(NAMES, slow_rank_in_videos(1 - emb @ emb.T, *columns, 4), strict=True))
    for data in (crops, crops / "people.csv"):
        capsys.readouterr()
        out = tmp_path / "scores.json"
        assert main(["evaluate", str(model), "--data", str(data), "--min-gap", "4", "--json", str(out)]) == 0
        printed = capsys.readouterr().out
        (scores,) = json.loads(out.read_text())
        assert {name: scores[name] for name in NAMES} == pytest.approx(expected, abs=0.02)
        assert [scores[name] for name in NAMES[6:]] == [expected[name] for name in NAMES[6:]]
        assert scores["min_gap"] == 4
        assert "inside each video (2), the same person at least 4 frames away" in printed
        assert f"{100 * scores['rank1']:.2f}" in printed.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,id,camera\na.png,1,x\n", "people.csv: no column frame; evaluation inside videos needs it"),
        ("image,id,frame\na.png,1,4\n", "people.csv, line 2: no camera"),
        ("image,id,camera,frame\na.png,1,x,4.5\n", "people.csv, line 2: frame must be a whole number, got '4.5'"),
        ("image,id,camera,frame\na.png,1,x,\n", "people.csv, line 2: frame must be a whole number, got ''"),
        (f"image,id,camera,frame\na.png,1,x,{'9' * 30}\n", "people.csv, line 2: frame must be a whole number"),
        ("image,id,camera,frame,split\na.png,1,x,4,train\n", "people.csv: all images are for training"),
        ("image,id,camera,frame\n", "people.csv: no images"),
        ("image,id,camera,frame\na.png,1,x,4\n", "no person is seen twice in one video"),
    ],
)
def test_tables_without_frame_are_refused(capsys, model, tmp_path, text, reason):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 4, 3), np.uint8))
    (tmp_path / "people.csv").write_text(text)
    assert reason in mistake(capsys, "evaluate", model, "--data", tmp_path / "people.csv", "--min-gap", 30)


def test_command_mistakes_give_one_line(capsys, model, market, crops):
    command = ("evaluate", model, "--data")
    assert "--min-gap must be >= 1, got 0" in mistake(capsys, *command, crops, "--min-gap", 0)
    assert "does not go together" in mistake(capsys, *command, crops, "--min-gap", 4, "--rerank")
    assert "no people.csv; --min-gap needs" in mistake(capsys, *command, market, "--min-gap", 4)
    assert "cannot read" in mistake(capsys, *command, market / "none.csv", "--min-gap", 4)


def test_training_images_are_left_out_and_shared_ones_count_once(tmp_path):
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((8, 4, 3), np.uint8))
    lines = ["image,id,camera,frame,split", "a.png,1,x,4,train", "b.png,2,x,5,query", "b.png,2,x,5,gallery"]
    (tmp_path / "people.csv").write_text("\n".join([*lines, "c.png,2,x,9,gallery"]))
    samples, frames = csv_table.read_videos(tmp_path / "people.csv")
    assert [path.name for path in samples.paths] == ["b.png", "c.png"]
    assert frames.tolist() == [5, 9]


def test_other_uses_of_a_table_ignore_frames(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 4, 3), np.uint8))
    (tmp_path / "people.csv").write_text("image,id,camera,frame\na.png,1,x,none\n")
    assert len(csv_table.read(tmp_path / "people.csv").train) == 1
