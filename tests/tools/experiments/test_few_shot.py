"""The few-shot experiment on generated classes: its tasks, what a seed decides, its files, and the data's errors."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import torch

from reid_training.errors import DataError, ModelError
from tools.experiments import __main__ as compare_methods
from tools.experiments import cifar100, few_shot, special

pytestmark = pytest.mark.slow  # each runs a comparison

DRAWN = few_shot.OMNIGLOT + few_shot.DRAWN
TINY = few_shot.Setting(
    *(DRAWN, "prototypes", 1, 5, ((5, 1), (10, 2)), 10, 10, 1, 3, 1.0, 0.5),
    n_test_episodes=20,
    n_validated=10,
    n_filters=8,
    hidden=4,
)
TINY_GRAPH = dataclasses.replace(
    TINY, base="graph", tests=((5, 1),), n_queries=3, n_test_queries=3, n_episodes=2, margin_on="nodes"
)
BASES = ("prototypes", "graph")
NAMES = [f"Alphabet/character{i:02d}" for i in range(1, 7)]


@pytest.fixture(scope="module")
def parts():
    return few_shot.read(None, DRAWN)


@pytest.fixture(scope="module")
def characters(parts):
    return parts.known, parts.unseen


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


def trained(known, setting, seed):
    method = few_shot.new_method(known, setting, seed)
    assert list(few_shot.train(method, known, setting, seed)) == list(range(setting.n_steps))
    return method


@pytest.mark.parametrize("setting", [TINY, TINY_GRAPH], ids=["prototypes", "graph"])
def test_seed_decides_weights_and_all_margins_start_equal(setting, characters):
    first, second, other = (trained(characters[0], setting, seed) for seed in (0, 0, 1))
    assert same_weights(first, second)
    assert not same_weights(first, other)
    baseline = dataclasses.replace(setting, margin_weight=0.0, margin_share=0.0)
    start = [few_shot.new_method(characters[0], one, 0) for one in (baseline, *few_shot.candidates(baseline))]
    assert all(same_weights(start[0], other) for other in start[1:])


def test_margin_is_a_share_of_the_distances_before_training(characters):
    whole, half = (
        few_shot.new_method(characters[0], dataclasses.replace(TINY, margin_share=share), 0) for share in (1.0, 0.5)
    )
    assert whole.config.margin == pytest.approx(2 * half.config.margin)
    assert all(not buffer.any() for name, buffer in whole.named_buffers() if "running_mean" in name)


@pytest.mark.parametrize("setting", [TINY, TINY_GRAPH], ids=["prototypes", "graph"])
def test_training_helps_on_unseen_characters(setting, parts):
    wider = dataclasses.replace(setting, n_filters=16, hidden=16, n_queries=5, n_episodes=4, n_test_queries=10)
    longer = dataclasses.replace(wider, n_steps=100, n_test_episodes=60, learning_rate=5e-3, margin_weight=0.1)
    result = few_shot.run_one(parts, longer, 0)
    assert result.accuracy["5-way 1-shot"] > 0.6  # chance: 0.2
    assert 0.0 <= result.interval["5-way 1-shot"] < 0.1
    assert result.ratio > 0.0
    assert len(result.curve) == 10
    assert result.curve[-1] == pytest.approx(result.validation["5-way 1-shot"]), "the last point is the end"


def test_scores_during_training_change_nothing(parts, monkeypatch):
    plain = trained(parts.known, TINY, 0)
    method = few_shot.new_method(parts.known, TINY, 0)
    for _ in few_shot.train(method, parts.known, TINY, 0):
        few_shot.scores(method, parts.validation, TINY, 4, 0)
    assert same_weights(method, plain)


def test_accuracy_equals_nearest_mean_per_query(characters):
    method = few_shot.new_method(characters[0], TINY, 0).eval()
    points, labels = few_shot.embed(method, characters[1]), characters[1].labels
    found = few_shot.test(method, points, labels, TINY, 5, 2, n=20, seed=3)
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
        done.append(arguments[1:])
        return run_one(*arguments)

    monkeypatch.setattr(few_shot, "run_one", counted)
    plain = [dataclasses.replace(one, margin_weight=0.0, margin_share=0.0) for one in (TINY, TINY_GRAPH)]
    n_first = 1 + len(few_shot.CANDIDATES)
    rows = few_shot._run_all(plain, None, tmp_path, [0, 1], 1)
    assert len(done) == len(set(done)) == 2 * (n_first + 2), "the second seed: the baseline and the best margin"
    assert few_shot._run_all(plain, None, tmp_path, [0, 1], 1) == rows
    assert len(done) == 2 * (n_first + 2)
    few_shot._run_all(plain, None, tmp_path, [0, 1, 2], 1)
    assert len(done) == 2 * (n_first + 4)
    assert [row.measure.split(" (")[0] for row in rows] == [
        *("prototypes 5-way 1-shot", "prototypes 10-way 2-shot", "prototypes 5-way 1-shot, class-distance ratio"),
        *("graph 5-way 1-shot", "graph 5-way 1-shot, class-distance ratio"),
    ]
    assert "20 tasks; weight" in rows[0].measure
    assert all(len(row.baseline) == len(row.method) == 2 for row in rows)
    file = next(tmp_path.iterdir())
    file.write_text("{}")
    with pytest.raises(ModelError, match="is damaged; delete it"):
        few_shot._run_all(plain, None, tmp_path, [0, 1, 2], 1)


def test_margin_best_on_validation_is_chosen(tmp_path, monkeypatch):
    """The best one on the test classes is another one."""
    validated = {(0.0, 0.0): 0.9, **dict(zip(few_shot.CANDIDATES, (0.5, 0.7, 0.6), strict=True))}

    def run_one(parts, setting, seed):
        reached = validated[setting.margin_weight, setting.margin_share]
        names = [few_shot.name_of(*test) for test in setting.tests]
        scores = (dict.fromkeys(names, value) for value in (1.0 - reached, 0.0, reached))
        accuracy, interval, validation = scores
        return few_shot.Result(accuracy, interval, 1.0, validation, (), 1.0, 1.0)

    monkeypatch.setattr(few_shot, "run_one", run_one)
    plain = dataclasses.replace(TINY, margin_weight=0.0, margin_share=0.0)
    rows = few_shot._run_all([plain], None, tmp_path, [0, 1], 1)
    assert rows[0].method == pytest.approx((0.3, 0.3))
    assert "weight 1, margin 0.2" in rows[0].measure


def test_settings_are_the_regimes_of_both_bases():
    regimes = {(one.data, one.base, *test) for one in few_shot.SETTINGS for test in one.tests}
    both = {(data, base, 5, k) for data in ("omniglot (Vinyals)", "CIFAR-FS") for base in BASES for k in (1, 5)}
    assert regimes == both - {("CIFAR-FS", "graph", 5, 5)} | {
        ("omniglot (Vinyals)", "prototypes", 20, k) for k in (1, 5)
    }
    for one in few_shot.SETTINGS:
        assert one.n_test_episodes >= 600
        assert one.margin_weight == 0.0, "the baseline"
        assert one.base == "prototypes" or one.tests == ((one.way, one.shots),)


def test_tool_runs_its_reduced_form(tmp_path, capsys):
    assert special.SPECIAL["large_margin_few_shot"] == "tools.experiments.few_shot"
    command = ["--method", "large_margin_few_shot", "--reduced", "--seeds", "1", "--jobs", "1"]
    assert compare_methods.main([*command, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n|") == 1 + 9 + 5  # heading, tests, class-distance ratios
    assert few_shot.TITLE in printed


# Data


def test_classes_are_characters_times_rotations(omniglot):
    found = few_shot.read(omniglot.parent, few_shot.OMNIGLOT)
    known, unseen = found.known, found.unseen
    assert (known.pictures.shape, unseen.pictures.shape) == ((4, 3, 1, 28, 28), (8, 3, 1, 28, 28))
    pictures, names = few_shot.read_pictures(omniglot / "omniglot_105.npz")
    assert names == NAMES
    for place, (character, turns) in enumerate((i, k) for i in (4, 2) for k in range(4)):
        for image in range(3):
            np.testing.assert_array_equal(unseen.pictures[place, image, 0], np.rot90(pictures[character, image], turns))
    assert unseen.labels.tolist() == [i for i in range(8) for _ in range(3)]
    assert unseen.images(np.array([4]))[0].numpy() == pytest.approx(unseen.pictures[1, 1] / 255.0)


def test_images_keep_their_character_and_ink(omniglot):
    with np.load(omniglot / "omniglot_105.npz") as arrays:
        packed, order = arrays["packed"], arrays["char"]
    pictures, _ = few_shot.read_pictures(omniglot / "omniglot_105.npz")
    for character in range(6):
        for place, row in enumerate(np.flatnonzero(order == character)):
            ink = np.unpackbits(packed[row])[: 42 * 56].mean()
            assert pictures[character, place].mean() / 255 == pytest.approx(ink, abs=0.01)


def test_no_class_is_in_two_parts(omniglot):
    found = few_shot.read(omniglot.parent, few_shot.OMNIGLOT)
    pictures, _ = few_shot.read_pictures(omniglot / "omniglot_105.npz")
    for part, chosen in ((found.known, [0]), (found.validation, [1]), (found.unseen, [4, 2])):
        np.testing.assert_array_equal(part.pictures[::4, :, 0], pictures[chosen])


def test_missing_data_is_named(tmp_path, omniglot):
    with pytest.raises(DataError, match=r"no file .*omniglot_105\.npz; --data names the folder that omniglot/ lies in"):
        few_shot.run(tmp_path / "nowhere", tmp_path / "out", [0], 1)
    (omniglot / "splits_vinyals" / "test.txt").unlink()
    with pytest.raises(DataError, match=r"no file .*test\.txt; it lists the classes of Vinyals' split"):
        few_shot.read(omniglot.parent, few_shot.OMNIGLOT)


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
        few_shot.read(omniglot.parent, few_shot.OMNIGLOT)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more"])
def test_corrupt_images_are_named(omniglot, content):
    (omniglot / "omniglot_105.npz").write_bytes(content)
    with pytest.raises(DataError, match="is not Omniglot in the layout expected, or it is damaged"):
        few_shot.read(omniglot.parent, few_shot.OMNIGLOT)


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
    few_shot._complete([(TINY, 0)], None, tmp_path, 1)
    (found,) = (json.loads(file.read_text()) for file in tmp_path.iterdir())
    assert set(found) == {"accuracy", "interval", "ratio", "validation", "curve", "margin", "seconds"}


def test_cifar_fs_takes_the_classes_of_its_lists(tmp_path, monkeypatch):
    pictures = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1, 1).repeat(2, 1)
    monkeypatch.setattr(cifar100, "read", lambda folder: pictures)
    found = few_shot.read(tmp_path, few_shot.CIFAR)
    names = [[cifar100.CLASSES[int(one[0, 0, 0, 0])] for one in part.pictures] for part in parts_of(found)]
    assert [len(of_part) for of_part in names] == [64, 16, 20]
    assert sorted(name for of_part in names for name in of_part) == sorted(cifar100.CLASSES)
    assert {"beaver", "tractor"} <= set(names[1])
    assert {"whale", "rocket"} <= set(names[2])


def parts_of(found):
    return found.known, found.validation, found.unseen
