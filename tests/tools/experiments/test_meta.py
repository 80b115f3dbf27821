"""Experiment of the meta metric learner on a few generated pictures and texts: tasks, roles, files, data errors."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch

from reid_training.errors import DataError, ModelError
from tools.experiments import cifar100, meta, picture_domains, special, texts

pytestmark = pytest.mark.slow  # each runs a comparison

SHORT = meta.REDUCED
N_DRAWERS = 6
KINDS = ["new characters", "new alphabets", "new digits", "new clothes", "new superclasses"]
N_MEAN, N_KIND = 3 * 6 + 1, 3 * 4  # rows


def write_omniglot(folder):
    """Eleven alphabets of four to six characters, nine of them to learn; every character has strokes of its own."""
    rng = np.random.default_rng(0)
    sizes = [4, 5, 6, 4, 5, 4, 5, 6, 4, 5, 4]
    alphabet = np.repeat(np.arange(11, dtype=np.int16), sizes)
    strokes = rng.random((len(alphabet), 21, 21)) < 0.3
    ink = np.repeat(strokes, N_DRAWERS, axis=0) ^ (rng.random((N_DRAWERS * len(alphabet), 21, 21)) < 0.05)
    folder.mkdir()
    np.savez(
        folder / "omniglot_105.npz",
        packed=np.packbits(ink.reshape(len(ink), -1), axis=1),
        shape=np.array([21, 21]),
        char=np.repeat(np.arange(len(alphabet), dtype=np.int16), N_DRAWERS),
        alphabet=np.repeat(alphabet, N_DRAWERS),
        background=np.repeat(alphabet < 9, N_DRAWERS),
    )


def write_digits(data):
    rng = np.random.default_rng(1)
    labels = np.arange(60, dtype=np.uint8) % 10
    pixels = (20 * labels[:, None, None] + rng.integers(0, 20, (60, 28, 28))).astype(np.uint8)
    (data / "mnist").mkdir()
    np.savez(data / "mnist" / "mnist.npz", x_train=pixels, y_train=labels, x_test=pixels[:10], y_test=labels[:10])
    (data / "fashion-mnist").mkdir()
    for part in ("train", "t10k"):
        for name, array in (("images-idx3", 255 - pixels), ("labels-idx1", labels)):
            content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()
            (data / "fashion-mnist" / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(content))


def write_cifar(folder):
    rng = np.random.default_rng(2)
    for number, name in enumerate(cifar100.CLASSES):
        (folder / "train" / name).mkdir(parents=True)
        for i in range(N_DRAWERS):
            noise = rng.integers(0, 30, (32, 32, 3))
            colour = (2 * number, 200 - 2 * number, 7 * number % 220)
            cv2.imwrite(str(folder / "train" / name / f"{i}.png"), (noise + colour).astype(np.uint8))


@pytest.fixture(scope="module")
def pictures_folder(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    write_omniglot(data / "omniglot")
    write_digits(data)
    write_cifar(data / "cifar100")
    return data


@pytest.fixture
def data(pictures_folder, tmp_path):
    """The same files in a folder of the test's own."""
    for folder in pictures_folder.iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    return tmp_path


@pytest.fixture
def parts(data):
    return picture_domains.read(data, 16, 0)


def test_no_class_of_a_test_is_trained_on():
    """The split works on names alone: pictures that say which class they are."""
    for seed in range(5):
        parts = picture_domains.split(*labelled(), seed)
        trained = said(parts.train)
        assert list(parts.tests) == KINDS
        for validation, test in parts.tests.values():
            assert not said(test) & trained
            assert not said(validation) & trained
            assert not said(validation) & said(test)
        everything = said(parts.train).union(*(said(part) for pair in parts.tests.values() for part in pair))
        assert everything == set(range(176)), "nothing is left out"


def labelled():
    """Collections whose pictures have the number of their class in every pixel: 50 + 6 + 10 + 10 + 100 classes."""
    number = itertools.count()

    def domain(name, n):
        return {f"{name} {i}": np.full((2, 4, 4), next(number), np.uint8) for i in range(n)}

    def collection(name, n_domains, n_classes):
        return {f"{name} {i}": domain(f"{name} {i}", n_classes) for i in range(n_domains)}

    background, evaluation = collection("known", 10, 5), collection("new", 2, 3)
    return background, evaluation, domain("digit", 10), domain("garment", 10), collection("super", 20, 5)


def said(table):
    return set(table.pixels[:, 0, 0, 0].tolist())


