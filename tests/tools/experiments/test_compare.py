"""The comparison of methods: its runs, finished runs that are not repeated, and its verdicts."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import multiprocessing
import sys
import time
import types
import zipfile

import cv2
import numpy as np
import pytest
import scipy.stats

from reid_training.data.synthetic import write_market_folder
from reid_training.errors import ConfigError, DataError, ModelError
from reid_training.train import Run
from tools.experiments import __main__ as compare_methods
from tools.experiments import catalogue as experiments
from tools.experiments import compare, picture, runs, special
from tools.experiments.catalogue import MEASURES
from tools.experiments.compare import carry_out, comparisons, forget, outdated, plan
from tools.experiments.protocols import PARTS, PROTOCOLS, Drawn, Market, Omniglot
from tools.experiments.table import GAIN, LOSS, NO_GAIN, Comparison, differences, summary, to_csv, to_markdown, verdict
from tools.experiments.trunk import FROZEN, OnTrunk

pytestmark = pytest.mark.slow  # each runs a comparison

TRIPLETS = {"method": {"name": "siamese", "id_weight": 0.0}}
PAIRS = {"method": {"name": "siamese", "id_weight": 0.0, "pair_loss": "contrastive"}}
DEVIANCE = {"method": {"name": "siamese", "id_weight": 0.0, "pair_loss": "binomial_deviance"}}


def experiment(name, baseline, method):
    return experiments.Experiment(name, f"title of {name}", "a claim", {"baseline": baseline, "method": method})


@pytest.fixture(scope="session")
def drawn_root(tmp_path_factory):
    return Drawn().prepare(tmp_path_factory.mktemp("nothing"), tmp_path_factory.mktemp("drawn") / "data")


@pytest.fixture
def asked_of(drawn_root, tmp_path):
    def of(*chosen, out=tmp_path / "out", split="test", seeds=(0,)):
        return plan(chosen, Drawn(), split, seeds, drawn_root, out)

    return of


@pytest.fixture
def trained(monkeypatch):
    """The folders that were really trained in, in order."""
    folders = []
    train = runs.train

    def counted(config, dataset, out, *, resume):
        folders.append(out)
        return train(config, dataset, out, resume=resume)

    monkeypatch.setattr(runs, "train", counted)
    return folders


# Every experiment from start to end


def test_reduced_comparison_runs_every_experiment(tmp_path, capsys):
    table = tmp_path / "table.csv"
    command = ["--all", "--reduced", "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert compare_methods.main([*command, "--table", str(table)]) == 0
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    trained = [row for row in rows if row["name"] in experiments.names()]
    known = set(MEASURES.values())
    usual = [row["name"] for row in trained if row["measure"] in known]
    assert usual == [name for name in experiments.names() for _ in experiments.read(name).measures]
    assert {"large_margin_few_shot", "meta_metric", "odml"} <= {row["name"] for row in rows}
    for row in rows:
        for value in [*row["baseline_values"].split(), *row["method_values"].split()]:
            assert 0.0 <= float(value) <= (math.inf if "ratio" in row["measure"] else 1.0)
    # Every person is in each ranking; with so few people not always first.
    ranked = [row for row in trained if row["measure"] in (MEASURES["mean_ap"], MEASURES["auc"])]
    values = [row[f"{role}_values"] for row in ranked for role in ("baseline", "method")]
    assert all(float(value) > 0.0 for text in values for value in text.split())
    printed = capsys.readouterr().out
    assert all(experiments.read(name).title in printed for name in experiments.names())


REAL = [PROTOCOLS["omniglot"], PROTOCOLS["market"], *(OnTrunk(PROTOCOLS["cifar100"], trunk) for trunk in FROZEN)]


@pytest.mark.parametrize("protocol", REAL, ids=[protocol.name for protocol in REAL])
@pytest.mark.parametrize("name", experiments.names())
def test_every_experiment_fits_the_real_protocols(name, protocol, tmp_path):
    asked = plan([experiments.read(name)], protocol, "test", [0], tmp_path, tmp_path)
    assert [one.role for one in asked] == ["baseline", "method"]
    assert asked[0].job.folder != asked[1].job.folder, "an experiment that compares a run with itself"
    assert all(one.job.config.schedule.threads == 1 for one in asked)


# Runs, and finished runs that are not repeated


def test_finished_run_is_not_repeated(asked_of, trained):
    asked = asked_of(experiment("a", PAIRS, TRIPLETS))
    first, _ = carry_out(asked, 1)
    assert len(trained) == 2
    assert carry_out(asked, 1) == (first, [])
    assert len(trained) == 2


def test_shared_baseline_is_run_once(asked_of, trained):
    asked = asked_of(experiment("a", PAIRS, TRIPLETS), experiment("b", PAIRS, DEVIANCE), seeds=(0, 1))
    results, _ = carry_out(asked, 1)
    assert len(trained) == len(set(trained)) == 6
    rows = comparisons(asked, results)
    assert [row.name for row in rows] == ["a", "a", "b", "b"]
    assert rows[0].baseline == rows[2].baseline


def test_both_splits_are_scored_from_one_training(asked_of, trained):
    one = experiment("a", PAIRS, TRIPLETS)
    on_test, _ = carry_out(asked_of(one), 1)
    on_validation, _ = carry_out(asked_of(one, split="validation"), 1)
    assert len(set(trained)) == 2
    assert {path.name for path in on_test} == {"result_test.json"}
    assert {path.name for path in on_validation} == {"result_validation.json"}
    assert [result.scores for result in on_test.values()] != [result.scores for result in on_validation.values()]
    assert all(result.seconds > 0 for result in on_validation.values())


def test_interrupted_run_resumes_to_the_same_scores(asked_of, tmp_path, monkeypatch):
    one = experiment("a", PAIRS, TRIPLETS)
    whole, _ = carry_out(asked_of(one, out=tmp_path / "whole"), 1)
    cut = asked_of(one, out=tmp_path / "cut")
    epoch = Run.epoch

    def interrupted(self, number):
        if number == 1:
            raise KeyboardInterrupt
        return epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            carry_out(cut, 1)
    assert (cut[0].job.folder / "last.pt").is_file()
    assert not cut[0].job.result.exists()
    results, _ = carry_out(cut, 1)
    assert [results[a.job.result].scores for a in cut] == [result.scores for result in whole.values()]
    assert results[cut[0].job.result].seconds is None, "the duration of the first part is unknown"
    assert results[cut[1].job.result].seconds > 0


def test_interruption_before_first_checkpoint_restarts(asked_of, monkeypatch):
    asked = asked_of(experiment("a", PAIRS, TRIPLETS))
    with monkeypatch.context() as patch:
        patch.setattr(Run, "epoch", lambda self, number: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            carry_out(asked, 1)
    assert asked[0].job.folder.is_dir()
    results, failures = carry_out(asked, 1)
    assert len(results) == 2
    assert not failures


def test_redo_restarts(asked_of, trained):
    asked = asked_of(experiment("a", PAIRS, TRIPLETS))
    first, _ = carry_out(asked, 1)
    forget(asked)
    second, _ = carry_out(asked, 1)
    assert len(trained) == 4
    assert [r.scores for r in first.values()] == [r.scores for r in second.values()]


def test_failed_run_does_not_stop_the_others(asked_of, monkeypatch):
    train = runs.train

    def failing(config, dataset, out, *, resume):
        if config.method.get("pair_loss") == "binomial_deviance":
            raise ModelError("the loss became nan in epoch 1; lower schedule.learning_rate")
        return train(config, dataset, out, resume=resume)

    monkeypatch.setattr(runs, "train", failing)
    asked = asked_of(experiment("bad", PAIRS, DEVIANCE), experiment("good", PAIRS, TRIPLETS))
    results, failures = carry_out(asked, 1)
    assert failures == ["bad method, drawn, seed 0: the loss became nan in epoch 1; lower schedule.learning_rate"]
    assert {row.name for row in comparisons(asked, results)} == {"good"}


def test_result_of_other_settings_is_an_error(asked_of):
    asked = asked_of(experiment("a", PAIRS, TRIPLETS))
    carry_out(asked, 1)
    path = asked[0].job.result
    table = json.loads(path.read_text(encoding="utf-8"))
    table["config"]["schedule"]["learning_rate"] = 1.0
    path.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(ModelError, match="other settings; --redo"):
        carry_out(asked, 1)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="damaged; --redo"):
        carry_out(asked, 1)


def test_results_older_than_the_code_are_reported(asked_of, monkeypatch):
    asked = asked_of(experiment("a", PAIRS, TRIPLETS))
    results, _ = carry_out(asked, 1)
    assert outdated(asked, results) == []
    monkeypatch.setattr(compare, "code_of", lambda config: "changed")
    assert outdated(asked, results) == ["siamese"]


def test_several_processes_give_the_results_of_one(asked_of, tmp_path):
    one = experiment("a", PAIRS, TRIPLETS)
    alone, _ = carry_out(asked_of(one, out=tmp_path / "alone"), 1)
    together, failures = carry_out(asked_of(one, out=tmp_path / "together"), 2)
    assert not failures
    scores = {path.parent.name: result.scores for path, result in together.items()}
    assert scores == {path.parent.name: result.scores for path, result in alone.items()}


def test_interrupt_ends_the_processes_at_once():
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), compare._pool(1) as pool:
        pool.submit(time.sleep, 0).result()  # the process is there
        pool.submit(time.sleep, 1000)
        raise KeyboardInterrupt
    assert time.monotonic() - started < 200
    assert multiprocessing.active_children() == []


# Settings


def test_settings_are_merged_key_by_key():
    low = {"data": {"n_ids": 16, "n_per_id": 4}, "net": {"name": "conv4"}}
    high = {"data": {"n_per_id": 2}, "method": {"name": "siamese"}}
    both = {"data": {"n_ids": 16, "n_per_id": 2}, "net": {"name": "conv4"}, "method": {"name": "siamese"}}
    assert experiments.merged(low, high) == both


GOOD = """
title = "t"
claim = "c"
[common]
data = { n_per_id = 2 }
method = { name = "siamese" }
[baseline]
method = { id_weight = 0.0 }
[method]
"""


def test_experiment_file_is_read(tmp_path):
    (tmp_path / "good.toml").write_text(GOOD, encoding="utf-8")
    read = experiments.read("good", tmp_path)
    assert read.roles["method"] == {"data": {"n_per_id": 2}, "method": {"name": "siamese"}}
    assert read.roles["baseline"]["method"] == {"name": "siamese", "id_weight": 0.0}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "claim",
            "clam",
            "bad.toml: clam is unknown; known: title, claim, baseline, method, common, choose, on, measures",
        ),
        ("[common]", 'measures = ["rank2"]\n[common]', "bad.toml: measures must be some of rank1, rank5"),
        ("[method]", "[on.market.mehtod]\n[method]", "bad.toml: on.market: mehtod is unknown"),
        ("[method]", "[on.market.method]\nmethod = 3\n[method]", "on.market.method.method must be a table"),
        ('claim = "c"', "", "bad.toml: claim is missing"),
        ('claim = "c"', "claim = 1", "bad.toml: claim must be a text, got 1"),
        ("[method]", "", "bad.toml: method is missing"),
        ("[common]\ndata", "[common]\nshedule", "bad.toml: common: shedule is unknown; known: data, augment, net"),
        ("[common]\n", "[common]\nseed = 3\n", "bad.toml: common: seed is unknown"),
        ("{ n_per_id = 2 }", "3", "bad.toml: common.data must be a table, got 3"),
        ("[common]", "[[common]]", "bad.toml: common must be a table"),
        ("[method]", "[method", "bad.toml is not TOML"),
    ],
)
def test_bad_experiment_file_gives_one_line(tmp_path, old, new, said):
    (tmp_path / "bad.toml").write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as told:
        experiments.read("bad", tmp_path)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "method is missing"),
        ({"method": {"id_weight": 0.0}}, "method.name is missing"),
        ({"method": {"name": "unknown"}}, "experiment a, method: method.name must be one of siamese"),
        ({"method": {"name": "siamese", "mragin": 1}}, "experiment a, method: unknown setting method.mragin"),
        ({"method": {"name": "siamese", "margin": -1.0}}, "experiment a, method: method.margin must be > 0"),
        ({**TRIPLETS, "data": {"n_ids": 1}}, "data.n_ids must be >= 2"),
        ({**TRIPLETS, "data": {"nids": 1}}, "experiment a, method: unknown setting data.nids"),
    ],
)
def test_bad_settings_give_one_line_before_any_run(asked_of, settings, said):
    with pytest.raises(ConfigError) as told:
        asked_of(experiment("a", TRIPLETS, settings))
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_settings_of_one_protocol_go_over_the_others(tmp_path):
    text = GOOD + "[on.market_tuned.method]\nmethod = { margin = 0.1 }\n"
    (tmp_path / "good.toml").write_text(text, encoding="utf-8")
    read = experiments.read("good", tmp_path)
    assert read.settings("method", "market_tuned")["method"] == {"name": "siamese", "margin": 0.1}
    assert read.settings("method", "market") == read.roles["method"]
    assert read.settings("baseline", "market_tuned") == read.roles["baseline"]


def test_grid_varies_the_method_and_shares_the_baseline(asked_of, trained):
    one = experiments.Experiment("a", "A", "c", {"baseline": PAIRS, "method": TRIPLETS})
    variants = experiments.variants(one, {"method.margin": [0.1, 0.3], "data.n_ids": [2, 4]})
    assert [v.title for v in variants][:2] == [
        "a: method.margin = 0.1, data.n_ids = 2",
        "a: method.margin = 0.1, data.n_ids = 4",
    ]
    configs = [asked.job.config for asked in asked_of(*variants) if asked.role == "method"]
    assert [(c.method["margin"], c.data.n_ids) for c in configs] == [(0.1, 2), (0.1, 4), (0.3, 2), (0.3, 4)]
    assert len({asked.job.folder for asked in asked_of(*variants) if asked.role == "baseline"}) == 1


def test_constant_is_chosen_by_the_validation_scores_of_the_method(asked_of, trained):
    one = dataclasses.replace(experiment("a", PAIRS, TRIPLETS), choose={"data.n_per_id": [2, 4]})
    plain = experiment("b", PAIRS, DEVIANCE)
    tried = [asked for asked in asked_of(*compare.choices(one), split="validation") if asked.role == "method"]
    results, _ = carry_out(tried, 1)
    assert len(trained) == 2, "no baseline is needed to choose"
    first, second = (results[asked.job.result].scores["rank1"] for asked in tried)
    found, kept = compare.chosen([one, plain], tried, results)
    best = 2 if first >= second else 4
    assert (found.name, found.title) == ("a", f"title of a (data.n_per_id = {best}, by validation)")
    assert found.roles["method"]["data"] == {"n_per_id": best}
    assert found.roles["baseline"] == PAIRS
    assert kept == plain
    carry_out(asked_of(found), 1)
    assert len(trained) == 3, "the best one is trained already"


def test_grid_changes_a_setting_of_both_roles_in_both():
    common = {"method": {"name": "hdml", "alpha": 0.2}}
    roles = {"baseline": {"method": {**common["method"], "soft_share": 0.0}}, "method": common}
    one = experiments.Experiment("a", "A", "c", roles, common=common)
    (both,) = experiments.variants(one, {"method.alpha": [0.1]})
    assert [both.roles[role]["method"]["alpha"] for role in ("baseline", "method")] == [0.1, 0.1]
    (alone,) = experiments.variants(one, {"method.beta": [0.1]})
    assert "beta" not in alone.roles["baseline"]["method"]


# The command


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--grid", "method.margin=0.1"], "--grid chooses constants: it needs --split validation"),
        (["--split", "validation", "--grid", "margin=0.1"], "--grid takes SECTION.NAME=VALUE,VALUE"),
    ],
)
def test_grid_that_chooses_on_the_test_split_is_refused(tmp_path, capsys, more, said):
    assert compare_methods.main(["--method", "siamese_miner", "--out", str(tmp_path), *more]) == 2
    assert said in capsys.readouterr().err


def test_unknown_experiment_gives_one_line(tmp_path, capsys):
    assert compare_methods.main(["--method", "unknown", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("experiments: no experiment unknown; there are ")


@pytest.mark.parametrize(
    ("more", "said"), [([], "--data names the folder that omniglot/ lies in"), (["--on", "market"], "no bounding_box")]
)
def test_missing_data_gives_one_line(tmp_path, capsys, more, said):
    out = tmp_path / "out"
    command = ["--method", experiments.names()[0], "--data", str(tmp_path), "--out", str(out), *more]
    assert compare_methods.main(command) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(out.glob("data/*")), "half a data set would be taken for a whole one"


def test_grid_names_the_best_of_its_values(tmp_path, capsys):
    table = tmp_path / "table.csv"
    command = ["--method", "siamese_miner", "--reduced", "--seeds", "1", "--jobs", "1", "--out", str(tmp_path / "out")]
    grid = ["--split", "validation", "--grid", "method.margin=0.1,2.5", "--table", str(table)]
    assert compare_methods.main([*command, *grid]) == 0
    rows = [r for r in csv.DictReader(table.read_text(encoding="utf-8").splitlines()) if r["measure"] == "R@1"]
    assert [row["title"] for row in rows] == [f"siamese_miner: method.margin = {margin}" for margin in (0.1, 2.5)]
    assert {row["setting"] for row in rows} == {"drawn (validation)"}
    assert len({row["baseline_mean"] for row in rows}) == 1
    best = max(rows, key=lambda row: float(row["method_mean"]))["title"].partition(": ")[2]
    assert capsys.readouterr().out.endswith(f"best of siamese_miner by R@1: {best}\n")


def test_special_experiment_gives_its_own_rows(tmp_path, monkeypatch, capsys):
    given = []

    def run(data, out, seeds, jobs):
        given.append((data, out, list(seeds), jobs))
        return [Comparison("digits", "Digits", "much", "mnist", "triplet accuracy", (0.5, 0.6), (0.7, 0.8))]

    module = types.ModuleType("generated_module")
    module.run = run
    monkeypatch.setitem(sys.modules, "generated_module", module)
    monkeypatch.setitem(special.SPECIAL, "digits", "generated_module")
    command = ["--method", "digits", "--seeds", "2", "--jobs", "3"]
    assert compare_methods.main([*command, "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert given == [(tmp_path, tmp_path / "out" / "digits", [0, 1], 3)]
    printed = capsys.readouterr().out
    assert "| Digits | much | mnist | triplet accuracy | 2 | 55.0 ± 5.0 | 75.0 ± 5.0 | +20.0 ± 0.0 |" in printed
    assert "`python -m tools.experiments --method digits --seeds 2`" in printed


# Data


def letters_file(folder, n_background=6, n_evaluation=4, n_drawers=3):
    """A file like Omniglot's, of random strokes on 21 x 21 pixels."""
    rng = np.random.default_rng(0)
    n = n_background + n_evaluation
    pictures = (rng.random((n * n_drawers, 21, 21)) < 0.2).astype(np.uint8)
    (folder / "omniglot").mkdir(parents=True)
    np.savez(
        folder / "omniglot" / "omniglot_105.npz",
        packed=np.packbits(pictures.reshape(len(pictures), -1), axis=1),
        shape=np.array([21, 21]),
        char=np.repeat(np.arange(n, dtype=np.int16), n_drawers),
        background=np.repeat(np.arange(n) < n_background, n_drawers),
        drawer=np.tile(np.arange(1, n_drawers + 1, dtype=np.int8), n),
    )
    return pictures


