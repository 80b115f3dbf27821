"""Experiment of the meta metric learner on a few generated alphabets and texts: tasks, roles, files, data errors."""

from __future__ import annotations

import dataclasses
import itertools
import json
import zlib

import numpy as np
import pytest
import torch

from reid_training.errors import DataError, ModelError
from tools.experiments import meta, special, texts

pytestmark = pytest.mark.slow  # each runs a comparison

SHORT = meta.REDUCED
N_DRAWERS = 6


@pytest.fixture
def data(tmp_path):
    """Eight alphabets of three to five characters, six of them to learn; every character has strokes of its own."""
    rng = np.random.default_rng(0)
    sizes = [3, 4, 5, 4, 3, 5, 4, 3]
    alphabet = np.repeat(np.arange(8, dtype=np.int16), sizes)
    strokes = rng.random((len(alphabet), 21, 21)) < 0.3
    ink = np.repeat(strokes, N_DRAWERS, axis=0) ^ (rng.random((N_DRAWERS * len(alphabet), 21, 21)) < 0.05)
    (tmp_path / "omniglot").mkdir()
    np.savez(
        tmp_path / "omniglot" / "omniglot_105.npz",
        packed=np.packbits(ink.reshape(len(ink), -1), axis=1),
        shape=np.array([21, 21]),
        char=np.repeat(np.arange(len(alphabet), dtype=np.int16), N_DRAWERS),
        alphabet=np.repeat(alphabet, N_DRAWERS),
        background=np.repeat(alphabet < 6, N_DRAWERS),
    )
    return tmp_path


@pytest.fixture
def parts(data, monkeypatch):
    monkeypatch.setattr(meta, "N_VALIDATION", 2)
    return meta.read(data / "omniglot" / "omniglot_105.npz", 16)


def test_no_alphabet_is_in_two_parts(parts):
    assert [len(part.members) for part in parts.values()] == [4, 2, 2]
    characters = [set(part.classes.tolist()) for part in parts.values()]
    assert sum(len(found) for found in characters) == len(set.union(*characters)) == 31
    assert characters[2] == set(range(24, 31)), "the evaluation alphabets"


@pytest.fixture(params=["alphabets", "texts"])
def both(request):
    """Domains of one kind, then of the other."""
    return request.getfixturevalue("parts") if request.param == "alphabets" else texts.generated()


def test_task_is_of_one_domain(both):
    domains = both["train"]
    shots = set()
    for index in range(50):
        support, queries = meta.draw_task(domains, (1, 3), np.random.default_rng(index), SHORT)
        assert any(np.isin(np.concatenate([support, queries]), rows).all() for rows in domains.members)
        assert not set(support.tolist()) & set(queries.tolist())
        shots |= set(np.unique(domains.classes[support], return_counts=True)[1].tolist())
    assert shots == {1, 2, 3}


def test_both_roles_start_from_the_same_network(both):
    baseline, method = (meta.new_method(both["train"], role, 3, SHORT) for role in meta.ROLES)
    assert all(torch.equal(a, b) for a, b in zip(baseline.net.parameters(), method.net.parameters(), strict=True))
    assert baseline.config == dataclasses.replace(method.config, steps=0)


@pytest.mark.parametrize("measure", meta.MEASURES)
def test_rate_zero_is_the_matching_network(both, measure):
    method = meta.new_method(both["train"], "baseline", 0, SHORT).eval()
    asked = (measure, meta.pooled_features(method, both["test"]), both["test"], 0, 8, SHORT)
    assert asked_of(meta.with_rate(method, 0.0, SHORT), both, asked) == asked_of(method, both, asked)


def asked_of(method, parts, asked):
    tasks = meta.auxiliary_tasks(method, parts["train"], SHORT)
    return meta.accuracy(method, meta.fitted_auxiliaries(method, tasks), *asked)


