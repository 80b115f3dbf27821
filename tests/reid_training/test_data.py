"""Reading, splitting, sampling and changing images."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from reid_training.config import AugmentConfig
from reid_training.data import market1501
from reid_training.data.base import Samples, read_image, read_images, split_identities
from reid_training.data.samplers import episodes, pk_batches
from reid_training.data.synthetic import write_market_folder
from reid_training.data.transforms import augment, erase, normalise, to_tensor
from reid_training.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0002_c1s1_000451_03.jpg", (2, 1)),
        ("1501_c6s4_001902_01.jpg", (1501, 6)),
        ("-1_c3s2_000001_00.jpg", (-1, 3)),
        ("0000_c5s1_000151_01.jpg", (0, 5)),
        ("0002_c1s1_000451_03.jpg.jpg", (2, 1)),
    ],
)
def test_file_names_give_person_and_camera(name, expected):
    assert market1501.parse_name(Path(name)) == expected


@pytest.mark.parametrize("name", ["photo.jpg", "0002_000451.jpg", "c1_0002.jpg", ""])
def test_other_names_are_refused(name):
    with pytest.raises(DataError, match="is not named like"):
        market1501.parse_name(Path(name))


def test_folder_is_read_by_the_protocol(market):
    data = market1501.read(market)
    assert len(data.train) == 12 * 3 * 2
    assert len(data.query) == 8 * 3
    assert Counter(data.gallery.pids.tolist())[0] == 3, "distractors stay in the gallery"
    assert Counter(data.gallery.pids.tolist())[-1] == 3, "junk is in the table; the ranking leaves it out"
    assert set(data.train.pids) & set(data.query.pids) == set()


def test_archive_folder_is_found_one_level_down(tmp_path):
    write_market_folder(tmp_path / "Market-1501-v15.09.15", n_train=2, n_test=2)
    assert len(market1501.read(tmp_path).train) == 12


def test_drawn_people_are_the_same_for_the_same_seed(tmp_path, market):
    again = market1501.read(write_market_folder(tmp_path / "again"))
    images = [read_images(data.train, 64, 32) for data in (market1501.read(market), again)]
    assert np.array_equal(*images)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5])
def test_split_is_by_identity_and_seeded(fraction):
    pids = np.repeat(np.arange(1, 41), 3)
    samples = Samples(tuple(Path(str(i)) for i in range(120)), pids, np.ones(120, np.int64))
    train, held = split_identities(samples, fraction, seed=3)
    assert set(train.pids) & set(held.pids) == set()
    assert len(np.unique(held.pids)) == round(40 * fraction)
    assert len(train) + len(held) == 120
    assert split_identities(samples, fraction, seed=3)[1].paths == held.paths
    if fraction:
        assert split_identities(samples, fraction, seed=4)[1].paths != held.paths


@pytest.mark.parametrize(("n_ids", "n_per_id"), [(2, 2), (4, 3), (7, 4)])
@pytest.mark.parametrize("seed", [0, 1])
def test_pk_batches_hold_p_people_with_k_images(n_ids, n_per_id, seed):
    rng = np.random.default_rng(5)
    pids = rng.permutation(np.repeat(np.arange(10), rng.integers(1, 9, 10)))
    batches = list(pk_batches(pids, n_ids, n_per_id, np.random.default_rng(seed)))
    assert len(batches) == max(1, len(pids) // (n_ids * n_per_id))
    for rows in batches:
        counts = Counter(pids[rows].tolist())
        assert len(counts) == n_ids
        assert set(counts.values()) == {n_per_id}
    again = list(pk_batches(pids, n_ids, n_per_id, np.random.default_rng(seed)))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_pk_batches_use_all_people_equally_often():
    pids = np.repeat(np.arange(10), 30)
    seen = Counter(pid for rows in pk_batches(pids, 4, 4, np.random.default_rng(0)) for pid in np.unique(pids[rows]))
    assert len(seen) == 10
    assert max(seen.values()) - min(seen.values()) <= 1


def test_pk_batches_repeat_images_only_after_all_were_used():
    pids = np.repeat(np.arange(4), 8)
    rows = np.concatenate(list(pk_batches(pids, 4, 4, np.random.default_rng(0))))
    assert sorted(rows) == list(range(32))


@pytest.mark.parametrize("n_per_id", [2, 3, 4])
def test_camera_batches_take_a_person_s_images_from_as_many_cameras_as_possible(n_per_id):
    rng = np.random.default_rng(0)
    pids, camids = rng.integers(1, 9, 120), rng.integers(1, 4, 120)
    pids[pids == 8], camids[pids == 7] = 1, 1  # person 7 is seen by one camera alone
    seen = Counter()
    for rows in pk_batches(pids, 4, n_per_id, np.random.default_rng(0), camids):
        for group in rows.reshape(4, n_per_id):
            assert len(set(pids[group].tolist())) == 1
            there = np.flatnonzero(pids == pids[group[0]])
            assert len(set(camids[group].tolist())) == min(n_per_id, len(set(camids[there].tolist())))
            assert len(set(group.tolist())) == min(n_per_id, len(there)), "no image twice while there are others"
        seen.update(pids[rows].tolist())
    assert max(seen.values()) - min(seen.values()) <= n_per_id, "balanced over people"


def test_camera_batches_use_all_cameras_and_images():
    """Three cameras with 6, 3 and 1 images, pairs: each camera as often as the others, its images evenly."""
    pids = np.repeat([1, 2], 10)
    camids = np.tile(np.repeat([5, 6, 7], [6, 3, 1]), 2)
    rng = np.random.default_rng(0)
    seen = Counter(row for _ in range(9) for rows in pk_batches(pids, 2, 2, rng, camids) for row in rows.tolist())
    first = [sum(n for row, n in seen.items() if row < 10 and camids[row] == camera) for camera in (5, 6, 7)]
    assert sum(first) == 9 * 5 * 2
    assert max(first) - min(first) <= 9
    assert all(row in seen for row in range(20))


def test_camera_batches_of_few_images_repeat_them():
    (rows, *_) = pk_batches(np.array([1, 1, 2, 2]), 2, 4, np.random.default_rng(0), np.array([1, 2, 1, 2]))
    assert Counter(rows.tolist()) == dict.fromkeys(range(4), 2)


@pytest.mark.parametrize("camids", [[1, 1, 1, 1], [-1, -2, -3, -4]])
def test_camera_batches_need_two_cameras(camids):
    with pytest.raises(ConfigError, match="sampler = camera needs images of two known cameras or more"):
        next(pk_batches(np.array([1, 1, 2, 2]), 2, 2, np.random.default_rng(0), np.array(camids)))


def test_pk_batches_with_fewer_people_than_p_use_all():
    pids = np.repeat(np.arange(3), 8)
    assert all(len(rows) == 12 for rows in pk_batches(pids, 16, 4, np.random.default_rng(0)))


@pytest.fixture
def crops():
    return np.random.default_rng(0).integers(0, 256, (6, 32, 16, 3), dtype=np.uint8)


def test_episodes_have_different_classes_and_no_image_twice():
    labels = np.random.default_rng(1).permutation(np.repeat([4, 7, 8, 11, 30], 6))
    drawn = list(episodes(labels, 200, 3, 2, 4, np.random.default_rng(0)))
    assert len(drawn) == 200
    for episode in drawn:
        assert (episode.support.shape, episode.queries.shape) == ((3, 2), (3, 4))
        rows = np.concatenate([episode.support, episode.queries], axis=1)
        assert (labels[rows] == labels[rows[:, :1]]).all()
        assert len(set(labels[rows[:, 0]])) == 3
        assert len(np.unique(rows)) == rows.size
    asked = Counter(np.concatenate([episode.queries.ravel() for episode in drawn]).tolist())
    assert set(asked) == set(range(30))  # each about 80 times
    assert all(40 < n < 120 for n in asked.values())


def test_episodes_of_a_range_take_every_number_in_it():
    drawn = list(episodes(np.repeat(np.arange(6), 9), 300, (2, 5), (1, 3), 2, np.random.default_rng(0)))
    assert {episode.support.shape for episode in drawn} == {(n, k) for n in (2, 3, 4, 5) for k in (1, 2, 3)}
    assert all(episode.queries.shape == (len(episode.support), 2) for episode in drawn)


def test_unbalanced_episode_classes_have_different_shots():
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(6), 9))
    mixed, seen = 0, set()
    for episode in episodes(labels, 100, (2, 5), (1, 3), 4, np.random.default_rng(0), unbalanced=True):
        known = episode.support >= 0
        assert known[:, 0].all()
        assert (known[:, :-1] >= known[:, 1:]).all()  # nothing after the first that is missing
        assert (labels[episode.support] == labels[episode.queries[:, :1]])[known].all()
        rows = np.concatenate([episode.support[known], episode.queries.ravel()])
        assert len(np.unique(rows)) == len(rows)
        shots = known.sum(1).tolist()
        mixed += len(set(shots)) > 1
        seen |= set(shots)
    assert seen == {1, 2, 3}
    assert mixed > 50


def test_episodes_repeat_with_the_seed():
    first, again, other = (
        [(e.support.tolist(), e.queries.tolist()) for e in episodes(np.arange(40) % 5, 20, 3, 1, 2, rng)]
        for rng in map(np.random.default_rng, (0, 0, 1))
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"way": 4}, DataError, "episodes need 4 classes with at least 5 images each, there are 3"),
        ({"shots": (1, 4)}, DataError, "episodes need 3 classes with at least 7 images each, there are 0"),
        ({"way": 1}, ConfigError, r"way must be a number >= 2, or two with the smaller first, got 1"),
        ({"shots": (3, 2)}, ConfigError, r"shots must be a number >= 1, .* got \(3, 2\)"),
        ({"queries": 0}, ConfigError, "at least 1 query of each class, got 0"),
    ],
)
def test_episodes_that_cannot_be_drawn_are_refused(options, error, said):
    labels = np.repeat([0, 1, 2, 3], [5, 6, 5, 4])  # the last has too few
    wanted = {"way": 3, "shots": 2, "queries": 3, **options}
    with pytest.raises(error, match=said):
        next(episodes(labels, 1, **wanted, rng=np.random.default_rng(0)))


def test_augment_repeats_with_the_seed(crops):
    first, again, other = (augment(crops, np.random.default_rng(seed), AugmentConfig()) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (6, 3, 32, 16)
    assert first.dtype == torch.float32


OFF = AugmentConfig(flip=0, zoom=0, shift=0, brightness=0, contrast=0, saturation=0, erase=0)


def test_augment_with_everything_off_only_normalises(crops):
    torch.testing.assert_close(
        augment(crops, np.random.default_rng(0), OFF), normalise(to_tensor(crops)), atol=1e-4, rtol=0
    )


def test_flip_mirrors_left_and_right(crops):
    flipped = augment(crops, np.random.default_rng(0), AugmentConfig(1.0, 0, 0, 0, 0, 0, 0))
    expected = normalise(to_tensor(np.ascontiguousarray(crops[:, :, ::-1])))
    torch.testing.assert_close(flipped, expected, atol=1e-4, rtol=0)


def test_erase_covers_one_rectangle_of_the_given_area():
    config = AugmentConfig(erase=1.0, erase_area=(0.1, 0.2))
    holes = erase(torch.ones(50, 3, 64, 32), np.random.default_rng(0), config)[:, 0] == 0
    for hole in holes:
        rows, columns = torch.nonzero(hole.any(1)).squeeze(1), torch.nonzero(hole.any(0)).squeeze(1)
        box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert int(hole.sum()) == int(box), "a full rectangle"
        assert 0.07 <= float(hole.float().mean()) <= 0.2, "sides are rounded down"


def test_augment_leaves_the_stored_pixels_unchanged(crops):
    before = crops.copy()
    augment(crops, np.random.default_rng(0), AugmentConfig())
    assert np.array_equal(crops, before)


def test_images_are_read_as_rgb_and_stretched(tmp_path):
    image = np.zeros((10, 30, 3), np.uint8)
    image[..., 2] = 255  # red, as OpenCV stores it
    cv2.imwrite(str(tmp_path / "red.png"), image)
    crop = read_image(tmp_path / "red.png", 32, 16)
    assert crop.shape == (32, 16, 3)
    assert (crop == [255, 0, 0]).all()


@pytest.mark.data
@pytest.mark.parametrize(
    ("part", "n_images", "n_people"), [("train", 12_936, 751), ("query", 3_368, 750), ("gallery", 15_913, 751)]
)
def test_market1501_has_its_published_size(data_root, part, n_images, n_people):
    """The gallery: 750 people and the distractors, which share the number 0; junk may be left out of a copy."""
    archive = data_root / f"market1501_{part}.zip"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    with zipfile.ZipFile(archive) as opened:
        names = [Path(name) for name in opened.namelist() if name.endswith(".jpg")]
    pids = [pid for pid, _ in map(market1501.parse_name, names) if pid != market1501.JUNK]
    assert (len(pids), len(set(pids))) == (n_images, n_people)