def test_split_trains_on_background_characters_and_tests_on_the_rest(tmp_path):
    pictures = letters_file(tmp_path)
    protocol = Omniglot(n_train=3, n_validation=2, n_test=4, side_px=42)
    root = protocol.prepare(tmp_path, tmp_path / "out")
    parts = protocol.read(root)
    people = {part: set(samples.pids.tolist()) for part, samples in parts.items()}
    assert people["test"] == {7, 8, 9, 10}  # counted from 1
    assert people["train"] | people["validation"] < {1, 2, 3, 4, 5, 6}
    assert not people["train"] & people["validation"]
    assert [len(parts[part]) for part in PARTS] == [9, 6, 12]
    sample = parts["test"].take(np.array([4]))
    image = cv2.imread(str(sample.paths[0]), cv2.IMREAD_GRAYSCALE)
    ink = pictures[3 * (int(sample.pids[0]) - 1) + int(sample.camids[0]) - 1]
    np.testing.assert_array_equal(image, np.kron(255 * (1 - ink), np.ones((2, 2), np.uint8)))  # dark on light


def test_existing_data_is_not_written_again(tmp_path):
    letters_file(tmp_path)
    protocol = Omniglot(n_train=3, n_validation=2, n_test=4)
    root = protocol.prepare(tmp_path, tmp_path / "out")
    (tmp_path / "omniglot" / "omniglot_105.npz").unlink()
    assert protocol.prepare(tmp_path, tmp_path / "out") == root


