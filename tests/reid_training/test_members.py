"""An ensemble trained member by member: interrupted, resumed or in parallel it is the same to the bit."""

from __future__ import annotations

import csv
import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from reid_training.cli import main
from reid_training.config import DistilConfig, read_toml
from reid_training.data.base import split_identities
from reid_training.distil import read_targets
from reid_training.embedders import TorchEmbedder, embed_samples
from reid_training.errors import ConfigError, ModelError
from reid_training.evaluate import rank_held_out
from reid_training.members import member_config
from reid_training.runs import load_checkpoint, load_method
from reid_training.train import Run, train
from tests.oracles.training_runs import same_runs
from tracker.settings import to_toml

pytestmark = pytest.mark.slow  # each trains something

N_MEMBERS = 3


@pytest.fixture(scope="module")
def config(tiny):
    schedule = dataclasses.replace(tiny.schedule, epochs=2)
    data = dataclasses.replace(tiny.data, height=32, width=16)
    options = {"name": "dreml", "members": N_MEMBERS, "meta_classes": 3}
    return dataclasses.replace(tiny, schedule=schedule, data=data, method=options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, config, data):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(config, data, folder)
    return folder


def test_member_equals_a_separate_run(tmp_path, config, data, whole):
    train_set, _ = split_identities(data.train, config.data.val_fraction, config.seed)
    rest = dataclasses.replace(data, train=train_set)
    configs = [member_config(config, index) for index in range(N_MEMBERS)]
    assert len({one.seed for one in configs}) == N_MEMBERS
    assert configs != [member_config(dataclasses.replace(config, seed=1), index) for index in range(N_MEMBERS)]
    train(configs[1], rest, tmp_path / "alone")
    assert same_runs(tmp_path / "alone", whole / "members" / "01")
    alone, ensemble = (load_checkpoint(path)["ema"] for path in (tmp_path / "alone", whole))
    assert torch.equal(alone["nets.0.project.weight"], ensemble["nets.1.project.weight"])
    assert torch.equal(alone["meta_of"][:, 0], ensemble["meta_of"][:, 1])


def test_ensemble_folder_is_a_normal_run(config, data, whole):
    assert read_toml(str(whole / "config.toml")) == config
    method, read, state = load_method(whole)
    assert read == config
    assert method.size == 3 * N_MEMBERS
    assert [row["epoch"] for row in state["history"]] == list(range(1, 2 * N_MEMBERS + 1))
    with (whole / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["member"] for row in rows] == ["0", "0", "1", "1", "2", "2"]
    assert [bool(row["held_out_map"]) for row in rows] == [False, True] * 3
    _, held_set = split_identities(data.train, config.data.val_fraction, config.seed)
    scores = rank_held_out(embed_samples(TorchEmbedder(method, 32, 16), held_set), held_set)
    assert state["history"][-1]["held_out_map"] == pytest.approx(scores.mean_ap, abs=1e-6)


def test_interrupted_ensemble_resumes_and_repeats_no_member(tmp_path, config, data, whole, monkeypatch):
    real, epochs = Run.epoch, []

    def dies(run, epoch):
        epochs.append((run.config.method["member"], epoch))
        if epochs[-1] == (1, 1) and len(epochs) == 4:
            raise KeyboardInterrupt
        return real(run, epoch)

    monkeypatch.setattr(Run, "epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        train(config, data, tmp_path / "cut")
    assert not (tmp_path / "cut" / "last.pt").exists()
    train(config, data, tmp_path / "cut", resume=True)
    assert epochs == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 1), (2, 0), (2, 1)]
    assert same_runs(tmp_path / "cut", whole)
    train(config, data, tmp_path / "cut", resume=True)
    assert len(epochs) == 7
    assert same_runs(tmp_path / "cut", whole)


def test_two_parallel_jobs_give_the_same_bits(tmp_path, config, data, whole):
    train(config, data, tmp_path / "two", n_jobs=2)
    assert same_runs(tmp_path / "two", whole)


