"""MNIST experiment of the triplet VAE on a few generated digits: triplets, measures, files, data errors."""

from __future__ import annotations

import dataclasses
import gzip
import math
import struct

import numpy as np
import pytest
import torch

from reid_training.errors import DataError
from tools.experiments import mnist, special

SHORT = {
    role: setting and dataclasses.replace(setting, n_epochs=2, n_triplets=96, batch=32)
    for role, setting in mnist.SETTINGS.items()
}


def generated(n_per_class, rng):
    """Pictures (N, 28, 28) and labels (N,), in no order."""
    digits = mnist.generated(n_per_class, rng)
    return digits.pixels.reshape(-1, 28, 28), digits.labels.astype(np.uint8)


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    (x_train, y_train), (x_test, y_test) = generated(12, rng), generated(6, rng)
    (tmp_path / "mnist").mkdir()
    np.savez(tmp_path / "mnist" / "mnist.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return tmp_path


def test_triplets_are_valid_and_balanced_over_classes():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([3, 5, 6], [2, 30, 400]))
    anchors, positives, negatives = mnist.draw_triplets(labels, 30_000, rng).T
    assert (labels[anchors] == labels[positives]).all()
    assert (anchors != positives).all()
    assert (labels[anchors] != labels[negatives]).all()
    for rows in (anchors, negatives):
        shares = [(labels[rows] == label).mean() for label in (3, 5, 6)]
        np.testing.assert_allclose(shares, 1 / 3, atol=0.015)  # five standard deviations
    assert set(anchors) == set(positives) == set(range(len(labels)))


def test_triplet_accuracy_equals_loop_over_triplets():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20, 3)).astype(np.float32)
    triplets = rng.integers(0, 20, (50, 3))
    right = [math.dist(points[a], points[p]) < math.dist(points[a], points[n]) for a, p, n in triplets]
    assert mnist.triplet_accuracy(points, triplets) == sum(right) / 50


def test_triplet_with_equal_distances_counts_as_wrong():
    points = np.array([[0.0], [1.0], [-1.0]], np.float32)
    assert mnist.triplet_accuracy(points, np.array([[0, 1, 2]])) == 0.0


@pytest.mark.parametrize("chunk", [7, 500])
def test_rank1_equals_loop_over_points(chunk):
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 4, 40)
    right = 0
    for i in range(40):
        nearest = min((j for j in range(40) if j != i), key=lambda j: math.dist(points[i], points[j]))
        right += int(labels[nearest] == labels[i])
    assert mnist.rank1(points, labels, chunk) == right / 40


def test_baseline_is_the_method_without_triplet_loss():
    baseline, method = mnist.SETTINGS["baseline"], mnist.SETTINGS["method"]
    assert baseline == dataclasses.replace(method, triplet_weight=0.0)


def test_seed_decides_the_weights(data):
    digits, _ = mnist.read(data, mnist.MNIST, "test")
    first, second, other = (mnist.train(digits, SHORT["method"], seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.mean.weight, other.mean.weight)


def test_triplet_loss_clusters_digits_by_class(data):
    known, unseen = mnist.read(data, mnist.MNIST, "test")
    longer = {role: setting and dataclasses.replace(setting, n_epochs=10) for role, setting in SHORT.items()}
    vae, both = (mnist.run_one(known, unseen, longer[role], 0) for role in ("baseline", "method"))
    assert both.triplet_accuracy > vae.triplet_accuracy + 0.05
    assert both.kl >= 0.0


def test_finished_runs_are_not_repeated(data, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "SETTINGS", SHORT)
    tasks = []

    run = mnist._run
    monkeypatch.setattr(mnist, "_run", lambda *task: (tasks.append(task), run(*task)))
    rows = mnist.run(data, tmp_path / "out", [0, 1], 1)
    assert len(tasks) == 6
    assert mnist.run(data, tmp_path / "out", [0, 1], 1) == rows
    assert len(tasks) == 6
    mnist.run(data, tmp_path / "out", [0, 1, 2], 1)
    assert len(tasks) == 9
    assert [row.measure for row in rows[:2]] == ["triplet accuracy", "triplet accuracy, against raw pixels"]
    assert all(len(row.baseline) == len(row.method) == 2 for row in rows)


def test_tool_runs_the_reduced_form(tmp_path):
    assert special.SPECIAL["triplet_vae"] == "tools.experiments.mnist"
    rows = special.run_reduced("triplet_vae", tmp_path, [0, 1], 1)
    assert [row.data for row in rows] == ["mnist (drawn)"] * 4


def test_validation_images_are_training_images(data, monkeypatch):
    monkeypatch.setattr(mnist, "N_VALIDATION", 30)
    everything, test = mnist.read(data, mnist.MNIST, "test")
    known, unseen = mnist.read(data, mnist.MNIST, "validation")
    assert (len(known.labels), len(unseen.labels), len(test.labels)) == (90, 30, 60)
    np.testing.assert_array_equal(np.concatenate([known.pixels, unseen.pixels]), everything.pixels)


def test_missing_data_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file .*mnist\.npz; --data names the folder that mnist/ lies in"):
        mnist.run(tmp_path, tmp_path / "out", [0], 1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more"])
def test_corrupt_file_is_named(tmp_path, content):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "mnist.npz").write_bytes(content)
    with pytest.raises(DataError, match="is not MNIST as expected, or it is damaged"):
        mnist.read(tmp_path, mnist.MNIST, "test")


def idx_of(array):
    """As the format's page describes it: two zeros, 8 for bytes, the number of sizes, the sizes, the bytes."""
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


@pytest.fixture
def clothes(data):
    folder = data / "fashion-mnist"
    folder.mkdir()
    for part, n in (("train", 12), ("t10k", 6)):
        pixels, labels = generated(n, np.random.default_rng(n))
        for name, array in ((f"{part}-images-idx3", pixels), (f"{part}-labels-idx1", labels)):
            (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(idx_of(array)))
    return data


def test_clothes_are_read_as_written(clothes):
    for n, part in zip((12, 6), mnist.read(clothes, mnist.FASHION, "test"), strict=True):
        pixels, labels = generated(n, np.random.default_rng(n))
        np.testing.assert_array_equal(part.pixels, pixels.reshape(-1, 784))
        np.testing.assert_array_equal(part.labels, labels)


def test_clothes_add_rows_after_the_digits(clothes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mnist, "SETTINGS", SHORT)
    rows = mnist.run(clothes, tmp_path / "out", [0], 1)
    assert [row.data for row in rows] == ["mnist"] * 4 + ["fashion-mnist"] * 4
    assert not capsys.readouterr().err
    (clothes / "fashion-mnist").rename(clothes / "elsewhere")
    assert mnist.run(clothes, tmp_path / "out", [0], 1) == rows[:4]
    assert "without clothes: no folder fashion-mnist in --data" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [b"", gzip.compress(b"\0\0", mtime=0), gzip.compress(idx_of(np.zeros((2, 3), np.uint8))[:-1], mtime=0)]
)
def test_corrupt_clothes_are_named(clothes, content):
    (clothes / "fashion-mnist" / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        mnist.read(clothes, mnist.FASHION, "test")


def test_missing_clothes_are_named(clothes):
    (clothes / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        DataError, match=r"no file .*t10k-labels.*; --data names the folder that fashion-mnist/ lies in"
    ):
        mnist.read(clothes, mnist.FASHION, "test")
