"""The comparison of methods, where one experiment is the teacher of another."""

from __future__ import annotations

import pytest

from reid_training.errors import ConfigError
from reid_training.runs import load_checkpoint
from tools.experiments import compare, runs
from tools.experiments.catalogue import Experiment
from tools.experiments.compare import carry_out, comparisons, plan
from tools.experiments.protocols import Drawn

ALONE = {"method": {"name": "siamese"}}
PAIRS = {"method": {"name": "siamese", "id_weight": 0.0}}
ENSEMBLE = {"method": {"name": "dreml", "members": 2, "meta_classes": 4}}
TAUGHT = {**ALONE, "distil": {"teacher": "ensemble"}}


def experiment(name, baseline, method):
    return Experiment(name, name, "a claim", {"baseline": baseline, "method": method})


@pytest.fixture
def known(monkeypatch):
    """The experiments that may be named as teachers."""
    found = {"ensemble": experiment("ensemble", ALONE, ENSEMBLE)}
    monkeypatch.setattr(compare, "read", found.__getitem__)
    return found


@pytest.fixture
def asked_of(tmp_path):
    def of(*chosen, seeds=(0,)):
        root = Drawn().prepare(tmp_path, tmp_path / "drawn")
        return plan(chosen, Drawn(), "test", seeds, root, tmp_path / "out")

    return of


def test_teacher_is_trained_first_once_with_the_same_seed(asked_of, known, monkeypatch):
    folders, train = [], runs.train

    def counted(config, dataset, out, *, resume):
        folders.append(out)
        return train(config, dataset, out, resume=resume)

    monkeypatch.setattr(runs, "train", counted)
    asked = asked_of(experiment("student", ALONE, TAUGHT), known["ensemble"])
    results, failures = carry_out(asked, 1)
    assert failures == []
    student, teacher = asked[1], asked[3]
    assert folders == [asked[0].job.folder, teacher.job.folder, student.job.folder]
    assert load_checkpoint(student.job.folder)["config"]["distil"]["teacher"] == str(teacher.job.folder)
    assert load_checkpoint(teacher.job.folder)["config"]["seed"] == 0
    # R@1 and mAP of both, and R@1 of each member.
    assert [row.name for row in comparisons(asked, results)] == ["student"] * 2 + ["ensemble"] * 4
    assert carry_out(asked, 1) == (results, [])
    assert len(folders) == 3


def test_another_teacher_makes_another_run(asked_of, known):
    student = experiment("student", ALONE, TAUGHT)
    (_, first), (_, other_seed) = asked_of(student), asked_of(student, seeds=(1,))
    known["ensemble"] = experiment("ensemble", ALONE, PAIRS)
    (_, other) = asked_of(student)
    assert len({one.job.folder for one in (first, other_seed, other)}) == 3
    assert first.teacher.job.folder != other_seed.teacher.job.folder


def test_teacher_cannot_have_a_teacher(asked_of, known):
    known["ensemble"] = experiment("ensemble", ALONE, TAUGHT)
    with pytest.raises(ConfigError, match="experiment ensemble, method teaches another experiment"):
        asked_of(experiment("student", ALONE, TAUGHT))