def test_rate_best_on_validation_is_chosen_for_each_kind(parts, monkeypatch):
    method = meta.new_method(parts["train"], "baseline", 0, SHORT).eval()
    scores = {"five": [0.5, 0.7, 0.7], "ragged": [0.5, 0.4, 0.6], "one": [0.5, 0.4, 0.3]}
    monkeypatch.setattr(meta, "RATES", (0.0, 0.01, 0.1))

    def accuracy(tuned, _, measure, *more):
        return scores[measure][meta.RATES.index(tuned.config.rate if tuned.config.steps else 0.0)]

    monkeypatch.setattr(meta, "accuracy", accuracy)
    tasks = meta.auxiliary_tasks(method, parts["train"], SHORT)
    found = meta.best_rates(method, tasks, parts["validation"], 0, SHORT)
    assert found == {"five": 0.01, "ragged": 0.1, "one": 0.0}


def test_auxiliary_tasks_are_of_other_domains(both):
    domains = both["train"]
    for index in range(30):
        rng = np.random.default_rng(index)
        support, _ = meta.draw_task(domains, (1, 1), rng, SHORT)
        rows = meta.draw_auxiliaries(domains, support, rng, SHORT)
        own = next(members for members in domains.members if support[0] in members)
        assert not np.isin(rows, own).any()
        assert len(rows) == len(set(rows.tolist())) == 2 * 3 * 2


def test_few_shot_only_one_image_of_a_character_is_fitted(parts):
    method = meta.new_method(parts["train"], "method", 0, SHORT).eval()
    fitted = []
    method.fit = lambda features, labels: fitted.append(labels) or method.net.project.weight
    domains = parts["test"]
    features = meta.pooled_features(method, domains)
    auxiliary = meta.auxiliary_tasks(method, parts["train"], SHORT)[0]
    for shots, expected in ((1, auxiliary[1]), (2, None)):
        rows = meta.draw_task(domains, (shots, shots), np.random.default_rng(0), SHORT)
        support, queries = (meta.task_of(features[part], domains, part) for part in rows)
        meta.judge(method, support, queries, auxiliary)
        assert torch.equal(fitted.pop(), support[1] if expected is None else expected)


def test_auxiliary_tasks_differ_from_the_selected_ones(parts):
    method = meta.new_method(parts["train"], "method", 0, SHORT).eval()
    tasks = meta.auxiliary_tasks(method, parts["train"], SHORT)
    used = []
    method.suited = lambda metrics, features, labels, n: used.append(len(labels)) or [0, 1]
    asked = (meta.pooled_features(method, parts["test"]), parts["test"], 0, 4, SHORT)
    meta.accuracy(method, meta.fitted_auxiliaries(method, tasks), meta.RANDOM, *asked)
    assert not used
    meta.accuracy(method, meta.fitted_auxiliaries(method, tasks), "one", *asked)
    assert len(used) == 4
    assert all(4 <= n <= 8 for n in used), "every image and its copy, of two to four characters"


def test_rotated_copy_keeps_its_background():
    pixels = np.full((1, 17, 17), 255, np.uint8)
    pixels[0, :, 8] = 0  # a line through the middle
    (copy,) = meta.turned(pixels)
    assert (copy[0, :3] == 255).all()
    assert copy[8, 8] == 0
    assert copy[0, 8] > 200
    assert (copy < 200).sum() > 10


def test_seed_decides_the_result(both):
    first, second = (meta.run_one(both, "method", 1, "test", SHORT) for _ in range(2))
    assert first.scores == second.scores
    assert set(first.scores) == {*meta.MEASURES, meta.RANDOM}


def test_finished_runs_are_not_repeated(data, tmp_path, monkeypatch):
    runs = []
    run_one = meta.run_one
    monkeypatch.setattr(meta, "run_one", lambda *asked: runs.append(asked) or run_one(*asked))
    monkeypatch.setattr(meta, "SETTING", SHORT)
    monkeypatch.setattr(meta, "N_VALIDATION", 2)
    rows = meta.run(data, tmp_path / "out", [0, 1], 1)
    assert len(runs) == 4
    assert meta.run(data, tmp_path / "out", [0, 1], 1) == rows
    assert len(runs) == 4
    assert [row.measure for row in rows[:2]] == ["accuracy, 5 shots", "accuracy, 5 shots, against plain fine-tuning"]
    assert rows[-1].measure == "accuracy, 1 shot, auxiliary tasks, against drawn ones"
    assert all(len(row.baseline) == len(row.method) == 2 for row in rows)
    assert rows[0].method == rows[1].method
    assert rows[-1].method == rows[-2].method
    for row in rows:
        assert all(0.0 < value <= 1.0 for value in (*row.baseline, *row.method))
    next((tmp_path / "out").glob("method-*-1.json")).write_text("{")
    with pytest.raises(ModelError, match="is damaged; delete it"):
        meta.run(data, tmp_path / "out", [0, 1], 1)