@pytest.mark.skipif(sys.platform == "win32", reason="kills with a signal")
def test_killed_parallel_ensemble_resumes_to_the_same_bits(tmp_path, market, config, data):
    config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, epochs=8))
    train(config, data, tmp_path / "whole")
    (tmp_path / "config.toml").write_text(to_toml(config))
    run = tmp_path / "cut"
    code = "import sys; from reid_training.cli import main; sys.exit(main())"
    arguments = ["train", "--config", str(tmp_path / "config.toml"), "--data", str(market), "--out", str(run)]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments, "--jobs", "2"], stdout=subprocess.PIPE)
    begun = [run / "members" / name / "last.pt" for name in ("00", "01")]
    while not all(path.exists() for path in begun):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()  # members hold the pipe too: it closes when all have ended
    assert not (run / "last.pt").exists()
    assert main([*arguments, "--jobs", "2", "--resume"]) == 0
    assert same_runs(run, tmp_path / "whole")


def test_error_in_a_worker_process_is_one_line(tmp_path, market, config, capsys):
    (tmp_path / "config.toml").write_text(to_toml(config))
    arguments = [
        "train",
        "--config",
        str(tmp_path / "config.toml"),
        "--data",
        str(market),
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*arguments, "--set", "method.meta_classes=10", "--jobs", "2"]) == 2
    assert capsys.readouterr().err == "reid: method.meta_classes must be at most 9, the people here, got 10\n"
    assert main([*arguments, "--jobs", "0"]) == 2
    assert capsys.readouterr().err == "reid: --jobs must be >= 1, got 0\n"


def test_existing_ensemble_or_other_settings_are_refused(config, data, whole):
    with pytest.raises(ConfigError, match="holds a run already"):
        train(config, data, whole)
    before = (whole / "config.toml").read_text()
    with pytest.raises(ModelError, match="other settings"):
        train(dataclasses.replace(config, seed=1), data, whole, resume=True)
    assert (whole / "config.toml").read_text() == before


def test_jobs_need_members_and_no_torchrun(tmp_path, tiny, config, data, monkeypatch):
    with pytest.raises(ConfigError, match="2 jobs need a method with separately trained members; siamese is one run"):
        train(tiny, data, tmp_path, n_jobs=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="--jobs instead of torchrun"):
        train(config, data, tmp_path)


def test_no_held_out_people_gives_no_scores(tmp_path, config, data):
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, val_fraction=0.0))
    history = train(config, data, tmp_path)
    assert not any("held_out_map" in row for row in history)


def test_ensemble_works_as_a_teacher(tmp_path, tiny, config, data, whole):
    # Without a neck: after so little training a teacher finds all people alike, and a neck's features have mean 0.
    options = {"name": "siamese", "id_weight": 0.0}
    student = dataclasses.replace(config, method=options, distil=DistilConfig(str(whole), 40.0))
    history = train(student, data, tmp_path / "run")
    assert all(0.0 < row["relation"] < 4.0 for row in history)
    method, _, _ = load_method(tmp_path / "run")
    assert method.size == tiny.net.embedding_size

    targets = read_targets(
        student.distil, data.train.take(np.arange(3)), tmp_path, torch.device("cpu"), 1, resume=False
    )
    assert targets.shape == (3, 3 * N_MEMBERS)


def test_failing_member_leaves_the_others_running(tmp_path, market, config, capsys):
    (tmp_path / "config.toml").write_text(to_toml(config))
    members = tmp_path / "run" / "members"
    members.mkdir(parents=True)
    (members / "00").touch()  # a file where the first member wants a folder
    arguments = ["train", "--config", str(tmp_path / "config.toml"), "--data", str(market)]
    assert main([*arguments, "--out", str(tmp_path / "run"), "--jobs", "2"]) == 2
    assert "reid: cannot write " in capsys.readouterr().err
    for name in ("01", "02"):
        assert len(load_checkpoint(members / name)["history"]) == config.schedule.epochs
