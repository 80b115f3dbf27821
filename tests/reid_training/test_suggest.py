"""`reid suggest-labels`: its pairs against all pairs one by one, its files, its errors."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from reid_training import suggest
from reid_training.cli import main
from reid_training.data.base import Samples
from reid_training.errors import DataError
from reid_training.suggest import BOUNDARY, OUTLIER, Crops, suggest_pairs
from tests.oracles.training_runs import mistake

MODEL = str(Path(__file__).resolve().parents[2] / "weights" / "reid_fast.onnx")
THRESHOLD = next(f"{float(p.value):.4f}" for p in onnx.load(MODEL).metadata_props if p.key == "tau_same")


def crops_of(n, moments=None, people=None):
    unlabelled = np.full(n, -1)
    paths = tuple(f"{i}.jpg" for i in range(n))
    known = -1 - np.arange(n) if moments is None else np.asarray(moments)
    return Crops(Samples(paths, unlabelled, unlabelled), tuple(people or [""] * n), known)


def unit_vectors(n, size, seed):
    values = np.random.default_rng(seed).normal(size=(n, size))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def write_crops(folder, n, rng):
    """Single-coloured pictures with a stripe."""
    folder.mkdir()
    for i in range(n):
        picture = np.full((40, 20, 3), rng.integers(0, 256, 3), np.uint8)
        picture[10 : 10 + i, :] = rng.integers(0, 256, 3)
        cv2.imwrite(str(folder / f"{i:02d}.png"), picture)
    return folder


@pytest.mark.parametrize("chunk", [3, 256])
def test_candidates_agree_with_all_pairs_one_by_one(chunk):
    embeddings, moments = unit_vectors(17, 4, 0), np.repeat(np.arange(6), 3)[:17]
    pairs, nearest = suggest._candidates(embeddings, moments, 10, 0.7, chunk)
    dist = {
        (a, b): 1.0 - float(embeddings[a] @ embeddings[b])
        for a, b in itertools.combinations(range(17), 2)
        if moments[a] != moments[b]
    }
    doubtful = set()
    for i in range(17):
        mine = [pair for pair in dist if i in pair and 0.35 <= dist[pair] <= 1.05]
        doubtful.update(sorted(mine, key=dist.__getitem__)[:3])
    assert pairs == sorted(doubtful, key=lambda pair: abs(dist[pair] - 0.7))[:10]
    closest = {min((p for p in dist if i in p), key=dist.__getitem__) for i in range(17)}
    assert set(nearest) == closest
    assert all(nearest[pair] == pytest.approx(dist[pair], abs=1e-6) for pair in nearest)


def test_similar_pairs_come_before_pairs_nearest_to_the_threshold():
    """The first and the third are 0.39 apart, which is nearest to 0.4, but the second is nearer to both of them."""
    c, s = 0.78, np.sqrt(1 - 0.78**2)
    people = np.array([[c, s, 0.0], [1.0, 0.0, 0.0], [c, 0.0, s]], np.float32)
    crops = crops_of(12, np.repeat(np.arange(3), 4))
    pairs = suggest_pairs(np.repeat(people, 4, axis=0), crops, 4, 0.4)
    assert all(1 in (pair.a // 4, pair.b // 4) for pair in pairs)
    assert pairs[0].reason == BOUNDARY


def test_outlier_is_suggested():
    """Thirty crops of one person, and one crop of something else."""
    rng = np.random.default_rng(0)
    embeddings = np.r_[np.eye(8)[:1] + 0.1 * rng.normal(size=(30, 8)), -np.eye(8)[:1]]
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    pairs = suggest_pairs(embeddings, crops_of(31), 4, 0.6)
    assert 30 in (pairs[0].a, pairs[0].b)
    assert pairs[0].reason == OUTLIER


def test_no_crop_is_suggested_twice_while_others_remain():
    pairs = suggest_pairs(unit_vectors(40, 16, 2), crops_of(40), 10, 0.9)
    assert len({row for pair in pairs for row in (pair.a, pair.b)}) == 20


def test_similar_pairs_are_suggested_once():
    """Two people, ten nearly equal crops of each: the pairs across are one question."""
    base = np.array([[1.0, 0.0, 0.0], [0.4, np.sqrt(1 - 0.16), 0.0]])
    embeddings = np.repeat(base, 10, axis=0) + 1e-3 * np.random.default_rng(0).normal(size=(20, 3))
    other = np.array([[0.0, 0.0, 1.0], [0.0, np.sin(0.9), np.cos(0.9)]])
    embeddings = np.r_[embeddings, other]
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    pairs = suggest_pairs(embeddings, crops_of(22), 2, 0.6)
    sides = [{min(pair.a // 10, 2), min(pair.b // 10, 2)} for pair in pairs]
    assert sides.count({0, 1}) == 1


def test_spread_out_skips_neighbours_then_fills_up_with_them():
    dist = np.abs(np.subtract.outer([0.0, 0.1, 5.0, 5.1], [0.0, 0.1, 5.0, 5.1]))
    assert suggest._spread_out([0, 1, 3, 2], dist, np.full(4, 1.0), 2).tolist() == [0, 3]
    assert suggest._spread_out([0, 1, 3, 2], dist, np.full(4, 1.0), 3).tolist() == [0, 3, 1]


def test_crops_of_one_frame_are_never_paired():
    embeddings = unit_vectors(12, 4, 3)
    moments = np.repeat([0, 1, 2], 4)
    for pair in suggest_pairs(embeddings, crops_of(12, moments), 50, 0.7):
        assert moments[pair.a] != moments[pair.b]
    with pytest.raises(DataError, match="every pair is from one frame of one camera"):
        suggest_pairs(embeddings, crops_of(12, np.zeros(12, int)), 5, 0.7)


def test_too_few_pairs_returns_all_of_them():
    pairs = suggest_pairs(np.eye(4, dtype=np.float32), crops_of(4), 99, 0.8)
    assert sorted((pair.a, pair.b) for pair in pairs) == list(itertools.combinations(range(4), 2))


def test_non_finite_embedding_is_named():
    embeddings = unit_vectors(4, 3, 0)
    embeddings[2, 1] = np.nan
    with pytest.raises(DataError, match=r"the embedding of 2\.jpg is not finite"):
        suggest_pairs(embeddings, crops_of(4), 1, 0.7)


# ---------------------------------------------------------------- the command


def test_folder_of_unlabelled_images_is_read(tmp_path, capsys):
    folder = write_crops(tmp_path / "crops", 12, np.random.default_rng(0))
    out = tmp_path / "ask" / "pairs.csv"
    assert main(["suggest-labels", MODEL, "--crops", str(folder), "--n", "6", "--out", str(out)]) == 0
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6
    assert tuple(rows[0]) == suggest.COLUMNS
    assert all(row["same"] == row["table_says"] == "" and row["threshold"] == THRESHOLD for row in rows)
    assert all((folder / row["image_a"]).is_file() for row in rows)
    sheet = cv2.imread(str(out.with_suffix(".png")))
    cell = (suggest.CAPTION_PX + 128 + suggest.GAP_PX, 2 * 64 + 2 * suggest.GAP_PX)
    assert sheet.shape == (2 * cell[0], 5 * cell[1], 3), "six pairs, five in a row"
    crop = cv2.resize(cv2.imread(rows[1]["image_a"]), (64, 128))
    shown = sheet[suggest.CAPTION_PX : cell[0] - suggest.GAP_PX, cell[1] : cell[1] + 64]
    np.testing.assert_array_equal(shown, crop)
    assert "6 pairs of 12 crops" in capsys.readouterr().out


def test_table_gives_known_people_and_frames(tmp_path):
    folder = write_crops(tmp_path / "crops", 6, np.random.default_rng(0))
    lines = ["image,id,camera,frame", *(f"{i:02d}.png,p{i % 2},cam,{i // 2}" for i in range(6))]
    (folder / "people.csv").write_text("\n".join(lines))
    out = tmp_path / "pairs.csv"
    command = ["suggest-labels", MODEL, "--crops", str(folder), "--out", str(out), "--threshold", "0.2"]
    assert main(command) == 0
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows
    for row in rows:
        a, b = (int(row[name][-6:-4]) for name in ("image_a", "image_b"))
        assert a // 2 != b // 2
        assert row["table_says"] == ("same" if a % 2 == b % 2 else "different")


def test_mistakes_give_one_line(tmp_path, capsys):
    ask, out = ("suggest-labels", MODEL, "--crops"), ("--out", tmp_path / "pairs.csv")
    folder = write_crops(tmp_path / "crops", 1, np.random.default_rng(0))
    assert "no file or folder" in mistake(capsys, *ask, tmp_path / "nowhere", *out)
    assert "1 crops; a pair needs two" in mistake(capsys, *ask, folder, *out)
    assert "--n must be >= 1, got 0" in mistake(capsys, *ask, folder, "--n", 0, *out)
    assert "--threshold must be in (0, 2)" in mistake(capsys, *ask, folder, "--threshold", 3, *out)
    (tmp_path / "pairs.csv").write_text("labelled by hand")
    assert "exists already" in mistake(capsys, *ask, folder, *out)
    assert (tmp_path / "pairs.csv").read_text() == "labelled by hand"


def test_model_without_threshold_is_an_error(tmp_path):
    with pytest.raises(suggest.ModelError, match="has no calibrated threshold; export it"):
        suggest.threshold_of(lambda images: images, tmp_path)