INTENTS = {f"domain{d}": [f"intent{d}_{i}" for i in range(3)] for d in range(9)}


@pytest.fixture
def clinc(data, monkeypatch):
    """Nine domains of three intents with eight sentences each, beside the alphabets; some sentences have no intent."""
    (data / "clinc").mkdir()
    said = [
        [f"Say {intent}, word{n} please!", intent] for n in range(8) for found in INTENTS.values() for intent in found
    ]
    lists = {"oos_train": [["whatever", "oos"]], "train": said[:100], "val": said[100:130], "test": said[130:]}
    (data / "clinc" / "data_full.json").write_text(json.dumps(lists))
    (data / "clinc" / "domains.json").write_text(json.dumps(INTENTS))
    monkeypatch.setattr(meta, "SETTING", SHORT)
    monkeypatch.setattr(meta, "TEXT_SETTING", dataclasses.replace(SHORT, ways=(2, 3)))
    monkeypatch.setattr(meta, "N_VALIDATION", 2)
    return data


def test_no_domain_of_texts_is_in_two_parts(clinc):
    parts = texts.read(clinc / "clinc")
    assert [len(part.members) for part in parts.values()] == [6, 2, 1]
    assert [set(part.classes.tolist()) for part in parts.values()] == [set(range(18)), {*range(18, 24)}, {24, 25, 26}]
    for part in parts.values():
        assert all(len(rows) == 24 for rows in part.members)


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
    part = texts.texts_of({"greet": {"hello": ["good day", "day"], "bye": ["so long then"]}})
    net = part.network(0.25, 8).eval()
    rows = np.arange(3)
    for row, words in enumerate((["good", "day"], ["day"], ["so", "long", "then"])):
        for found, kept in ((part.inputs(rows), words), (part.copies(rows), texts.shortened(words))):
            mean = texts.SCALE * net.body[0].weight[texts.hashed(kept)].mean(0).clamp_min(0)
            torch.testing.assert_close(net.pooled(found)[row], mean)
            torch.testing.assert_close(net(found)[row], net.project.weight @ mean)


def test_texts_add_rows_after_the_alphabets(clinc, tmp_path, capsys):
    rows = meta.run(clinc, tmp_path / "out", [0], 1)
    assert [row.data for row in rows] == ["omniglot alphabets (test)"] * 7 + ["CLINC150 domains (test)"] * 7
    assert [row.measure for row in rows[:7]] == [row.measure for row in rows[7:]]
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert not capsys.readouterr().err


def test_alphabet_rows_do_not_depend_on_texts(clinc, tmp_path, capsys):
    both = meta.run(clinc, tmp_path / "out", [0], 1)
    (clinc / "clinc").rename(clinc / "elsewhere")
    assert meta.run(clinc, tmp_path / "out", [0], 1) == both[:7]
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
def test_unreadable_texts_are_named_before_any_run(clinc, tmp_path, name, content, said):
    (clinc / "clinc" / name).unlink()
    if content is not None:
        (clinc / "clinc" / name).write_text(content)
    with pytest.raises(DataError, match=said):
        meta.run(clinc, tmp_path / "out", [0], 1)
    assert not (tmp_path / "out").exists()


def test_reduced_runs_show_both_kinds(tmp_path):
    rows = meta.run_reduced(tmp_path / "out", [0], 1)
    assert {row.data for row in rows} == {"omniglot alphabets (drawn)", "CLINC150 domains (drawn)"}


def test_tool_knows_the_experiment():
    assert special.SPECIAL["meta_metric"] == "tools.experiments.meta"


def test_missing_data_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file .*omniglot_105\.npz; --data names the folder that omniglot/ lies in"):
        meta.run(tmp_path, tmp_path / "out", [0], 1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more"])
def test_corrupt_file_is_named(tmp_path, content):
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / "omniglot_105.npz").write_bytes(content)
    with pytest.raises(DataError, match="is not Omniglot in the layout expected, or it is damaged"):
        meta.run(tmp_path, tmp_path / "out", [0], 1)