def test_domains_of_the_split():
    parts = picture_domains.split(*labelled(), 0)
    counts = {name: parts.train.collections.count(name) for name in set(parts.train.collections)}
    assert counts == {"characters": 5, "digits": 1, "clothes": 1, "superclasses": 12}
    n_classes = [len(np.unique(parts.train.classes[rows])) for rows in parts.train.members]
    assert n_classes == [3] * 5 + [4, 4] + [5] * 12
    assert said(parts.tests["new alphabets"][1]) == set(range(50, 56)), "the evaluation alphabets"
    assert [len(pair[1].members) for pair in parts.tests.values()] == [5, 2, 1, 1, 5]
    assert [len(said(pair[1])) for pair in parts.tests.values()] == [10, 6, 3, 3, 25]
    other = picture_domains.split(*labelled(), 1)
    assert said(other.tests["new digits"][1]) != said(parts.tests["new digits"][1]), "a seed decides"


def test_table_keeps_pictures_with_their_class_and_domain():
    parts = picture_domains.split(*labelled(), 0)
    for table in (parts.train, parts.tests["new superclasses"][1]):
        for rows in table.members:
            values, classes = table.pixels[rows, 0, 0, 0], table.classes[rows]
            assert len({*zip(values.tolist(), classes.tolist(), strict=True)}) == len(set(values.tolist()))
            assert (table.pixels[rows].reshape(len(rows), -1) == values[:, None]).all()
        assert sorted(np.concatenate(table.members).tolist()) == list(range(len(table.classes)))


def test_pictures_are_read_from_their_folders(parts, data):
    assert parts.train.pixels.shape[1:] == (3, 16, 16)
    digits = parts.train.members[parts.train.collections.index("digits")]
    means = parts.train.pixels[digits].mean((1, 2, 3))
    of_class = [means[parts.train.classes[digits] == label] for label in np.unique(parts.train.classes[digits])]
    assert [len(found) for found in of_class] == [6] * 4
    assert all(np.ptp(found) < 10 for found in of_class), "a digit of the file is 20 brighter than the last"
    colours = parts.tests["new superclasses"][1].pixels.mean((2, 3))
    assert np.ptp(colours, axis=1).max() > 50, "pictures of CIFAR-100 have their colours"


@pytest.fixture(params=["pictures", "texts"])
def both(request):
    """Domains of one kind, then of the other."""
    return request.getfixturevalue("parts") if request.param == "pictures" else texts.generated(0)


def first_test(parts):
    return next(iter(parts.tests.values()))[1]


def test_task_is_of_one_domain(both):
    domains = both.train
    shots = set()
    for index in range(30):
        rng = np.random.default_rng(index)
        place = meta.draw_domain(domains, rng)
        support, queries = meta.draw_task(domains, place, (1, 3), rng, SHORT)
        assert np.isin(np.concatenate([support, queries]), domains.members[place]).all()
        assert not set(support.tolist()) & set(queries.tolist())
        shots |= set(np.unique(domains.classes[support], return_counts=True)[1].tolist())
    assert shots == {1, 2, 3}


def test_every_collection_is_drawn_as_often(parts):
    rng = np.random.default_rng(0)
    drawn = [parts.train.collections[meta.draw_domain(parts.train, rng)] for _ in range(2000)]
    assert {name: pytest.approx(500, abs=100) for name in set(parts.train.collections)} == {
        name: drawn.count(name) for name in set(drawn)
    }


def test_both_roles_start_from_the_same_network(both):
    baseline, method = (meta.new_method(both.train, role, 3, SHORT) for role in meta.ROLES)
    assert all(torch.equal(a, b) for a, b in zip(baseline.net.parameters(), method.net.parameters(), strict=True))
    assert baseline.config == dataclasses.replace(method.config, steps=0)
    assert (method.config.similarity, method.config.scale) == ("cosine", SHORT.scale)


@pytest.mark.parametrize("measure", meta.MEASURES)
def test_rate_zero_is_the_matching_network(both, measure):
    method = meta.new_method(both.train, "baseline", 0, SHORT).eval()
    test = first_test(both)
    asked = (measure, meta.pooled_features(method, test), test, 0, 8, SHORT)
    assert asked_of(meta.with_rate(method, 0.0, SHORT), both, asked) == asked_of(method, both, asked)


def asked_of(method, parts, asked):
    tasks = meta.auxiliary_tasks(method, parts.train, SHORT)
    return meta.accuracies(method, meta.fitted_auxiliaries(method, tasks), *asked)


