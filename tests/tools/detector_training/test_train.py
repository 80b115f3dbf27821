"""The loop and the command line: a run learns, goes on to the bit where it stopped, and ends as a detector."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from reid_training.errors import ConfigError, ModelError
from tests.synthetic.drawn_people import SIZE, draw, small_config
from tools.detector_training import __main__ as command
from tools.detector_training import train as loop
from tools.detector_training.config import ScheduleConfig, from_dict, override, read_toml
from tools.detector_training.runs import load_checkpoint
from tools.detector_training.train import Run, learning_rate, train
from tracker.detector.onnx import OnnxDetector
from tracker.settings import to_dict, to_toml


class KilledError(Exception):
    pass


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(data, tmp_path, monkeypatch):
    config = small_config(epochs=3)
    train(config, data, tmp_path / "whole")

    whole_epoch = Run.epoch

    def killed(self, epoch):
        if epoch == 1:
            raise KilledError
        return whole_epoch(self, epoch)

    monkeypatch.setattr(Run, "epoch", killed)
    with pytest.raises(KilledError):
        train(config, data, tmp_path / "parts")
    monkeypatch.setattr(Run, "epoch", whole_epoch)
    torch.manual_seed(99)  # what happened before in the process does not matter
    train(config, data, tmp_path / "parts", resume=True)

    whole, parts = load_checkpoint(tmp_path / "whole"), load_checkpoint(tmp_path / "parts")
    for part in ("net", "ema"):
        assert all(value.equal(parts[part][name]) for name, value in whole[part].items())
    with (tmp_path / "parts" / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"loss", "score_loss", "box_loss", "val_ap", "val_ap_drawn", "images_per_s"} <= set(rows[-1])
    assert (tmp_path / "parts" / "curve.png").stat().st_size > 0


@pytest.mark.slow
def test_a_run_stops_where_asked_and_goes_on(data, tmp_path):
    config = small_config(epochs=2)
    train(config, data, tmp_path / "whole")
    assert len(train(config, data, tmp_path / "parts", until=1)) == 1
    assert len(train(config, data, tmp_path / "parts", until=9, resume=True)) == 2
    whole, parts = load_checkpoint(tmp_path / "whole"), load_checkpoint(tmp_path / "parts")
    assert all(value.equal(parts["net"][name]) for name, value in whole["net"].items())


@pytest.mark.slow
def test_batch_norms_keep_their_statistics_after_their_epochs(data, tmp_path):
    config = small_config(epochs=3, batch_norm_epochs=1)
    train(config, data, tmp_path / "run", until=2)
    second = load_checkpoint(tmp_path / "run")["net"]
    train(config, data, tmp_path / "run", resume=True)
    third = load_checkpoint(tmp_path / "run")["net"]
    train(config, data, tmp_path / "whole")
    assert all(value.equal(third[name]) for name, value in load_checkpoint(tmp_path / "whole")["net"].items())
    statistics = [name for name in third if "running" in name]
    assert all(second[name].equal(third[name]) for name in statistics)
    weights = [name for name in third if name.endswith("weight")]
    assert not any(second[name].equal(third[name]) for name in weights)


def test_measured_statistics_are_the_mean_over_the_batches():
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    batches = [torch.randn(n, 3, 5, 4, generator=torch.Generator().manual_seed(n)) for n in (2, 7)]
    loop.measure_norms(net, batches)
    expected = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(net[0].running_mean, expected)
    expected = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(net[0].running_var, expected)
    assert net[0].momentum == 0.1


@pytest.mark.slow
def test_a_run_starts_from_the_averaged_weights_of_another(data, tmp_path):
    train(small_config(epochs=1), data, tmp_path / "first")
    config = small_config(epochs=2)
    run = Run(config, data, tmp_path / "second", cache=tmp_path / "cache", start=tmp_path / "first", resume=False)
    first = load_checkpoint(tmp_path / "first")["ema"]
    assert all(value.equal(first[name]) for name, value in run.net.state_dict().items())
    with pytest.raises(ModelError, match="no checkpoint"):
        train(config, data, tmp_path / "third", start=tmp_path / "absent")


@pytest.mark.slow
def test_a_packed_checkpoint_is_small_and_starts_another_run(data, tmp_path):
    train(small_config(epochs=1), data, tmp_path / "first")
    packed = tmp_path / "small.pt"
    assert command.main(["pack", str(tmp_path / "first"), "--out", str(packed)]) == 0
    assert packed.stat().st_size < 0.5 * (tmp_path / "first" / "last.pt").stat().st_size
    run = Run(small_config(), data, tmp_path / "second", cache=tmp_path / "cache", start=packed, resume=False)
    first = load_checkpoint(tmp_path / "first")["ema"]
    for name, value in run.net.state_dict().items():
        torch.testing.assert_close(value, first[name], rtol=1e-3, atol=1e-6)
    assert command.main(["export", str(packed), "--out", str(tmp_path / "a.onnx")]) == 0
    (tmp_path / "third").mkdir()
    packed.rename(tmp_path / "third" / "last.pt")
    with pytest.raises(ModelError):
        train(small_config(epochs=2), data, tmp_path / "third", resume=True)


@pytest.mark.slow
def test_it_learns_to_find_drawn_people(data, tmp_path):
    config = small_config(epochs=20, decay_epochs=8, steps_per_epoch=24, ema_decay=0.95, learning_rate=4e-3)
    history = train(config, data, tmp_path / "run")
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert history[-1]["val_ap"] > 0.6


@pytest.mark.slow
def test_processes_that_make_scenes_change_nothing(data, tmp_path):
    rows = [train(small_config(loaders=n, epochs=1), data, tmp_path / str(n)) for n in (0, 2)]
    assert rows[0][0]["loss"] == rows[1][0]["loss"]


@pytest.mark.slow
def test_mistakes_are_one_sentence(data, tmp_path):
    config = small_config(epochs=1)
    train(config, data, tmp_path / "run")
    with pytest.raises(ConfigError, match="holds a run already"):
        train(config, data, tmp_path / "run")
    other = dataclasses.replace(config, net=dataclasses.replace(config.net, width=32))
    with pytest.raises(ModelError, match="another network"):
        train(other, data, tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match="no sources"):
        train(dataclasses.replace(config, sources={}), data, tmp_path / "other")
    with pytest.raises(ModelError, match="no checkpoint"):
        train(config, data, tmp_path / "absent", resume=True)


def test_a_loss_that_is_not_finite_ends_the_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "detection_loss", lambda *_: (torch.tensor(float("nan"), requires_grad=True), {}))
    with pytest.raises(ModelError, match="the loss became nan in epoch 1"):
        train(small_config(), data, tmp_path / "run")


def test_learning_rate_rises_stays_and_falls():
    schedule = ScheduleConfig(epochs=10, decay_epochs=4, warmup_epochs=1.0, learning_rate=1.0)
    rates = [learning_rate(step, 10, schedule) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:60] == [1.0] * 51
    assert rates[80] == pytest.approx(0.5)
    assert rates[60:] == sorted(rates[60:], reverse=True)
    assert 0 < rates[-1] < 0.01


@pytest.mark.slow
def test_a_run_can_be_made_longer_before_the_rate_falls(data, tmp_path):
    train(small_config(epochs=3), data, tmp_path / "whole")
    train(small_config(epochs=2), data, tmp_path / "parts", until=1)
    train(small_config(epochs=3), data, tmp_path / "parts", resume=True)
    whole, parts = load_checkpoint(tmp_path / "whole"), load_checkpoint(tmp_path / "parts")
    assert all(value.equal(parts["net"][name]) for name, value in whole["net"].items())


def test_config_survives_toml_and_names_mistakes():
    config = read_toml("person")
    assert from_dict(toml_table(to_toml(config))) == config
    assert from_dict(to_dict(config)) == config
    for table, message in (
        ({"nets": {}}, "unknown setting nets"),
        ({"net": {"kernel": 4}}, "net.kernel must be"),
        ({"scenes": {"heights": [100, 96, 96, 96]}}, "multiples of 32"),
        ({"scenes": {"heights": [96]}}, "a number for each canvas"),
        ({"teacher": {"person_score": 0.1}}, "ignore_score"),
        ({"sources": {"a": {"format": "unlabelled", "images": "x"}}}, "complete = false"),
        ({"sources": {"a": {"images": "x"}}}, "sources.a.format is missing"),
        ({"seed": "x"}, "seed"),
    ):
        with pytest.raises(ConfigError, match=message):
            from_dict(table)


def test_settings_override_a_config():
    config = read_toml("person")
    words = ["schedule.epochs=900", "scenes.chances=[1, 0, 0, 0]", "sources.coco.weight=3", 'teacher.file=""', "seed=4"]
    changed = override(config, words)
    assert (changed.schedule.epochs, changed.scenes.chances, changed.seed) == (900, (1.0, 0.0, 0.0, 0.0), 4)
    assert (changed.sources["coco"].weight, changed.teacher.file) == (3.0, "")
    assert changed.sources["coco"].images == config.sources["coco"].images
    for word, message in (
        ("schedule.epoch=1", "unknown setting schedule.epoch"),
        ("seed", "--set takes"),
        ("net.width=x", "net.width must be"),
    ):
        with pytest.raises(ConfigError, match=message):
            override(config, [word])


def toml_table(text):
    import tomllib

    return tomllib.loads(text)


@pytest.fixture
def sequence(tmp_path):
    """Three frames of a MOT sequence with a person in each."""
    folder = tmp_path / "MOT-01"
    (folder / "img1").mkdir(parents=True)
    (folder / "gt").mkdir()
    rows = []
    for number in range(1, 4):
        box = (10 * number, 20, 10 * number + 25, 70)
        cv2.imwrite(str(folder / "img1" / f"{number:06d}.jpg"), draw(np.random.default_rng(number), [box]))
        rows.append(f"{number},1,{box[0] + 1},{box[1] + 1},25,50,1,1,1.0\n")
    (folder / "gt" / "gt.txt").write_text("".join(rows))
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname=MOT-01\nimDir=img1\nframeRate=10\nseqLength=3\nimWidth={SIZE[1]}\nimHeight={SIZE[0]}\n"
        "imExt=.jpg\n"
    )
    return folder


@pytest.mark.slow
def test_from_the_command_line_to_a_table(data, sequence, tmp_path, capsys):
    config = tmp_path / "small.toml"
    config.write_text(to_toml(small_config(epochs=1)))
    run, onnx, table = tmp_path / "run", tmp_path / "person.onnx", tmp_path / "table.csv"
    assert command.main(["train", "--config", str(config), "--data", str(data), "--out", str(run)]) == 0
    assert command.main(["export", str(run), "--out", str(onnx), "--size", "64"]) == 0
    assert OnnxDetector(onnx, device="cpu")._input_size(*SIZE) == (64, 64)
    empty = data / "drawn" / "images"
    words = [f"{onnx}@96", "--test", f"{sequence}@1-3:2", "--without-people", str(empty), "--csv", str(table)]
    assert command.main(["evaluate", *words]) == 0
    assert "| person 96 |" in capsys.readouterr().out
    with table.open() as stream:
        (row,) = csv.DictReader(stream)
    assert 0 <= float(row["AP MOT-01"]) <= 1
    assert float(row["CPU ms"]) > 0


def test_evaluate_compares_devices(sequence, capsys):
    pytest.importorskip("openvino", reason="the package openvino is not installed")
    detector = Path(__file__).resolve().parents[3] / "weights" / "person.onnx"
    words = [f"{detector}@64", "--device", "cpu", "openvino", "--test", f"{sequence}@1-1"]
    assert command.main(["evaluate", *words]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| person 64", "| person 64 openvino"]


def test_mistakes_on_the_command_line(tmp_path, capsys):
    assert command.main(["export", str(tmp_path), "--out", str(tmp_path / "a.onnx")]) == 2
    assert "no checkpoint" in capsys.readouterr().err
    assert command.main(["export", str(tmp_path), "--out", str(tmp_path / "a.onnx"), "--size", "16"]) == 2
    assert "size must be >= 32, got 16" in capsys.readouterr().err
    assert command.main(["evaluate", str(tmp_path / "a.onnx"), "--test", str(tmp_path)]) == 2
    assert "no gt/gt.txt" in capsys.readouterr().err
    assert command.main(["evaluate", "a.onnx"]) == 2
    assert "at least one --test" in capsys.readouterr().err
