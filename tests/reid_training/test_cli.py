"""The commands of `reid`: their output, and one clear line for each user error."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import subprocess
import sys
from dataclasses import astuple

import cv2
import numpy as np
import pytest
import torch

from reid_training import bench
from reid_training.cli import main, parser
from reid_training.config import NetConfig, RunConfig, read_toml, with_changes
from reid_training.data.synthetic import write_market_folder
from reid_training.errors import ConfigError
from reid_training.evaluate import Calibration
from reid_training.export import thresholds
from reid_training.methods import METHODS
from reid_training.runs import load_checkpoint, save_checkpoint
from tests.oracles.training_runs import mistake
from tracker.appearance.encoder import OnnxEncoder
from tracker.settings import field_comments, override, pairs
from tracker.stages.embed import FALLBACK

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory, market, config):
    folder = tmp_path_factory.mktemp("runs") / "cli"
    assert main(["train", "--config", config, "--data", str(market), "--out", str(folder), "--seed", "0"]) == 0
    return folder


def test_train_evaluate_export_work_on_drawn_people(market, run, tmp_path, capsys):
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    onnx = str(tmp_path / "net.onnx")
    assert main(["export", str(run), "--out", onnx, "--data", str(market)]) == 0
    assert "agrees with torch at batch 1, 2, 7 and 32" in capsys.readouterr().out
    tables = []
    for model in (str(run), str(run / "last.pt"), onnx):
        assert main(["evaluate", model, "--data", str(market)]) == 0
        tables.append(capsys.readouterr().out)
    assert "24 queries" in tables[0]
    assert tables[0] == tables[1] == tables[2]


def test_resume_after_the_end_changes_nothing(market, run, config):
    before = load_checkpoint(run)
    assert main(["train", "--config", config, "--data", str(market), "--out", str(run), "--resume"]) == 0
    after = load_checkpoint(run)
    assert all(torch.equal(before["ema"][key], after["ema"][key]) for key in before["ema"])


@pytest.mark.slow
def test_help_is_quick_and_imports_no_torch():
    code = "import sys, reid_training.cli as c; c.parser().format_help(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)


def train_on(config, folder, tmp_path):
    return ("train", "--config", config, "--data", folder, "--out", tmp_path / "run")


def test_missing_data_folder(capsys, config, tmp_path):
    assert "no folder" in mistake(capsys, *train_on(config, tmp_path / "nowhere", tmp_path))


def test_folder_of_another_layout(capsys, config, tmp_path):
    line = mistake(capsys, *train_on(config, tmp_path, tmp_path))
    assert f"{tmp_path} holds none of: bounding_box_train, query and bounding_box_test (Market-1501, DukeMTMC" in line
    assert "list_train.txt, _val, _query and _gallery, and train and test or mask_train_v2" in line


def test_no_images(capsys, config, tmp_path):
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    assert "no images" in mistake(capsys, *train_on(config, tmp_path / "data", tmp_path))


def test_one_identity(capsys, config, tmp_path):
    folder = write_market_folder(tmp_path / "data", n_train=1, n_test=2)
    assert "show one identity; at least 2 are needed" in mistake(capsys, *train_on(config, folder, tmp_path))


def test_one_image_per_identity(capsys, config, tmp_path):
    folder = write_market_folder(tmp_path / "data", n_train=6, n_cameras=1, n_per_camera=1, n_distractors=1)
    for image in (folder / "query").iterdir():
        shutil.copy(image, folder / "bounding_box_test")
    assert "every identity has one image" in mistake(capsys, *train_on(config, folder, tmp_path))


def test_corrupt_image(capsys, config, tmp_path, market):
    folder = shutil.copytree(market, tmp_path / "data")
    bad = sorted((folder / "bounding_box_train").iterdir())[5]
    bad.write_bytes(bad.read_bytes()[:20])
    line = mistake(capsys, *train_on(config, folder, tmp_path))
    assert str(bad) in line
    assert "not an image, or it is damaged" in line


def test_empty_image(capsys, config, tmp_path, market):
    folder = shutil.copytree(market, tmp_path / "data")
    (folder / "bounding_box_train" / "0001_c1s1_000000_99.jpg").touch()
    assert "0001_c1s1_000000_99.jpg is not an image" in mistake(capsys, *train_on(config, folder, tmp_path))


def test_image_without_person_and_camera(capsys, config, tmp_path, market):
    folder = shutil.copytree(market, tmp_path / "data")
    cv2.imwrite(str(folder / "bounding_box_train" / "holiday.jpg"), np.zeros((8, 8, 3), np.uint8))
    assert "holiday.jpg is not named like" in mistake(capsys, *train_on(config, folder, tmp_path))


def test_missing_config(capsys, tmp_path, market):
    assert "settings from nowhere.toml: No such file" in mistake(capsys, *train_on("nowhere.toml", market, tmp_path))


def test_config_that_is_not_toml(capsys, tmp_path, market):
    path = tmp_path / "bad.toml"
    path.write_text("epochs == 3")
    assert "is it a settings file?" in mistake(capsys, *train_on(path, market, tmp_path))


def test_run_folder_in_use(capsys, market, run, config):
    assert "holds a run already" in mistake(capsys, "train", "--config", config, "--data", market, "--out", run)


def test_run_folder_that_cannot_be_written(capsys, market, config, tmp_path):
    (tmp_path / "run").write_text("a file is in the way")
    assert "cannot write" in mistake(capsys, *train_on(config, market, tmp_path))


def test_resume_without_a_checkpoint(capsys, market, config, tmp_path):
    assert "no checkpoint" in mistake(capsys, *train_on(config, market, tmp_path), "--resume")


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_missing_checkpoint(capsys, market, tmp_path, command):
    out = ("--out", tmp_path / "net.onnx") if command == "export" else ()
    line = mistake(capsys, command, tmp_path / "none.pt", "--data", market, *out)
    assert "none.pt" in line


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 half a zip", bytes(5000)])
def test_not_a_checkpoint(capsys, market, tmp_path, content):
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    assert "last.pt is not a checkpoint" in mistake(capsys, "evaluate", path, "--data", market)


@pytest.mark.parametrize("content", [{"weights": 1}, [1, 2], {"format": "other/3"}])
def test_torch_file_of_another_program_is_refused(capsys, market, tmp_path, content):
    torch.save(content, tmp_path / "last.pt")
    assert "is not a checkpoint of `reid train`" in mistake(capsys, "evaluate", tmp_path, "--data", market)


class Evil:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_checkpoint_cannot_run_code(capsys, market, tmp_path):
    torch.save({"format": "tracklet-checkpoint/1", "config": Evil()}, tmp_path / "last.pt")
    assert main(["evaluate", str(tmp_path), "--data", str(market)]) == 2
    captured = capsys.readouterr()
    assert "code from a checkpoint ran" not in captured.out + captured.err


def test_checkpoint_of_another_net(capsys, market, run, tmp_path):
    state = load_checkpoint(run)
    state["config"]["net"]["channels"] = [8, 16, 32]
    del state["format"]
    save_checkpoint(tmp_path / "last.pt", state)
    assert "holds another network: " in mistake(capsys, "evaluate", tmp_path, "--data", market)


def test_checkpoint_without_its_parts(capsys, market, tmp_path):
    save_checkpoint(tmp_path / "last.pt", {"config": {}})
    assert "lacks" in mistake(capsys, "evaluate", tmp_path, "--data", market)


def test_export_with_data_of_other_people(capsys, run, tmp_path):
    folder = write_market_folder(tmp_path / "data", n_train=7, n_test=2)
    line = mistake(capsys, "export", run, "--out", tmp_path / "net.onnx", "--data", folder)
    assert "was trained on 9 people, the data has 5" in line
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize("share", [0.0, 0.1])  # of 12 people: none, and one, who makes no pair of different people
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_export_from_too_few_people_warns_and_takes_default_thresholds(capsys, market, run, tmp_path, share, precision):
    state = load_checkpoint(run)
    state["config"]["data"]["val_fraction"] = share
    state["n_classes"] = 12 - round(12 * share)
    for part in ("method", "ema"):  # the network of a run on so many people; the classifier is not exported
        state[part]["classifier.weight"] = state[part]["classifier.weight"][:1].repeat(state["n_classes"], 1)
    save_checkpoint(tmp_path / "last.pt", state)
    net = tmp_path / "net.onnx"
    words = ["export", str(tmp_path), "--out", str(net), "--data", str(market), "--precision", precision]
    assert main(words) == 0
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert f"{round(12 * share)} held-out people are too few to measure thresholds" in said
    encoder = OnnxEncoder(net, "cpu", 1)
    assert astuple(encoder.calibration) == astuple(FALLBACK)


def test_thresholds_of_people_told_apart_perfectly_are_in_the_order_of_the_tracker():
    """The quantiles are then in the opposite order: 1 % of the different pairs lie above 99 % of the same."""
    found = Calibration(0.6, 0.2, 0.0, 1.0, 10, 10)
    assert [float(text) for text in thresholds(found).values()] == [0.2, 0.6, 1e-6]


@pytest.mark.parametrize("command", ["evaluate", "adapt", "export", "suggest-labels", "bench"])
@pytest.mark.parametrize("name", ["fast", "accurate", "default", "reid_fast"])
def test_bundled_networks_go_by_their_short_names(command, name):
    required = {
        "evaluate": ["--data", "d"],
        "adapt": ["--support", "d", "--out", "o.onnx"],
        "export": ["--data", "d", "--out", "o.onnx"],
        "suggest-labels": ["--crops", "d"],
        "bench": [],
    }
    found = vars(parser().parse_args([command, name, *required[command]]))
    (path,) = found["models"] if command == "bench" else [found["model"]]
    assert path.name == ("reid_accurate.onnx" if name == "accurate" else "reid_fast.onnx")
    assert path.is_file()


def test_misspelt_name_of_a_network_lists_the_bundled_ones(capsys, market):
    line = mistake(capsys, "evaluate", "acurate", "--data", market)
    assert line == "reid: acurate: no such file; the bundled re-ID networks are fast (the default) and accurate"


@pytest.mark.parametrize("name", ["fast", "accurate", "default", "reid_accurate"])
def test_config_goes_by_the_name_of_its_network(name):
    assert read_toml(name).net.name == ("efficientnet_lite0" if "accurate" in name else "osnet")


@pytest.mark.parametrize(
    ("changes", "warmup", "said"),
    [
        ({"schedule.epochs": "2"}, 1, "warm-up of 1 epochs instead of 5, to fit into 2"),
        ({"schedule.epochs": "1"}, 0, "warm-up of 0 epochs instead of 5, to fit into 1"),
        ({"schedule.epochs": "5"}, 2, "warm-up of 2 epochs instead of 5, to fit into 5"),
        ({"schedule.epochs": "6"}, 5, None),
        ({"schedule.epochs": "5", "schedule.warmup_epochs": "4"}, 4, None),
        ({"schedule.epochs": "5", "schedule.warmup_epochs": "5"}, 5, None),
        ({}, 5, None),
    ],
)
def test_fewer_epochs_shorten_the_warm_up(changes, warmup, said, caplog):
    config = with_changes(RunConfig(), changes)
    assert config.schedule.warmup_epochs == warmup
    assert config.schedule.epochs == int(changes.get("schedule.epochs", 100))
    assert caplog.messages == ([] if said is None else [said])


@pytest.mark.parametrize(
    ("source", "name", "dropped"),
    [
        ("fast", "conv4", ["channels"]),
        ("accurate", "resnet18", ["start", "frozen"]),
        ("fast", "osnet", []),
        ("accurate", "efficientnet_lite0", []),
    ],
)
def test_another_network_drops_what_only_the_first_one_reads(source, name, dropped, caplog):
    packaged = read_toml(source)
    config = with_changes(packaged, {"net.name": name, "seed": "3"})
    defaults = NetConfig()
    kept = dataclasses.replace(packaged.net, name=name, **{key: getattr(defaults, key) for key in dropped})
    assert config == dataclasses.replace(packaged, net=kept, seed=3)
    said = [f"without net.{', net.'.join(dropped)}, which {name} does not read"] if dropped else []
    assert caplog.messages == said


def test_setting_of_another_network_that_is_given_is_refused():
    with pytest.raises(ConfigError, match=r"net\.blocks has no meaning for conv4"):
        with_changes(read_toml("fast"), {"net.name": "conv4", "net.blocks": "1"})


def test_warm_up_that_is_set_and_does_not_fit_is_named():
    with pytest.raises(ConfigError, match=r"^schedule.warmup_epochs must be <= epochs = 2, got 3$"):
        with_changes(RunConfig(), {"schedule.epochs": "2", "schedule.warmup_epochs": "3"})


@pytest.mark.slow
def test_full_disk_is_reported_and_keeps_the_last_checkpoint(capsys, market, config, tmp_path, monkeypatch):
    assert main(["train", "--config", config, "--data", str(market), "--out", str(tmp_path / "run")]) == 0
    before = (tmp_path / "run" / "last.pt").read_bytes()
    state = load_checkpoint(tmp_path / "run")
    state["history"] = state["history"][:2]
    save_checkpoint(tmp_path / "run" / "last.pt", state)
    shortened = (tmp_path / "run" / "last.pt").read_bytes()
    assert shortened != before

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    capsys.readouterr()
    said = mistake(capsys, *train_on(config, market, tmp_path), "--resume", status=1)
    assert "No space left on device" in said
    assert (tmp_path / "run" / "last.pt").read_bytes() == shortened
    assert list((tmp_path / "run").glob("*.part")) == []


@pytest.mark.slow
def test_bench_prints_a_row_per_batch_size_and_number_of_threads(capsys, market, run, tmp_path, monkeypatch):
    assert main(["export", str(run), "--out", str(tmp_path / "net.onnx"), "--data", str(market)]) == 0
    monkeypatch.setattr(bench.time_crops, "__defaults__", (0.01,))
    capsys.readouterr()
    for chosen, threads in (([], ["1", "2"]), (["--threads", "2"], ["2"]), (["--threads", "1", "3"], ["1", "3"])):
        assert main(["bench", str(tmp_path / "net.onnx"), *chosen]) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
        assert [row[:2] for row in rows] == [[batch, n] for batch in ("1", "8", "32") for n in threads]
        assert all(0.0 < float(row[2]) <= float(row[3]) for row in rows)


@pytest.mark.parametrize(("threads", "model"), [("0", "net.onnx"), ("1", "none.onnx")])
def test_invalid_bench_arguments_are_named(capsys, tmp_path, threads, model):
    assert ("--threads" if threads == "0" else model) in mistake(
        capsys, "bench", tmp_path / model, "--threads", threads
    )


def test_onnx_without_metadata_is_named(capsys, market, run, tmp_path):
    import onnx

    out = tmp_path / "net.onnx"
    assert main(["export", str(run), "--out", str(out), "--data", str(market)]) == 0
    model = onnx.load(str(out))
    onnx.helper.set_model_props(model, {})
    onnx.save(model, str(out))
    capsys.readouterr()
    assert "has no metadata" in mistake(capsys, "evaluate", out, "--data", market)


def test_corrupt_onnx_file_is_named(capsys, market, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"not protobuf")
    assert "net.onnx is not an ONNX model" in mistake(capsys, "evaluate", tmp_path / "net.onnx", "--data", market)


def test_methods_lists_every_method_with_its_settings(capsys):
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    for name in METHODS:
        assert f"\n{name}: " in f"\n{out}"
    assert "    margin = 0.3\n" in out


def test_methods_of_a_name_explain_every_setting(capsys):
    assert main(["methods", "hdml"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("hdml: Hardness-aware deep metric learning")
    assert "Wenzhao Zheng, Zhaodong Chen, Jiwen Lu, Jie Zhou. CVPR 2019" in out
    for setting in dataclasses.fields(METHODS["hdml"][1]):
        assert f"\n    method.{setting.name} = {setting.default}  (" in out
    assert "\n    method.soft_share = 0.5  (a number in [0, 1])\n        of the label in J_gen" in out
    assert "method.miner = hard  (one of all, semi_hard, hard, distance_weighted)" in out


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_a_method_has_a_comment(name):
    config = METHODS[name][1]
    assert set(field_comments(config)) == {setting.name for setting in dataclasses.fields(config)}


def test_unknown_method_is_named(capsys):
    assert "method.name must be one of siamese, " in mistake(capsys, "methods", "hdlm")


def test_one_setting_from_the_command_line(tiny):
    changed = override(tiny, pairs(["schedule.epochs=7", "method.margin = 0.5", "net.width=0.5", "seed=3"]))
    assert (changed.schedule.epochs, changed.method["margin"], changed.net.width, changed.seed) == (7, 0.5, 0.5, 3)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("schedule.epochs", "--set takes NAME=VALUE"),
        ("epochs=3", "unknown setting epochs .did you mean schedule.epochs.*; there are: seed, data"),
        ("trainer.epochs=3", "unknown setting trainer"),
        (
            "schedule.epoch=3",
            "unknown setting schedule.epoch .did you mean schedule.epochs.*; there are: ",
        ),
        ("schedule.epochs=many", "schedule.epochs must be a whole number, got 'many'"),
    ],
)
def test_invalid_setting_from_the_command_line_is_named(tiny, setting, said):
    with pytest.raises(ConfigError, match=said):
        override(tiny, pairs([setting]))
