"""The losses against slow loops and finite differences; runs with a teacher, with labels and without."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, helper, numpy_helper

from reid_training import distil as distillation
from reid_training import train as training
from reid_training.cli import main
from reid_training.config import DistilConfig, from_dict
from reid_training.data import market1501
from reid_training.data.base import read_images
from reid_training.data.folders import read_unlabelled
from reid_training.data.transforms import normalise, to_tensor
from reid_training.distil import Distillation, crop_batches, direct_loss, read_targets, relation_loss
from reid_training.embedders import OnnxEmbedder
from reid_training.errors import ConfigError, ModelError
from reid_training.export import export
from reid_training.runs import load_checkpoint, load_method
from reid_training.teachers import open_teacher
from reid_training.train import train
from tracker.settings import to_toml

pytestmark = pytest.mark.slow  # each trains something


def unit(rows: int, size: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=1)


def slow_relation_loss(student, teacher):
    terms = []
    for i in range(len(student)):
        for j in range(len(student)):
            if i != j:
                of_student = sum(float(a) * float(b) for a, b in zip(student[i], student[j], strict=True))
                of_teacher = sum(float(a) * float(b) for a, b in zip(teacher[i], teacher[j], strict=True))
                terms.append((of_student - of_teacher) ** 2)
    return sum(terms) / len(terms)


def test_relation_loss_agrees_with_a_slow_loop_for_unlike_sizes():
    student, teacher = unit(7, 4, 0), unit(7, 9, 1)
    assert float(relation_loss(student, teacher)) == pytest.approx(slow_relation_loss(student, teacher), abs=1e-12)


def test_rotated_copy_of_the_teacher_has_zero_loss():
    teacher = unit(6, 5, 0)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    assert float(relation_loss(teacher @ turn, teacher)) == pytest.approx(0.0, abs=1e-24)


def test_its_gradient_agrees_with_finite_differences():
    teacher = unit(5, 6, 1)
    free = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: relation_loss(F.normalize(x, dim=1), teacher), (free,))


def test_one_image_has_no_relations():
    student = unit(1, 4, 0).requires_grad_()
    loss = relation_loss(student, unit(1, 4, 1))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not student.grad.any()


def longer(config):
    """A schedule long enough for a tiny network to learn its people."""
    return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, epochs=16))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, market, tiny):
    """A teacher with another size, input and embedding than the student."""
    config = dataclasses.replace(
        longer(tiny),
        seed=5,
        data=dataclasses.replace(tiny.data, height=96, width=48),
        net=dataclasses.replace(tiny.net, embedding_size=24),
    )
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    train(config, market1501.read(market), folder)
    return folder


def with_teacher(config, teacher, weight=20.0, **settings):
    return dataclasses.replace(config, distil=DistilConfig(str(teacher), weight, **settings))


def targets_of(distil, crops, folder, *, resume=False):
    return read_targets(distil, crops, folder, torch.device("cpu"), 1, resume=resume)


def test_targets_are_the_mean_of_crop_and_mirror_image(tmp_path, market, teacher):
    method, config, _ = load_method(teacher)
    crops = market1501.read(market).train.take(np.arange(5))
    images = normalise(to_tensor(read_images(crops, config.data.height, config.data.width)))
    with torch.no_grad():
        expected = F.normalize(method.embed(images) + method.embed(images.flip(3)), dim=1)
    found = targets_of(DistilConfig(str(teacher)), crops, tmp_path)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_targets_are_computed_once_and_checked(tmp_path, market, teacher, monkeypatch):
    crops = market1501.read(market).train.take(np.arange(5))
    distil = DistilConfig(str(teacher))
    found = targets_of(distil, crops, tmp_path)
    monkeypatch.setattr(distillation, "embed_clean", None)  # a call would raise
    np.testing.assert_array_equal(targets_of(distil, crops, tmp_path, resume=True), found)
    with pytest.raises(ModelError, match="of another teacher, or of other crops"):
        targets_of(distil, crops.take(np.arange(4)), tmp_path, resume=True)
    (tmp_path / "teacher.npz").write_bytes(b"PK garbage")
    with pytest.raises(ModelError, match="is damaged; delete it"):
        targets_of(distil, crops, tmp_path)


def test_direct_loss_agrees_with_a_slow_loop():
    mapped, teacher = 3.0 * unit(6, 5, 0), unit(6, 5, 1)
    slow = [
        1.0 - sum(float(a) / 3.0 * float(b) for a, b in zip(*rows, strict=True))
        for rows in zip(mapped, teacher, strict=True)
    ]
    assert float(direct_loss(mapped, teacher)) == pytest.approx(sum(slow) / len(slow), abs=1e-12)


def test_losses_are_weighted_and_logged():
    student, targets = unit(4, 3, 0).float(), unit(6, 5, 1).float()
    taught = Distillation(DistilConfig(weight=2.0, direct_weight=0.5), targets.numpy(), 3, torch.device("cpu"))
    rows = torch.tensor([5, 0, 2, 1])
    total, parts = taught.loss(student, rows)
    assert parts["relation"] == pytest.approx(slow_relation_loss(student, targets[rows]), abs=1e-6)
    assert parts["direct"] == pytest.approx(float(direct_loss(taught.map(student), targets[rows]).detach()), abs=1e-6)
    assert float(total) == pytest.approx(2.0 * parts["relation"] + 0.5 * parts["direct"], abs=1e-6)


def test_every_crop_comes_once_before_any_comes_again():
    batches = list(crop_batches(10, 4, 5, np.random.default_rng(0)))
    order = np.concatenate(batches)
    assert [len(batch) for batch in batches] == [4] * 5
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))


def write_foreign(path, *, channels_last=False, batch="batch"):
    """A network of another origin, 48x24: the mean of each channel, left and right half."""
    halves = []
    nodes = [] if not channels_last else [helper.make_node("Transpose", ["crops"], ["x"], perm=[0, 3, 1, 2])]
    source = "x" if channels_last else "crops"
    for name, start in (("left", 0), ("right", 12)):
        constants = [numpy_helper.from_array(np.array([v], np.int64), f"{name}{v}{i}") for i, v in
                     enumerate((start, start + 12, 3))]  # fmt: skip
        halves += constants
        nodes += [
            helper.make_node("Slice", [source, *(constant.name for constant in constants)], [name]),
            helper.make_node("ReduceMean", [name], [f"mean_{name}"], axes=[2, 3], keepdims=1),
        ]
    nodes.append(helper.make_node("Concat", ["mean_left", "mean_right"], ["out"], axis=1))
    shape = [batch, 48, 24, 3] if channels_last else [batch, 3, 48, 24]
    graph = helper.make_graph(
        nodes,
        "halves",
        [helper.make_tensor_value_info("crops", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 6, 1, 1])],
        halves,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch", ["batch", 1])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_foreign_file_gets_what_the_settings_say(tmp_path, channels_last, batch, order):
    path = write_foreign(tmp_path / "foreign.onnx", channels_last=channels_last, batch=batch)
    distil = DistilConfig(str(path), color_order=order, pixel_scale=1.0, mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0))
    embedder, _ = open_teacher(distil, torch.device("cpu"), 1)
    assert (embedder.height, embedder.width) == (48, 24)
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 24, 3), dtype=np.uint8)
    pixels = images[..., ::-1] if order == "BGR" else images
    values = (pixels - np.array([1.0, 2.0, 3.0])) / np.array([1.0, 2.0, 4.0])
    expected = np.concatenate([values[:, :, :12].mean((1, 2)), values[:, :, 12:].mean((1, 2))], axis=1)
    np.testing.assert_allclose(embedder(images), expected / np.linalg.norm(expected, axis=1)[:, None], atol=1e-5)


def test_network_of_openvino_gives_the_same_as_its_onnx_file(tmp_path):
    openvino = pytest.importorskip("openvino", reason="the optional package openvino")
    path = write_foreign(tmp_path / "foreign.onnx")
    openvino.save_model(openvino.convert_model(path), tmp_path / "foreign.xml", compress_to_fp16=False)
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 24, 3), dtype=np.uint8)
    both = [open_teacher(DistilConfig(str(path.with_suffix(end))), torch.device("cpu"), 1) for end in (".onnx", ".xml")]
    np.testing.assert_allclose(both[0][0](images), both[1][0](images), atol=1e-5)
    assert both[0][1] != both[1][1]
    (tmp_path / "foreign.bin").unlink()
    with pytest.raises(ModelError, match=r"is two files, this and foreign\.bin"):
        open_teacher(DistilConfig(str(tmp_path / "foreign.xml")), torch.device("cpu"), 1)


def test_foreign_file_of_another_size_is_refused(tmp_path):
    path = write_foreign(tmp_path / "foreign.onnx")
    with pytest.raises(ModelError, match=r"pictures of height 48, distil\.height is 64"):
        open_teacher(DistilConfig(str(path), height=64), torch.device("cpu"), 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_student_approaches_the_unchanged_teacher(tmp_path, market, tiny, teacher, precision):
    config = longer(dataclasses.replace(tiny, schedule=dataclasses.replace(tiny.schedule, precision=precision)))
    before, data = load_checkpoint(teacher)["ema"], market1501.read(market)
    ends = {}
    for weight in (1e-9, 100.0):
        history = train(with_teacher(config, teacher, weight, direct_weight=1e-9), data, tmp_path / str(weight))
        ends[weight] = sum(row["relation"] for row in history[-4:])
    assert ends[100.0] < 0.85 * ends[1e-9]
    assert all(torch.equal(value, before[name]) for name, value in load_checkpoint(teacher)["ema"].items())


def same_after_a_kill(monkeypatch, run, folder):
    """Whether `run(folder, resume)`, killed in its second epoch and resumed, ends with the weights of a whole run."""
    run(folder / "whole", False)
    real, calls = training.update_average, 0

    def dies(*arguments):
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(training, "update_average", dies)
    with pytest.raises(KeyboardInterrupt):
        run(folder / "cut", False)
    monkeypatch.setattr(training, "update_average", real)
    run(folder / "cut", True)
    whole, cut = (load_checkpoint(folder / name) for name in ("whole", "cut"))
    weights = [(whole[part][name], cut[part][name]) for part in ("method", "ema", "map") for name in whole[part]]
    return all(torch.equal(one, other) for one, other in weights)


def test_killed_student_resumes_to_the_same_bits(tmp_path, market, tiny, teacher, monkeypatch):
    config, data = with_teacher(tiny, teacher), market1501.read(market)
    assert same_after_a_kill(monkeypatch, lambda out, resume: train(config, data, out, resume=resume), tmp_path)


@pytest.mark.parametrize("keep", ["decoded", "files"])
def test_killed_student_of_crops_and_labels_resumes_to_the_same_bits(
    tmp_path, market, tiny, teacher, monkeypatch, keep
):
    config = with_teacher(tiny, teacher, batch=6)
    if keep == "files":
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, keep=keep, loaders=0))
    data, crops = market1501.read(market), read_unlabelled([market / "bounding_box_test"])

    def run(out, resume):
        train(config, data, out, unlabelled=crops, resume=resume)

    assert same_after_a_kill(monkeypatch, run, tmp_path)


@pytest.fixture(scope="module")
def taught(tmp_path_factory, market, tiny, teacher):
    """A run without a label, whose validation set are people; and its history."""
    folder = tmp_path_factory.mktemp("runs") / "taught"
    config = with_teacher(longer(tiny), teacher, weight=40.0, batch=8)
    config = dataclasses.replace(config, method={"name": "siamese", "id_weight": 0.0})
    crops = read_unlabelled([market / "bounding_box_train"])
    return folder, train(config, None, folder, unlabelled=crops, validation=market1501.read(market))


def test_student_without_labels_approaches_the_teacher(taught):
    _, history = taught
    scored = [row for row in history if "held_out_direct" in row]
    assert scored[-1]["held_out_direct"] < 0.8 * scored[0]["held_out_direct"]
    assert scored[-1]["held_out_relation"] < 0.8 * scored[0]["held_out_relation"]
    assert all(0.0 <= row["held_out_map"] <= 1.0 for row in scored)


def test_run_without_labels_is_exported_with_its_teacher_named(taught, tmp_path, market):
    export(taught[0], market1501.read(market), tmp_path / "taught.onnx")
    metadata = OnnxEmbedder(tmp_path / "taught.onnx").metadata
    assert metadata["trained_on"] == "54 unlabelled crops, taught by teacher, 16 epochs from scratch"


def test_unlabelled_crops_alone_resume_to_the_same_bits(tmp_path, market, tiny, teacher, monkeypatch):
    config = with_teacher(tiny, teacher, batch=16)
    crops = read_unlabelled([market / "bounding_box_train"])

    def run(out, resume):
        train(config, None, out, unlabelled=crops, resume=resume)

    assert same_after_a_kill(monkeypatch, run, tmp_path)


def test_checkpoint_holds_the_student_only(tmp_path, market, tiny, teacher):
    train(tiny, market1501.read(market), tmp_path / "alone")
    train(with_teacher(tiny, teacher), market1501.read(market), tmp_path / "student")
    alone, student = (load_checkpoint(tmp_path / name) for name in ("alone", "student"))
    assert student["ema"].keys() == alone["ema"].keys()
    state = torch.load(tmp_path / "student" / "last.pt", weights_only=True)
    state["config"]["distil"]["teacher"] = str(tmp_path / "gone")
    torch.save(state, tmp_path / "moved.pt")
    load_method(tmp_path / "moved.pt")


def test_command_takes_a_teacher_and_names_a_missing_one(tmp_path, market, tiny, teacher, capsys):
    config = tmp_path / "tiny.toml"
    config.write_text(to_toml(dataclasses.replace(tiny, schedule=dataclasses.replace(tiny.schedule, epochs=1))))
    command = ["train", "--config", str(config), "--data", str(market), "--out"]
    assert main([*command, str(tmp_path / "run"), "--teacher", str(teacher)]) == 0
    assert math.isfinite(load_checkpoint(tmp_path / "run")["history"][0]["relation"])
    assert load_checkpoint(tmp_path / "run")["config"]["distil"]["teacher"] == str(teacher)
    assert main([*command, str(tmp_path / "other"), "--teacher", str(tmp_path / "missing")]) == 2
    assert "missing" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_command_trains_without_labels(tmp_path, market, tiny, teacher, capsys):
    config = tmp_path / "tiny.toml"
    config.write_text(to_toml(dataclasses.replace(tiny, schedule=dataclasses.replace(tiny.schedule, epochs=1))))
    crops = str(market / "bounding_box_train")
    command = ["train", "--config", str(config), "--set", "distil.batch=8", "--out", str(tmp_path / "run")]
    assert main([*command, "--teacher", str(teacher), "--unlabelled", crops, "--unlabelled", crops]) == 0
    assert load_checkpoint(tmp_path / "run")["n_crops"] == 108
    bad = {
        "nothing to train on: give --data, or --teacher with --unlabelled": [],
        "unlabelled crops need a teacher: --teacher, or distil.teacher": ["--unlabelled", crops],
        "no folder nowhere": ["--teacher", str(teacher), "--unlabelled", "nowhere"],
        "lower distil.batch = 500": ["--teacher", str(teacher), "--unlabelled", crops, "--set", "distil.batch=500"],
    }
    for message, words in bad.items():
        assert main([*command[:-1], str(tmp_path / "bad"), *words]) == 2
        assert message in capsys.readouterr().err


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match=r"distil\.every must be >= 1, got 0"):
        from_dict({"distil": {"every": 0}})
    with pytest.raises(ConfigError, match=r"distil\.weight must be >= 0, got -1"):
        from_dict({"distil": {"weight": -1}})
    with pytest.raises(ConfigError, match=r"must not both be 0"):
        from_dict({"distil": {"weight": 0, "direct_weight": 0}})
    for name, message in (("nowhere", "no checkpoint"), ("nowhere.onnx", "no file nowhere.onnx")):
        with pytest.raises(ModelError, match=message):
            open_teacher(DistilConfig(name), torch.device("cpu"), 1)