@pytest.mark.parametrize("content", [b"", b"not arrays", b"PK\x03\x04"])
def test_corrupt_character_file_is_reported(tmp_path, content):
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / "omniglot_105.npz").write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        Omniglot().prepare(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_characters_are_reported(tmp_path):
    letters_file(tmp_path)
    with pytest.raises(DataError, match="has 6 identities, the protocol needs 250"):
        Omniglot().prepare(tmp_path, tmp_path / "out")


def test_market_from_a_folder_and_from_its_archive(tmp_path):
    folder = write_market_folder(tmp_path / "market", n_train=9, n_test=2, size=(16, 8))
    protocol = Market(n_train=4, n_validation=2, n_test=3)
    from_folder = protocol.read(protocol.prepare(folder, tmp_path / "unused"))
    assert not (tmp_path / "unused").exists()
    with zipfile.ZipFile(tmp_path / "market1501_train.zip", "w") as archive:
        for path in (folder / "bounding_box_train").iterdir():
            archive.write(path, f"bounding_box_train/{path.name}")
    from_archive = protocol.read(protocol.prepare(tmp_path, tmp_path / "unpacked"))
    assert [len(np.unique(from_folder[part].pids)) for part in PARTS] == [4, 2, 3]
    for part in PARTS:
        assert [p.name for p in from_folder[part].paths] == [p.name for p in from_archive[part].paths]
    assert len({pid for part in PARTS for pid in from_folder[part].pids.tolist()}) == 9


@pytest.mark.data
def test_protocol_on_the_real_omniglot(data_root, tmp_path):
    if not (data_root / "omniglot").is_dir():
        pytest.skip("no omniglot there")
    protocol = Omniglot()
    parts = protocol.read(protocol.prepare(data_root, tmp_path / "out"))
    assert [len(parts[part]) for part in PARTS] == [3000, 2000, 4000]
    with np.load(data_root / "omniglot" / "omniglot_105.npz") as arrays:
        background = np.unique(arrays["char"][arrays["background"]]) + 1
    for part, samples in parts.items():
        assert np.isin(samples.pids, background).all() == (part != "test")
        assert np.isin(samples.pids, background).any() == (part != "test")
    assert all(len(np.unique(samples.camids)) == 20 for samples in parts.values())


# Statistics


@pytest.mark.parametrize("n", [2, 5, 10])
def test_spread_and_gain_equal_scipy(n):
    rng = np.random.default_rng(n)
    verdicts = set()
    for _ in range(50):
        baseline = rng.uniform(0.4, 0.6, n)
        method = baseline + rng.normal(0.01, 0.02, n)
        row = comparison(baseline, method)
        found = summary(differences(row))
        assert found.standard_error == pytest.approx(scipy.stats.sem(method - baseline))
        test = scipy.stats.ttest_rel(method, baseline)
        sure = n >= 3 and test.pvalue < 0.05
        assert verdict(row) == (NO_GAIN if not sure else GAIN if test.statistic > 0 else LOSS)
        verdicts.add(verdict(row))
    assert NO_GAIN in verdicts
    assert (GAIN in verdicts) == (n >= 3)


def comparison(baseline, method, **more):
    return Comparison("a", "A", "c", "omniglot", "R@1", tuple(baseline), tuple(method), **more)


@pytest.mark.parametrize(
    ("baseline", "method", "said"),
    [
        ([0.50, 0.52, 0.54], [0.53, 0.55, 0.57], GAIN),  # the same difference thrice
        ([0.50, 0.52, 0.54], [0.50, 0.52, 0.54], NO_GAIN),  # none
        ([0.50, 0.52, 0.54], [0.47, 0.49, 0.51], LOSS),  # worse, and surely so
        # 2/64 with a standard error of 1/64, and t = 3.18 for four.
        ([0.5] * 4, [0.5 + 1 / 64, 0.5 + 1 / 64, 0.5 + 1 / 64, 0.5 + 5 / 64], NO_GAIN),
        ([0.50, 0.52], [0.60, 0.62], NO_GAIN),  # two seeds
        ([0.50], [0.90], NO_GAIN),  # one seed
    ],
)
def test_verdict_of_gain_and_loss(baseline, method, said):
    assert verdict(comparison(baseline, method)) == said


def test_table_states_title_and_claim_once():
    seconds = {"baseline_seconds": (10.0, 20.0), "method_seconds": (31.0,)}
    rows = [comparison((0.5, 0.7), (0.6, 0.9), **seconds, command="x")]
    rows.append(dataclasses.replace(rows[0], measure="mAP", claim="c", baseline_seconds=()))
    lines = to_markdown(rows).splitlines()
    assert (
        lines[2]
        == "| A | c | omniglot | R@1 | 2 | 60.0 ± 10.0 | 75.0 ± 15.0 | +15.0 ± 5.0 | not shown | `x` | 15 / 31 |"
    )
    assert lines[3].startswith("|  |  | omniglot | mAP | 2 |")
    assert lines[3].endswith("| ? / 31 |")


def test_csv_holds_every_seed():
    (row,) = csv.DictReader(to_csv([comparison((0.5, 0.7), (0.6, 0.9))]).splitlines())
    assert (row["n_seeds"], row["method_values"]) == ("2", "0.6 0.9")
    assert float(row["difference_standard_error"]) == pytest.approx(scipy.stats.sem([0.1, 0.2]))
    (row,) = csv.DictReader(to_csv([comparison((0.5,), (0.6,))]).splitlines())
    assert math.isnan(float(row["difference_standard_error"]))


def test_picture_shows_the_first_measure_of_each_experiment_and_setting(tmp_path):
    row = comparison((0.5, 0.6, 0.7), (0.6, 0.8, 0.8))
    rows = [row, dataclasses.replace(row, measure="mAP"), dataclasses.replace(row, data="market")]
    rows.append(dataclasses.replace(row, name="b", baseline=(0.5,), method=(0.6,)))
    assert [(one.name, one.data, one.measure) for one in picture.main_rows(rows)] == [
        ("a", "omniglot", "R@1"),
        ("a", "market", "R@1"),
        ("b", "omniglot", "R@1"),
    ]
    picture.draw(rows, tmp_path / "differences.png")
    assert cv2.imread(str(tmp_path / "differences.png")).size > 0
