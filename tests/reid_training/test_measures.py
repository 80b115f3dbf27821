"""Recall at k, R-precision, MAP@R and NMI, and what a query asks for, against definitions and another library."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from reid_training.cli import main
from reid_training.data.base import Samples
from reid_training.data.retrieval_sets import unknown_cameras
from reid_training.errors import DataError
from reid_training.evaluate import RANKS, by_other_cameras, cosine_rows, nmi, rank, rank_by, rank_in_cameras
from reid_training.ranked_lists import FRAME_PX, GAP_PX, GREEN, GREY, RED, spread_queries, write_ranked_lists
from tests.oracles.training_runs import mistake


def unit(rng, n, d=6):
    emb = rng.normal(size=(n, d)).astype(np.float32)
    return emb / np.linalg.norm(emb, axis=1, keepdims=True)


def scores_by_hand(lists):
    """lists: for each query with an answer, whether each image of its ranked list is right."""
    found = {f"rank{k}": np.mean([any(ranked[:k]) for ranked in lists]) for k in RANKS}
    r_precisions, maps = [], []
    for ranked in lists:
        r = sum(ranked)
        r_precisions.append(sum(ranked[:r]) / r)
        maps.append(sum(sum(ranked[:i]) / i for i in range(1, r + 1) if ranked[i - 1]) / r)
    return {**found, "r_precision": np.mean(r_precisions), "map_at_r": np.mean(maps)}


def lists_by_hand(dist, query, gallery, relation):
    """relation(q, g): right, wrong or None for ignored."""
    lists = []
    for q in range(len(query)):
        said = [(dist[q, g], g, relation(q, g)) for g in range(len(gallery)) if relation(q, g)]
        ranked = [word == "right" for _, _, word in sorted(said)]
        lists += [ranked] if any(ranked) else []
    return lists


def samples(pids, camids, names):
    return Samples(tuple(map(Path, names)), np.asarray(pids), np.asarray(camids))


@pytest.fixture(params=range(6))
def drawn(request):
    """Distances (12, 1500), two sets; some images of the gallery are queries. -1 is junk, 0 a distractor."""
    rng = np.random.default_rng(request.param)
    n = [12, 1500 if request.param == 0 else 80]
    people = [rng.integers(1, 6, n[0]), rng.integers(-1, 6, n[1])]
    cameras = [rng.integers(1, 4, size) for size in n]
    names = [[f"q{i}" for i in range(n[0])], [f"g{i}" for i in range(n[1])]]
    for i in range(4):
        people[1][i], cameras[1][i], names[1][i] = people[0][i], cameras[0][i], names[0][i]
    dist = rng.random((n[0], n[1])).astype(np.float32)
    dist[people[0][:, None] == people[1]] *= 0.6
    return dist, *(samples(*parts) for parts in zip(people, cameras, names, strict=True))


def test_scores_across_cameras_equal_the_definitions(drawn):
    dist, query, gallery = drawn

    def relation(q, g):
        if gallery.pids[g] == -1 or (query.pids[q] == gallery.pids[g] and query.camids[q] == gallery.camids[g]):
            return None
        return "right" if query.pids[q] == gallery.pids[g] else "wrong"

    found = rank_by(lambda a, b: dist[a:b], query.pids, query.camids, gallery.pids, gallery.camids, chunk=5)
    for name, expected in scores_by_hand(lists_by_hand(dist, query, gallery, relation)).items():
        assert getattr(found, name) == pytest.approx(expected, abs=1e-9), name


def test_scores_inside_cameras_equal_the_definitions(drawn):
    dist, query, gallery = drawn

    def relation(q, g):
        if gallery.pids[g] == -1 or query.camids[q] != gallery.camids[g] or query.paths[q] == gallery.paths[g]:
            return None
        return "right" if query.pids[q] == gallery.pids[g] else "wrong"

    found = rank_in_cameras(lambda a, b: dist[a:b], query, gallery, chunk=5)
    words = [relation(q, g) for q in range(len(query)) for g in range(len(gallery))]
    assert (found.n_same_pairs, found.n_diff_pairs) == (words.count("right"), words.count("wrong"))
    for name, expected in scores_by_hand(lists_by_hand(dist, query, gallery, relation)).items():
        assert getattr(found, name) == pytest.approx(expected, abs=1e-9), name


def test_no_person_twice_by_one_camera_has_no_scores_inside_cameras():
    one = samples([1, 2, 1, 2], [1, 1, 2, 2], "abcd")
    assert rank_in_cameras(lambda a, b: np.zeros((b - a, 4), np.float32), one, one) is None


@pytest.mark.parametrize("seed", range(4))
def test_scores_without_cameras_equal_pytorch_metric_learning(seed):
    package = pytest.importorskip(
        "pytorch_metric_learning.utils.accuracy_calculator", reason="extra `losses` is absent"
    )
    inference = pytest.importorskip("pytorch_metric_learning.utils.inference")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    cluster = pytest.importorskip("sklearn.cluster")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    emb, labels = unit(rng, 60), np.repeat(np.arange(1, 11), 6)

    def kmeans(rows, n):
        return torch.from_numpy(cluster.KMeans(n, n_init=1, random_state=0).fit_predict(rows.numpy()))

    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r", "mean_average_precision", "NMI")
    knn = inference.CustomKNN(distances.CosineSimilarity())
    calculator = package.AccuracyCalculator(include=names, k=59, knn_func=knn, kmeans_func=kmeans)
    expected = calculator.get_accuracy(torch.from_numpy(emb), torch.from_numpy(labels))
    cameras = unknown_cameras(60)
    found = rank(emb, labels, cameras, emb, labels, cameras)
    assert found.n_queries == 60
    got = (found.rank1, found.r_precision, found.map_at_r, found.mean_ap, nmi(emb, labels))
    assert got == pytest.approx([expected[name] for name in names], abs=1e-6)


def test_map_at_r_by_hand():
    """R = 3; right, wrong, right, ...: 1/3 (1 + 2/3), the third right image comes too late. R-precision 2/3."""
    dist = np.array([[0.1, 0.2, 0.3, 0.4, 0.5]], np.float32)
    cameras = np.ones(1, np.int64), np.full(5, 2)
    found = rank_by(lambda a, b: dist[a:b], np.array([1]), cameras[0], np.array([1, 2, 1, 3, 1]), cameras[1])
    assert found.map_at_r == pytest.approx((1 + 2 / 3) / 3)
    assert found.r_precision == pytest.approx(2 / 3)
    assert found.mean_ap == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_nmi_equals_its_definition():
    """2 I(L; C) / (H(L) + H(C)), of the clusters that k-means finds."""
    cluster = pytest.importorskip("sklearn.cluster", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    labels = np.repeat([3, 5, 9], 8)
    emb = unit(rng, 24)
    clusters = cluster.KMeans(3, n_init=1, random_state=0).fit_predict(emb).tolist()

    def entropy(values):
        return -sum(n / 24 * math.log(n / 24) for n in Counter(values).values())

    both = entropy(zip(labels.tolist(), clusters, strict=True))
    alone = entropy(labels.tolist()) + entropy(clusters)
    assert nmi(emb, labels) == pytest.approx(2 * (alone - both) / alone, abs=1e-9)
    apart = np.eye(3, dtype=np.float32)[[0] * 4 + [1] * 4 + [2] * 4]
    assert nmi(apart, np.repeat([1, 2, 3], 4)) == pytest.approx(1.0)


def draw(folder, n):
    names = [folder / f"{i}.png" for i in range(n)]
    for name in names:
        assert cv2.imwrite(str(name), np.full((32, 16, 3), 255, np.uint8))
    return names


def test_picture_frames_right_images_green_and_wrong_ones_red(tmp_path):
    names = draw(tmp_path, 5)
    query = samples([1, 7], [1, 1], names[:2])  # 7 is nowhere in the gallery
    gallery = samples([1, 2, 1, 1], [2, 1, 2, 1], names[1:])  # the last is by the query's own camera
    dist = np.array([[0.2, 0.1, 0.3, 0.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    answers = by_other_cameras(query.pids, query.camids, gallery.pids, gallery.camids)
    path = tmp_path / "lists.png"
    n = write_ranked_lists(lambda a, b: dist[a:b], answers, query, gallery, 9, (32, 16), path)
    picture = cv2.imread(str(path))[..., ::-1]
    assert n == 1
    cell = 64 + 2 * FRAME_PX + GAP_PX
    frames = [tuple(picture[-30, x].tolist()) for x in range(0, picture.shape[1], cell)]
    assert frames == [GREY, RED, GREEN, GREEN, *[(255, 255, 255)] * 7]


def test_queries_of_the_picture_are_spread_over_those_with_an_answer():
    right = np.zeros((1000, 3), bool)
    right[100::2] = True
    rows = spread_queries(lambda a, b: (right[a:b], ~right[a:b]), 1000, 4)
    assert rows.tolist() == [100, 400, 698, 998]
    assert len(spread_queries(lambda a, b: (right[a:b], ~right[a:b]), 1000, 5000)) == 450


@pytest.fixture(scope="module")
def model(tmp_path_factory, market, tiny):
    import dataclasses

    from reid_training.data import market1501
    from reid_training.train import train

    out = tmp_path_factory.mktemp("model") / "run"
    train(
        dataclasses.replace(tiny, schedule=dataclasses.replace(tiny.schedule, epochs=1)), market1501.read(market), out
    )
    return out


@pytest.mark.slow
def test_evaluate_has_a_row_for_each_kind_of_answer(market, model, tmp_path, capsys):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    capsys.readouterr()
    files = ["--json", str(tmp_path / "s.json"), "--csv", str(tmp_path / "s.csv")]
    more = ["--nmi", "--picture", str(tmp_path / "lists.png"), "--queries", "3"]
    assert main(["evaluate", str(model), "--data", str(market), *files, *more]) == 0
    printed = capsys.readouterr().out
    assert "other cameras: the same person by another camera, among all people" in printed
    assert "same camera: another image of the same person by the same camera" in printed
    rows = json.loads((tmp_path / "s.json").read_text())
    assert [(row["distance"], row["right"]) for row in rows] == [("cosine", "other cameras"), ("cosine", "same camera")]
    assert f"NMI {100 * rows[0]['nmi']:.2f}" in printed
    for row in rows:
        (_, recalls) = (line for line in printed.splitlines() if line.startswith(f"cosine        {row['right']}"))
        assert recalls.split()[3:] == [f"{100 * row[f'rank{k}']:.2f}" for k in RANKS]
    with (tmp_path / "s.csv").open(newline="") as stream:
        assert [{key: str(value) for key, value in row.items()} for row in rows] == list(csv.DictReader(stream))
    assert cv2.imread(str(tmp_path / "lists.png")) is not None
    assert f"{tmp_path / 'lists.png'}: 3 queries" in printed


@pytest.mark.slow
def test_table_without_cameras_asks_for_all_other_images(market, model, tmp_path, capsys):
    images = sorted((market / "bounding_box_train").iterdir())
    lines = ["image,id", *(f"{path.relative_to(market)},{path.name[:4]}" for path in images)]
    (market / "things.csv").write_text("\n".join(lines))
    capsys.readouterr()
    path = tmp_path / "s.json"
    assert main(["evaluate", str(model), "--data", str(market / "things.csv"), "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert f"things.csv, single query: {len(images)} queries, {len(images)} gallery images" in printed
    assert "other images: another image of the same identity, among all other images: no camera is known" in printed
    (row,) = json.loads(path.read_text())
    assert row["right"] == "other images"
    assert row["n_same_pairs"] == len(images) * 5, "each person has six images: every other one, and not itself"


def test_image_that_is_query_and_gallery_without_cameras_does_not_find_itself(market):
    from reid_training.data import csv_table

    names = [f"bounding_box_train/{path.name}" for path in sorted((market / "bounding_box_train").iterdir())[:4]]
    rows = [f"{name},{person},{split}" for split in ("query", "gallery") for name, person in zip(names, "aabb")]  # noqa: B905
    (market / "both.csv").write_text("\n".join(["image,id,split", *rows]))
    data = csv_table.read(market / "both.csv")
    assert np.array_equal(data.query.camids, data.gallery.camids)
    emb = np.eye(4, dtype=np.float32)
    found = rank(emb, data.query.pids, data.query.camids, emb, data.gallery.pids, data.gallery.camids)
    assert found.n_same_pairs == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--picture", "lists.jpg"], "--picture writes a PNG, got lists.jpg"),
        (["--picture", "lists.png", "--queries", "0"], "--queries must be >= 1, got 0"),
        (["--nmi", "--min-gap", "3"], "--nmi is for query and gallery"),
        (["--picture", "a.png", "--min-gap", "3"], "--picture is for query and gallery"),
    ],
)
def test_bad_option_is_named(capsys, market, tmp_path, options, said):
    assert said in mistake(capsys, "evaluate", "fast", "--data", market, *options)


def test_absent_scikit_learn_is_asked_for(monkeypatch):
    import sys

    from reid_training.errors import ConfigError

    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ConfigError, match="needs scikit-learn: pip install scikit-learn"):
        nmi(np.eye(3, dtype=np.float32), np.array([1, 1, 2]))


def test_not_finite_embeddings_have_no_nmi():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    with pytest.raises(DataError, match="not finite"):
        nmi(np.full((3, 2), np.nan, np.float32), np.array([1, 1, 2]))


def test_cosine_rows_are_distances():
    rng = np.random.default_rng(0)
    a, b = unit(rng, 5), unit(rng, 7)
    np.testing.assert_allclose(cosine_rows(a, b)(1, 4), 1 - a[1:4] @ b.T, atol=1e-6)
