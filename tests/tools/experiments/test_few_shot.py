"""The few-shot experiment on generated characters: its tasks, what a seed decides, its files, and the data's errors."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import torch

from reid_training.errors import DataError, ModelError
from tools.experiments import __main__ as compare_methods
from tools.experiments import few_shot, special

pytestmark = pytest.mark.slow  # each runs a comparison

TINY = few_shot.Setting(
    "prototypes", 1, 5, ((5, 1), (10, 2)), 10, 10, 1, 3, 0.5, 1e-3, n_test_episodes=20, n_filters=8, hidden=4
)
TINY_GRAPH = dataclasses.replace(
    TINY, base="graph", tests=((5, 1),), n_queries=3, n_test_queries=3, n_episodes=2, margin_on="nodes"
)
NAMES = [f"Alphabet/character{i:02d}" for i in range(1, 7)]


@pytest.fixture(scope="module")
def characters():
    return few_shot.generated(24, np.random.default_rng(0)), few_shot.generated(20, np.random.default_rng(1))


@pytest.fixture
def omniglot(tmp_path):
    """A file like Omniglot's, six characters of three images in no order, and lists like Vinyals'."""
    rng = np.random.default_rng(0)
    pictures = (rng.random((18, 42, 56)) < 0.2).astype(np.uint8)
    folder = tmp_path / "omniglot"
    (folder / "splits_vinyals").mkdir(parents=True)
    order = np.tile(np.arange(6, dtype=np.int16), 3)
    packed = np.packbits(pictures.reshape(18, -1), axis=1)
    np.savez(folder / "omniglot_105.npz", packed=packed, shape=np.array([42, 56]), char=order, char_names=NAMES)
    for name, chosen in (("train", [0]), ("val", [1]), ("trainval", [1, 0]), ("test", [4, 2])):
        lines = [f"{NAMES[i]}/rot{degrees:03d}\n" for i in chosen for degrees in (0, 90, 180, 270)]
        (folder / "splits_vinyals" / f"{name}.txt").write_text("".join(lines))
    return folder


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# Tasks


@pytest.mark.parametrize(("way", "n_queries"), [(5, 10), (5, 12), (5, 3), (4, 1)])
def test_task_queries_are_balanced(way, n_queries):
    labels = np.repeat(np.arange(9), 6)
    asked = Counter()
    for task in few_shot.tasks(labels, 200, way, 2, n_queries, np.random.default_rng(0)):
        assert (len(task.support), len(task.queries)) == (2 * way, n_queries)
        class_of = dict(zip(task.support_classes.tolist(), labels[task.support].tolist(), strict=True))
        assert len(set(class_of.values())) == way
        assert [class_of[c] for c in task.query_classes.tolist()] == labels[task.queries].tolist()
        assert not set(task.support.tolist()) & set(task.queries.tolist())
        assert len(set(task.queries.tolist())) == n_queries
        counts = np.bincount(task.query_classes, minlength=way)
        assert counts.max() - counts.min() <= 1
        asked.update(task.query_classes.tolist())
    assert set(asked) == set(range(way))


def test_batch_labels_differ_between_tasks():
    labels = np.repeat(np.arange(9), 6)
    drawn = list(few_shot.tasks(labels, 2, 4, 1, 4, np.random.default_rng(0)))
    rows, found = few_shot.one_batch(drawn, 4)
    assert found.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]
    assert rows.tolist() == [*drawn[0].support, *drawn[0].queries, *drawn[1].support, *drawn[1].queries]


# Training and tests


@pytest.mark.parametrize("setting", [TINY, TINY_GRAPH], ids=["prototypes", "graph"])
def test_seed_decides_weights_and_both_roles_start_equal(setting, characters):
    first, second, other = (few_shot.train(characters[0], setting, seed) for seed in (0, 0, 1))
    assert same_weights(first, second)
    assert not same_weights(first, other)
    start = [few_shot.new_method(characters[0], few_shot.of_role(setting, role), 0) for role in few_shot.ROLES]
    assert same_weights(*start)
    assert start[0].config == dataclasses.replace(start[1].config, margin_weight=0.0)


def test_margin_is_a_share_of_the_distances_before_training(characters):
    whole, half = (
        few_shot.new_method(characters[0], dataclasses.replace(TINY, margin_share=share), 0) for share in (1.0, 0.5)
    )
    assert whole.config.margin == pytest.approx(2 * half.config.margin)
    assert all(not buffer.any() for name, buffer in whole.named_buffers() if "running_mean" in name)


@pytest.mark.parametrize("setting", [TINY, TINY_GRAPH], ids=["prototypes", "graph"])
def test_training_helps_on_unseen_characters(setting, characters):
    wider = dataclasses.replace(setting, n_filters=16, hidden=16, n_queries=5, n_episodes=4, n_test_queries=10)
    longer = dataclasses.replace(wider, n_steps=100, n_test_episodes=60, learning_rate=5e-3)
    result = few_shot.run_one(*characters, longer, 0)
    assert result.accuracy["5-way 1-shot"] > 0.6  # chance: 0.2
    assert 0.0 <= result.interval["5-way 1-shot"] < 0.1
    assert result.ratio > 0.0


def test_accuracy_equals_nearest_mean_per_query(characters):
    method = few_shot.new_method(characters[0], TINY, 0).eval()
    points, labels = few_shot.embed(method, characters[1]), characters[1].labels
    found = few_shot.test(method, points, labels, TINY, 5, 2, seed=3)
    expected = []
    for task in few_shot.tasks(labels, 20, 5, 2, 10, np.random.default_rng([3, 2, 5, 2])):
        right = 0
        for query, wanted in zip(task.queries, task.query_classes, strict=True):
            means = [points[task.support[task.support_classes == c]].mean(0) for c in range(5)]
            right += int(np.argmin([float((points[query] - mean).norm()) for mean in means]) == wanted)
        expected.append(right / 10)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# The whole experiment


def test_finished_runs_are_not_repeated(tmp_path, monkeypatch):
    done = []
    run_one = few_shot.run_one

    def counted(*arguments):
        done.append(arguments[2:])
        return run_one(*arguments)

    monkeypatch.setattr(few_shot, "run_one", counted)
    settings = [TINY, TINY_GRAPH]
    rows = few_shot._run_all(settings, None, tmp_path, [0, 1], 1, "test")
    assert len(done) == len(set(done)) == 8
    assert few_shot._run_all(settings, None, tmp_path, [0, 1], 1, "test") == rows
    assert len(done) == 8
    few_shot._run_all(settings, None, tmp_path, [0, 1, 2], 1, "test")
    assert len(done) == 12
    assert [row.measure.split(" (")[0] for row in rows] == [
        *("prototypes 5-way 1-shot", "prototypes 10-way 2-shot", "prototypes, class-distance ratio"),
        *("graph 5-way 1-shot", "graph 5-way, class-distance ratio"),
    ]
    assert "20 tasks)" in rows[0].measure
    assert all(len(row.baseline) == len(row.method) == 2 for row in rows)
    file = next(tmp_path.iterdir())
    file.write_text("{}")
    with pytest.raises(ModelError, match="is damaged; delete it"):
        few_shot._run_all(settings, None, tmp_path, [0, 1, 2], 1, "test")


def test_settings_are_four_regimes_of_both_bases():
    regimes = {(one.base, *test) for one in few_shot.SETTINGS for test in one.tests}
    assert regimes == {(base, n, k) for base in ("prototypes", "graph") for n in (5, 20) for k in (1, 5)}
    assert all(one.n_test_episodes >= 600 and one.margin_weight > 0 for one in few_shot.SETTINGS)
    assert all({way for way, _ in one.tests} == {one.way} for one in few_shot.SETTINGS if one.base == "graph")


def test_tool_runs_its_reduced_form(tmp_path, capsys):
    assert special.SPECIAL["large_margin_few_shot"] == "tools.experiments.few_shot"
    command = ["--method", "large_margin_few_shot", "--reduced", "--seeds", "1", "--jobs", "1"]
    assert compare_methods.main([*command, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 2 + 8 + 3  # heading, regimes, class-distance ratios
    assert few_shot.TITLE in printed


# Data


def test_classes_are_characters_times_rotations(omniglot):
    known, unseen = few_shot.read(omniglot, "test")
    assert known.pictures.shape == unseen.pictures.shape == (8, 3, 28, 28)
    pictures, names = few_shot.read_pictures(omniglot / "omniglot_105.npz")
    assert names == NAMES
    for place, (character, turns) in enumerate((i, k) for i in (4, 2) for k in range(4)):
        for image in range(3):
            np.testing.assert_array_equal(unseen.pictures[place, image], np.rot90(pictures[character, image], turns))
    assert unseen.labels.tolist() == [i for i in range(8) for _ in range(3)]
    assert unseen.images(np.array([4]))[0, 0].numpy() == pytest.approx(unseen.pictures[1, 1] / 255.0)


def test_images_keep_their_character_and_ink(omniglot):
    with np.load(omniglot / "omniglot_105.npz") as arrays:
        packed, order = arrays["packed"], arrays["char"]
    pictures, _ = few_shot.read_pictures(omniglot / "omniglot_105.npz")
    for character in range(6):
        for place, row in enumerate(np.flatnonzero(order == character)):
            ink = np.unpackbits(packed[row])[: 42 * 56].mean()
            assert pictures[character, place].mean() / 255 == pytest.approx(ink, abs=0.01)


def test_validation_classes_are_of_training_alphabets(omniglot):
    known, unseen = few_shot.read(omniglot, "validation")
    both, _ = few_shot.read(omniglot, "test")
    np.testing.assert_array_equal(np.concatenate([unseen.pictures, known.pictures]), both.pictures)


def test_missing_data_is_named(tmp_path, omniglot):
    with pytest.raises(DataError, match=r"no file .*omniglot_105\.npz; --data names the folder that omniglot/ lies in"):
        few_shot.run(tmp_path / "nowhere", tmp_path / "out", [0], 1)
    (omniglot / "splits_vinyals" / "test.txt").unlink()
    with pytest.raises(DataError, match=r"no file .*test\.txt; it lists the classes of Vinyals' split"):
        few_shot.read(omniglot, "test")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Alphabet/character01\n", "a line is not ALPHABET/characterNN/rotDDD"),
        ("Alphabet/character77/rot000\n", "of a known character: 'Alphabet/character77'"),
        ("", "lists no class"),
    ],
)
def test_corrupt_list_is_named(omniglot, text, said):
    (omniglot / "splits_vinyals" / "test.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        few_shot.read(omniglot, "test")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more"])
def test_corrupt_images_are_named(omniglot, content):
    (omniglot / "omniglot_105.npz").write_bytes(content)
    with pytest.raises(DataError, match="is not Omniglot in the layout expected, or it is damaged"):
        few_shot.read(omniglot, "test")


@pytest.mark.data
def test_real_split_has_the_published_size(data_root):
    lines = {
        name: (data_root / "omniglot" / "splits_vinyals" / f"{name}.txt").read_text().split()
        for name in ("train", "val", "trainval", "test")
    }
    assert {name: len(found) for name, found in lines.items()} == {
        **{"train": 4112, "val": 688, "trainval": 4800, "test": 1692},
    }
    assert set(lines["trainval"]) == set(lines["train"]) | set(lines["val"])
    assert not set(lines["trainval"]) & set(lines["test"])


def test_result_file_is_readable(tmp_path):
    few_shot._run_all([TINY], None, tmp_path, [0], 1, "test")
    found = [json.loads(file.read_text()) for file in sorted(tmp_path.iterdir())]
    assert len(found) == 2
    assert all(set(one) == {"accuracy", "interval", "ratio", "margin", "seconds"} for one in found)
