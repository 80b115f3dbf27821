"""The relation loss against a slow loop and finite differences; a run with a teacher beside one without."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from reid_training import train as training
from reid_training.cli import main
from reid_training.config import DistilConfig, from_dict
from reid_training.data import market1501
from reid_training.distil import Teacher, relation_loss
from reid_training.errors import ConfigError, ModelError
from reid_training.methods.base import Loss
from reid_training.runs import load_checkpoint, load_method
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


def with_teacher(config, teacher, weight=20.0):
    return dataclasses.replace(config, distil=DistilConfig(str(teacher), weight))


def test_teacher_gives_the_embeddings_of_its_exported_network(teacher):
    method, config, _ = load_method(teacher)
    images = torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    enlarged = F.interpolate(images, (config.data.height, config.data.width), mode="bilinear", align_corners=False)
    with torch.no_grad():
        torch.testing.assert_close(
            Teacher(DistilConfig(str(teacher)), torch.device("cpu")).embed(images), method.embed(enlarged)
        )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_student_approaches_the_unchanged_teacher(tmp_path, market, tiny, teacher, precision):
    config = longer(dataclasses.replace(tiny, schedule=dataclasses.replace(tiny.schedule, precision=precision)))
    before = load_checkpoint(teacher)["ema"]
    ends = {}
    for weight in (1e-9, 100.0):
        history = train(with_teacher(config, teacher, weight), market1501.read(market), tmp_path / str(weight))
        ends[weight] = sum(row["relation"] for row in history[-4:])
    assert ends[100.0] < 0.85 * ends[1e-9]
    assert all(torch.equal(value, before[name]) for name, value in load_checkpoint(teacher)["ema"].items())


def test_checkpoint_holds_the_student_only(tmp_path, market, tiny, teacher):
    train(tiny, market1501.read(market), tmp_path / "alone")
    train(with_teacher(tiny, teacher), market1501.read(market), tmp_path / "student")
    alone, student = (load_checkpoint(tmp_path / name) for name in ("alone", "student"))
    assert student["ema"].keys() == alone["ema"].keys()
    state = torch.load(tmp_path / "student" / "last.pt", weights_only=True)
    state["config"]["distil"]["teacher"] = str(tmp_path / "gone")
    torch.save(state, tmp_path / "moved.pt")
    load_method(tmp_path / "moved.pt")


def test_killed_student_resumes_to_the_same_bits(tmp_path, market, tiny, teacher, monkeypatch):
    config, data = with_teacher(tiny, teacher), market1501.read(market)
    train(config, data, tmp_path / "whole")

    real, calls = training.update_average, 0

    def dies(*arguments):
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(training, "update_average", dies)
    with pytest.raises(KeyboardInterrupt):
        train(config, data, tmp_path / "cut")
    monkeypatch.setattr(training, "update_average", real)
    train(config, data, tmp_path / "cut", resume=True)
    whole, cut = (load_checkpoint(tmp_path / name)["ema"] for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


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


def test_teacher_may_be_used_for_some_images_only(teacher):
    images = torch.randn(6, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    student = unit(6, 4, 0).float()
    loss = Loss(torch.zeros(()), {}, student)
    asked = Teacher(DistilConfig(str(teacher), weight=2.0, every=3), torch.device("cpu"))
    expected = slow_relation_loss(student[[0, 3]], asked.embed(images[[0, 3]]))
    added = asked.add_to(loss, images)
    assert added.parts["relation"] == pytest.approx(expected, abs=1e-6)
    assert float(added.total) == pytest.approx(2.0 * expected, abs=1e-6)


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match=r"distil\.every must be >= 1, got 0"):
        from_dict({"distil": {"every": 0}})
    with pytest.raises(ConfigError, match=r"distil\.weight must be > 0, got 0"):
        from_dict({"distil": {"weight": 0}})
    with pytest.raises(ModelError, match="no checkpoint"):
        Teacher(DistilConfig("nowhere"), torch.device("cpu"))
