"""Several data sets as one to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reid_training.cli import main
from reid_training.data import market1501
from reid_training.data.base import Dataset, Samples, check_rankable, combine
from reid_training.data.from_python import from_arrays
from reid_training.data.synthetic import write_market_folder
from reid_training.embedders import OnnxEmbedder
from reid_training.errors import DataError
from reid_training.runs import load_checkpoint


def made(name, pids, camids, licence="free"):
    samples = Samples(tuple(Path(f"{name}/{n}.png") for n in range(len(pids))), np.array(pids), np.array(camids))
    return Dataset(name, licence, samples, samples, samples)


def test_identities_and_cameras_of_two_sets_are_never_the_same():
    rng = np.random.default_rng(0)
    sets = [made(f"set{n}", rng.integers(0, 9, 40), rng.integers(-2, 4, 40)) for n in range(3)]
    found = combine(sets).train
    of = [(n, row) for n in range(3) for row in range(40)]
    for a, (set_a, row_a) in enumerate(of):
        for b, (set_b, row_b) in enumerate(of):
            first, second = sets[set_a].train, sets[set_b].train
            same = set_a == set_b and first.pids[row_a] == second.pids[row_b]
            assert (found.pids[a] == found.pids[b]) == same
            known = first.camids[row_a] >= 0
            same = set_a == set_b and first.camids[row_a] == second.camids[row_b]
            assert (found.camids[a] == found.camids[b]) == (a == b or (same and known))
            assert (found.camids[a] >= 0) == known
    assert found.paths == tuple(path for one in sets for path in one.train.paths)
    assert found.pids.min() == 1


def test_names_and_licences_are_joined_and_nothing_is_to_rank():
    sets = [made("a", [1, 1], [0, 0]), made("b", [1, 1], [0, 0], "mine"), made("c", [1, 1], [0, 0])]
    found = combine(sets)
    assert (found.name, found.licence) == ("a + b + c", "free; mine")
    with pytest.raises(DataError, match=r"a \+ b \+ c: no query images; evaluation needs query and gallery"):
        check_rankable(found)


def test_sets_of_files_and_of_python_are_combined():
    pictures = from_arrays(np.zeros((3, 8, 8, 3), np.uint8), ["x", "y", "y"])
    assert combine([made("a", [5, 5], [0, 0]), pictures, pictures]).train.pids.tolist() == [1, 1, 2, 3, 3, 4, 5, 5]


def test_what_cannot_be_combined_is_said():
    with pytest.raises(DataError, match=r"a/0\.png is in a and in a: it would be of two identities"):
        combine([made("a", [1, 1], [0, 0]), made("a", [1, 1], [0, 0])])
    samples = Samples((), np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 1, 1, 1, 1), np.float16))
    with pytest.raises(DataError, match="maps: holds the output of frozen layers"):
        combine([Dataset("maps", "", samples, samples, samples)])
    with pytest.raises(DataError, match="no data sets to combine"):
        combine([])


@pytest.mark.slow
def test_commands_train_and_export_on_two_sets(tmp_path, market, config, capsys):
    write_market_folder(tmp_path / "other", n_train=6, seed=1)
    data = ["--data", str(market), "--data", str(tmp_path / "other")]
    short = ["--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0"]
    assert main(["train", "--config", config, *data, *short, "--out", f"{tmp_path}/run"]) == 0
    n_people = sum(len(np.unique(market1501.read(folder).train.pids)) for folder in (market, tmp_path / "other"))
    n_held = round(n_people * 0.25)
    assert load_checkpoint(tmp_path / "run")["n_classes"] == n_people - n_held
    capsys.readouterr()
    assert main(["export", f"{tmp_path}/run", *data[:2], "--out", f"{tmp_path}/net.onnx"]) == 2
    assert "the data has 9" in capsys.readouterr().err
    assert main(["export", f"{tmp_path}/run", *data, "--out", f"{tmp_path}/net.onnx"]) == 0
    about = OnnxEmbedder(tmp_path / "net.onnx").metadata
    assert about["trained_on"].startswith(f"Market-1501 + Market-1501 training part, {n_people - n_held} people")
    assert about["licence"] == "Market-1501: research only"