def test_readouts_equal_one_query_at_a_time(parts):
    method = meta.new_method(parts.train, "method", 0, SHORT).eval()
    domains = parts.train
    features = meta.pooled_features(method, domains)
    rows = meta.draw_task(domains, 0, (1, 3), np.random.default_rng(0), SHORT)
    support, queries = (meta.task_of(features[part], domains, part) for part in rows)
    found = meta.readouts(method, support, queries, None)
    with torch.no_grad():
        adapted, plain = method.fit(*support), method.net.project.weight.clone()
    right = dict.fromkeys(found, 0)
    for feature, label in zip(*queries, strict=True):
        for theta, names in ((adapted, (meta.OWN, meta.NEAREST_MEAN, meta.NEAREST_ITEM)), (plain, (meta.UNADAPTED,))):
            known = [theta @ item / (theta @ item).norm() for item in support[0]]
            asked = theta @ feature / (theta @ feature).norm()
            cosines = [float(asked @ item) for item in known]
            weights = {int(c): 0.0 for c in support[1]}
            for cosine, c in zip(cosines, support[1].tolist(), strict=True):
                weights[c] += np.exp(SHORT.scale * cosine)
            means = {
                c: sum(item for item, other in zip(known, support[1].tolist(), strict=True) if other == c)
                for c in weights
            }
            guesses = {
                meta.OWN: max(weights, key=weights.get),
                meta.UNADAPTED: max(weights, key=weights.get),
                meta.NEAREST_MEAN: max(means, key=lambda c: float(asked @ means[c] / means[c].norm())),
                meta.NEAREST_ITEM: int(support[1][int(np.argmax(cosines))]),
            }
            for name in names:
                right[name] += guesses[name] == int(label)
    assert found == {name: pytest.approx(n / len(queries[1])) for name, n in right.items()}


def test_rate_best_on_validation_is_chosen_for_each_measure(parts, monkeypatch):
    method = meta.new_method(parts.train, "baseline", 0, SHORT).eval()
    scores = {"five": [0.5, 0.7, 0.7], "ragged": [0.5, 0.4, 0.6], "one": [0.5, 0.4, 0.3]}
    monkeypatch.setattr(meta, "RATES", (0.0, 0.01, 0.1))

    def accuracies(tuned, _, measure, *more):
        return {meta.OWN: scores[measure][meta.RATES.index(tuned.config.rate if tuned.config.steps else 0.0)]}

    monkeypatch.setattr(meta, "accuracies", accuracies)
    tasks = meta.auxiliary_tasks(method, parts.train, SHORT)
    found = meta.best_rates(method, tasks, parts.tests["new digits"][0], 0, SHORT)
    assert found == {"five": 0.01, "ragged": 0.1, "one": 0.0}


def test_auxiliary_tasks_are_of_other_domains_of_the_same_collection(both):
    domains = both.train
    for index in range(30):
        rng = np.random.default_rng(index)
        place = meta.draw_domain(domains, rng)
        rows = meta.draw_auxiliaries(domains, place, rng, SHORT)
        assert not np.isin(rows, domains.members[place]).any()
        assert len(rows) == len(set(rows.tolist()))
        drawn = {other for other, members in enumerate(domains.members) if np.isin(rows, members).any()}
        assert len(drawn) == 2
        if domains.collections.count(domains.collections[place]) > 2:
            assert {domains.collections[other] for other in drawn} == {domains.collections[place]}


def test_only_tasks_of_one_item_a_class_are_fitted_to_auxiliaries(parts):
    method = meta.new_method(parts.train, "method", 0, SHORT).eval()
    fitted = []
    method.fit = lambda features, labels: fitted.append(labels) or method.net.project.weight
    domains = first_test(parts)
    features = meta.pooled_features(method, domains)
    auxiliary = meta.auxiliary_tasks(method, parts.train, SHORT)[0]
    for shots, expected in ((1, auxiliary[1]), (2, None)):
        support, _ = meta.draw_task(domains, 0, (shots, shots), np.random.default_rng(0), SHORT)
        task = meta.task_of(features[support], domains, support)
        meta.theta_of(method, task, auxiliary)
        assert torch.equal(fitted.pop(), task[1] if expected is None else expected)


def test_drawn_auxiliaries_are_not_selected(parts):
    method = meta.new_method(parts.train, "method", 0, SHORT).eval()
    auxiliaries = meta.fitted_auxiliaries(method, meta.auxiliary_tasks(method, parts.train, SHORT))
    used = []
    method.suited = lambda metrics, features, labels, n: used.append(len(labels)) or [0, 1]
    test = first_test(parts)
    asked = (meta.pooled_features(method, test), test, 0, 4, SHORT)
    meta.accuracies(method, auxiliaries, meta.RANDOM, *asked)
    assert not used
    meta.accuracies(method, auxiliaries, "one", *asked)
    assert len(used) == 4
    assert all(4 <= n <= 8 for n in used), "every picture and its copy, of two to four classes"


def test_rotated_copy_keeps_its_background():
    pixels = np.full((1, 3, 17, 17), 255, np.uint8)
    pixels[0, :, :, 8] = 0  # a line through the middle
    pixels[0, 1, :, 8] = 100
    ((red, green, blue),) = picture_domains.turned(pixels)
    for copy, ink in ((red, 0), (green, 100), (blue, 0)):
        assert (copy[4:13, :3] == 255).all()
        assert copy[8, 8] == ink
        assert copy[1, 8] > 200
        assert (copy < 200).sum() > 10


def test_seed_decides_the_result(both):
    first, second = (meta.run_one(both, "method", 1, SHORT) for _ in range(2))
    assert first.scores == second.scores
    by = ("own", "unadapted", "nearest_mean", "nearest_item")
    expected = {meta.key(kind, measure, one) for kind in both.tests for measure in meta.MEASURES for one in by}
    assert set(first.scores) == expected | {meta.key(kind, "one", "random") for kind in both.tests}


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(meta, "SETTING", SHORT)
    monkeypatch.setattr(meta, "TEXT_SETTING", SHORT)


def test_finished_runs_are_not_repeated(data, tmp_path, monkeypatch, short):
    runs = []
    run_one = meta.run_one
    monkeypatch.setattr(meta, "run_one", lambda *asked: runs.append(asked) or run_one(*asked))
    monkeypatch.setattr(meta, "RATES", (0.0, 0.1))
    rows = meta.run(data, tmp_path / "out", [0, 1], 1)
    assert len(runs) == 4
    assert meta.run(data, tmp_path / "out", [0, 1], 1) == rows
    assert len(runs) == 4
    assert [row.measure for row in rows[:5]] == [
        "accuracy, 5 shots",
        "accuracy, 5 shots, against it fine-tuned",
        "accuracy, 5 shots, against the nearest class mean on its features",
        "accuracy, 5 shots, against the nearest item on its features",
        "accuracy, 5 shots, both by the nearest class mean",
    ]
    assert rows[N_MEAN - 1].measure == "accuracy, 1 shot, auxiliary tasks, against drawn ones"
    assert len(rows) == N_MEAN + N_KIND * len(KINDS)
    of_kinds = [rows[first : first + N_KIND] for first in range(N_MEAN, len(rows), N_KIND)]
    assert [{row.measure.split(", ")[1] for row in found} for found in of_kinds] == [{kind} for kind in KINDS]
    for place, words in ((1, "5 shots, against it fine-tuned"), (5, "5 shots, against itself, not adapted")):
        same = [row for found in of_kinds for row in found if row.measure.endswith(f", {words}")]
        assert len(same) == len(KINDS)
        for role in ("baseline", "method"):
            mean = np.mean([getattr(row, role) for row in same], axis=0)
            assert getattr(rows[place], role) == pytest.approx(tuple(mean)), "the mean over the kinds"
    assert all(len(row.baseline) == len(row.method) == 2 for row in rows)
    next((tmp_path / "out").glob("pictures-method-*-1.json")).write_text("{")
    with pytest.raises(ModelError, match="is damaged; delete it"):
        meta.run(data, tmp_path / "out", [0, 1], 1)


INTENTS = {f"domain{d}": [f"intent{d}_{i}" for i in range(6)] for d in range(9)}


@pytest.fixture
def clinc(data, short):
    """Nine domains of six intents with eight sentences each, beside the pictures; some sentences have no intent."""
    (data / "clinc").mkdir()
    found = [
        [f"Say {intent}, word{n} please!", intent] for n in range(8) for known in INTENTS.values() for intent in known
    ]
    lists = {"oos_train": [["whatever", "oos"]], "train": found[:200], "val": found[200:260], "test": found[260:]}
    (data / "clinc" / "data_full.json").write_text(json.dumps(lists))
    (data / "clinc" / "domains.json").write_text(json.dumps(INTENTS))
    return data


def test_no_intent_of_a_test_is_trained_on(clinc):
    for seed in (0, 1):
        parts = texts.read(clinc / "clinc", seed)
        assert [len(found.members) for found in (parts.train, *parts.tests["new domains"])] == [6, 2, 1]
        assert len(parts.tests["new intents"][1].members) == 6
        assert [len(rows) for rows in parts.train.members] == [4 * 8] * 6, "a third of six intents is left out"
        tables = [parts.train, *(pair[1] for pair in parts.tests.values()), parts.tests["new domains"][0]]
        known = [{tuple(words) for words in table.words.tolist()} for table in tables]
        assert sum(map(len, known)) == len(set.union(*known)) == 9 * 6 * 8


def test_word_numbers_do_not_depend_on_the_process():
    words = texts.words_of("What's MY  balance?")
    assert words == ["what's", "my", "balance"]
    assert texts.hashed(words) == [1 + zlib.crc32(word) % (2**13 - 1) for word in (b"what's", b"my", b"balance")]


@pytest.mark.parametrize(
    ("words", "left"), [([], []), (["a"], ["a"]), (["a", "b"], ["a"]), (["a", "b", "c"], ["a", "c"])]
)
def test_text_copy_lacks_one_word(words, left):
    assert texts.shortened(words) == left


def test_text_embedding_is_the_mean_of_its_words():
    part = texts.texts_of([{"hello": ["good day", "day"], "bye": ["so long then"]}])
    net = part.network(0.25, 8).eval()
    rows = np.arange(3)
    for row, words in enumerate((["good", "day"], ["day"], ["so", "long", "then"])):
        for found, kept in ((part.inputs(rows), words), (part.copies(rows), texts.shortened(words))):
            mean = texts.SCALE * net.body[0].weight[texts.hashed(kept)].mean(0).clamp_min(0)
            torch.testing.assert_close(net.pooled(found)[row], mean)
            torch.testing.assert_close(net(found)[row], net.project.weight @ mean)


def test_texts_add_rows_after_the_pictures(clinc, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(meta, "RATES", (0.0,))
    rows = meta.run(clinc, tmp_path / "out", [0], 1)
    n_pictures = N_MEAN + N_KIND * len(KINDS)
    assert [row.data for row in rows] == ["pictures"] * n_pictures + ["CLINC150"] * (N_MEAN + N_KIND * 2)
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert not capsys.readouterr().err
    (clinc / "clinc").rename(clinc / "elsewhere")
    assert meta.run(clinc, tmp_path / "out", [0], 1) == rows[:n_pictures]
    (line,) = capsys.readouterr().err.splitlines()
    assert "clinc/data_full.json and clinc/domains.json in --data" in line
    assert "github.com/clinc/oos-eval" in line


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("domains.json", None, r"no file .*domains\.json; texts are read from clinc/"),
        ("data_full.json", None, r"no file .*data_full\.json; texts are read from clinc/"),
        ("data_full.json", '{"train": [', r"data_full\.json is damaged"),
        ("data_full.json", '{"train": []}', "is not CLINC150 in the layout expected, or it is damaged: KeyError"),
        ("data_full.json", "[]", "is not CLINC150 in the layout expected"),
        ("data_full.json", '{"train": [], "val": [], "test": []}', "is not CLINC150 .*no sentence of intent0_0"),
        ("data_full.json", '{"train": [[1, "intent0_0"]], "val": [], "test": []}', "is not CLINC150 in the layout"),
        ("domains.json", json.dumps({"one": ["intent0_0"]}), "is not CLINC150 .* KeyError"),
        (
            "domains.json",
            json.dumps({"one": list(itertools.chain(*INTENTS.values()))}),
            "is not CLINC150 .*1 domains are",
        ),
        ("domains.json", "3", "is not CLINC150 in the layout expected"),
    ],
)
def test_unreadable_texts_are_named(clinc, name, content, said):
    (clinc / "clinc" / name).unlink()
    if content is not None:
        (clinc / "clinc" / name).write_text(content)
    with pytest.raises(DataError, match=said):
        texts.read(clinc / "clinc", 0)


def test_reduced_runs_show_both_kinds(tmp_path):
    rows = meta.run_reduced(tmp_path / "out", [0], 1)
    assert {row.data for row in rows} == {"pictures (drawn)", "CLINC150 (drawn)"}


def test_tool_knows_the_experiment():
    assert special.SPECIAL["meta_metric"] == "tools.experiments.meta"


def test_missing_data_is_named(data, tmp_path):
    for folder, said in (("omniglot", "omniglot_105.npz"), ("fashion-mnist", "ubyte.gz"), ("cifar100", "cifar100")):
        (data / folder).rename(data / "elsewhere")
        with pytest.raises(DataError, match=rf"no (file|folder) .*{said}"):
            meta.run(data, tmp_path / "out", [0], 1)
        (data / "elsewhere").rename(data / folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more"])
def test_corrupt_file_is_named(data, tmp_path, content):
    (data / "omniglot").unlink()
    (data / "omniglot").mkdir()
    (data / "omniglot" / "omniglot_105.npz").write_bytes(content)
    with pytest.raises(DataError, match="is not Omniglot in the layout expected, or it is damaged"):
        meta.run(data, tmp_path / "out", [0], 1)
