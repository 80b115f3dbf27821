"""`track-eval --ablation`: every row equals the run with `--set`; a failing run does not stop the others."""

from __future__ import annotations

import csv
import json
import shutil
import sys

import cv2
import matplotlib.axes
import numpy as np
import pytest

import tracker.build  # noqa: F401 - an import while `open_detector` is replaced would keep the replacement
from tests.synthetic.mot import make_scene, write_sequence
from tracker.config import TrackerConfig
from tracker.detector.base import DetectorBase
from tracker.detector.public import PublicDetections
from tracker.eval import ablation, ablation_plot, hota, track_and_score
from tracker.eval.cli import main
from tracker.eval.mot_files import read_ground_truth, read_results
from tracker.eval.preprocess import prepare
from tracker.eval.replicas import Replica
from tracker.types import Detections

N_FRAMES = 25
SCORES = ("HOTA", "DetA", "AssA", "MOTA", "IDF1", "IDs", "Frag", "FP", "FN")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Two short sequences with images."""
    root = tmp_path_factory.mktemp("scenes")
    for seed, name in enumerate(["one", "two"]):
        scene = make_scene(seed, n_people=4, n_frames=N_FRAMES, width=320, height=240, burst_start=0.1)
        write_sequence(scene, root / "mot" / name)
    return root / "mot"


@pytest.fixture
def folder(scenes, tmp_path, monkeypatch):
    shutil.copytree(scenes, tmp_path / "mot")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def few_rows(monkeypatch):
    """The study with four rows only."""
    kept = {name: ablation.USES[name] for name in ("off", "A", "C", "all")}
    monkeypatch.setattr(ablation, "USES", kept)
    return kept


def study_of(folder) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "study" / "ablation.csv").open(newline="") as file:
        return {(row["sequence"], row["uses"]): row for row in csv.DictReader(file)}


def settings_of(name: str) -> list[str]:
    return [text for setting, value in ablation.USES[name].items() for text in ("--set", f"{setting}={value}")]


def test_uses_rows_are_the_papers_study_on_two_baselines():
    """The power set of A, B and C; and on Kalman filter and IoU alone: none, each, and all."""
    uses = ("association.veto", "association.reassociate", "proposals.verify")
    on = {name: frozenset(use for use in uses if row[use] not in (False, "off")) for name, row in ablation.USES.items()}
    a, b, c = (frozenset([use]) for use in uses)
    named = {"off": a - a, "A": a, "B": b, "C": c, "A+B": a | b, "A+C": a | c, "B+C": b | c, "all": a | b | c}
    assert {name: on[name] for name in named} == named
    for name, settings in ablation.USES.items():
        assert TrackerConfig().override(settings), name
    alone = {"SORT": a - a, "SORT + A": a, "SORT + B": b, "SORT + C": c, "SORT + all": a | b | c}
    assert {name: on[name] for name in on if name.startswith("SORT")} == alone
    rest = {tuple(item for item in ablation.USES[name].items() if item[0] not in uses) for name in alone}
    assert len(rest) == 1  # the rows on SORT differ in the uses alone


def test_rules_rows_each_change_one_section_of_the_settings():
    assert ablation.RULES["all"] == {}
    sets = [tuple(sorted(settings.items())) for settings in ablation.RULES.values()]
    assert len(set(sets)) == len(sets)
    for name, settings in ablation.RULES.items():
        changed = TrackerConfig().override(settings)
        assert (changed == TrackerConfig()) == (name == "all"), name
        assert len({setting.split(".")[0] for setting in settings}) <= 1, name


@pytest.mark.slow
def test_row_equals_run_with_its_settings(folder, capsys, few_rows):
    assert main(["mot", "--ablation", "study", "--jobs", "1", "--set", "lifecycle.confirm_hits=2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "uses of the metric: A " in printed[0]
    assert printed[1].split()[-3:] == ["proposed", "crops/frame", "fps"]
    assert len(printed) == 2 + 3 * len(few_rows)
    study = study_of(folder)
    assert list(study) == [(where, uses) for where in ("one", "two", "combined") for uses in few_rows]
    for uses in ("off", "C"):
        command = ["mot", "--jobs", "1", "--json", "s.json", "--overwrite", "--set", "lifecycle.confirm_hits=2"]
        assert main([*command, *settings_of(uses)]) == 0
        for row in json.loads((folder / "s.json").read_text()):
            found = study[row["sequence"], uses]
            assert {name: float(found[name]) for name in SCORES} == {name: row[name] for name in SCORES}
        for name in ("one", "two"):
            lines = (folder / "results" / f"{name}.txt").read_bytes()
            assert (folder / "study" / uses.replace(" ", "") / f"{name}.txt").read_bytes() == lines
    markdown = (folder / "study" / "ablation.md").read_text().splitlines()
    assert len(markdown) == 2 + 3 * len(few_rows) + 2
    assert markdown[-1] == printed[0]


def test_replicas_are_compared_with_their_baseline(folder, capsys, monkeypatch):
    """Rows of motion alone differ in when a track is confirmed; the pairs are scored again from the result files."""
    settings = {"off": 6, "A": 2, "all": 1}
    monkeypatch.setattr(ablation, "USES", {name: {"lifecycle.confirm_hits": n} for name, n in settings.items()})
    for name in ("one", "two"):
        shutil.rmtree(folder / "mot" / name / "img1")
    command = ["mot", "--ablation", "study", "--replicas", "2", "--reid", "none", "--jobs", "1"]
    assert main(command) == 0
    study = study_of(folder)
    assert list(study) == [(where, uses) for where in ("one", "two", "combined") for uses in settings]
    truth = {name: read_ground_truth(folder / "mot" / name / "gt" / "gt.txt") for name in ("one", "two")}

    def hotas(uses):
        """(2 replicas, one, two and combined)"""
        found = []
        for replica in map(Replica.of, range(2)):
            at = folder / "study" / uses.replace(" ", "") / str(replica.seed)
            pairs = [prepare(replica.truth(of), read_results(at / f"{name}.txt")) for name, of in truth.items()]
            each = [hota.evaluate(*pair) for pair in pairs]
            found.append([100 * one.hota for one in (*each, hota.combine(each))])
        return np.array(found)

    for uses in settings:
        step = hotas(uses) - hotas("off")
        for at, where in enumerate(("one", "two", "combined")):
            row = study[where, uses]
            assert float(row["HOTA"]) == pytest.approx(hotas(uses)[:, at].mean())
            assert float(row["HOTA_diff"]) == pytest.approx(step[:, at].mean(), abs=1e-9)
            assert float(row["HOTA_diff_se"]) == pytest.approx(step[:, at].std(ddof=1) / np.sqrt(2), abs=1e-9)
    note = (folder / "study" / "ablation.md").read_text().splitlines()[-1]
    assert 'paired difference to "off"' in note
    assert capsys.readouterr().out.startswith(note)


@pytest.mark.slow
def test_crops_and_proposals_are_counted(folder, few_rows):
    """Without a use nothing is embedded; A embeds every strong detection after suppression."""
    settings = ["--set", "detection.nms_iou=1", "--set", "appearance.refresh_s=0"]
    assert main(["mot/one", "--ablation", "study", "--jobs", "1", *settings]) == 0
    study = {uses: row for (_, uses), row in study_of(folder).items()}
    assert float(study["off"]["crops/frame"]) == 0
    detections = PublicDetections(folder / "mot" / "one" / "det" / "det.txt")
    strong = sum((detections.at(index).scores >= 0.5).sum() for index in range(N_FRAMES))
    assert float(study["A"]["crops/frame"]) == pytest.approx(strong / N_FRAMES)
    assert float(study["C"]["crops/frame"]) > float(study["A"]["crops/frame"])
    assert int(study["A"]["proposed"]) == 0


@pytest.mark.slow
def test_jobs_do_not_change_scores(folder, few_rows):
    del few_rows["off"], few_rows["all"]
    tables = []
    for n_jobs in ("1", "2"):
        assert main(["mot", "--ablation", "study", "--reid", "none", "--overwrite", "--jobs", n_jobs]) == 0
        tables.append({key: {k: v for k, v in row.items() if k != "fps"} for key, row in study_of(folder).items()})
    assert tables[0] == tables[1]


def test_detector_runs_once_for_all_rows(folder, capsys, few_rows, monkeypatch):
    detected = []

    class Detector(DetectorBase):
        name = "counted"

        def detect(self, frame):
            detected.append(frame.index)
            return PublicDetections(folder / "mot" / "one" / "det" / "det.txt").at(frame.index)

    monkeypatch.setattr("tracker.detector.open.open_detector", lambda **_: Detector())
    command = ["mot/one", "--reid", "none", "--jobs", "1"]
    assert main([*command, "--ablation", "study", "--detector", "some.onnx"]) == 0
    assert detected == list(range(N_FRAMES))
    assert "frames per second are without the detector" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert main([*command, "--json", "s.json"]) == 0  # the same boxes from the file
    assert float(study_of(folder)["one", "all"]["HOTA"]) == json.loads((folder / "s.json").read_text())[0]["HOTA"]


@pytest.mark.slow
def test_detector_still_runs_on_windows(folder, few_rows, monkeypatch):
    """Detections of whole frames are cached, those of windows are not: rows equal the runs with `--set`."""
    windows = []

    class Detector(DetectorBase):
        """Finds nothing in every sixth frame, and a person in the middle of every window."""

        name = "two passes"

        def detect(self, frame):
            if frame.image.shape[0] != frame.image.shape[1]:
                found = PublicDetections(folder / "mot" / "one" / "det" / "det.txt").at(frame.index)
                return found.take(np.arange(len(found) if frame.index % 6 != 5 else 0))
            windows.append(frame.index)
            middle = np.array([[104.0, 208], [312, 208], [52, 104], [156, 104], [260, 104], [364, 104]])
            boxes = np.tile(middle, 2) + np.array([-32, -65, 32, 65])
            return Detections(boxes, np.full(len(boxes), 0.8), np.zeros(len(boxes), np.int64))

        @property
        def second_look(self):
            return self

    for module in ("tracker.detector.open", "tracker.build"):
        monkeypatch.setattr(f"{module}.open_detector", lambda **_: Detector())
    command = ["mot/one", "--detector", "some.onnx", "--jobs", "1"]
    assert main([*command, "--ablation", "study"]) == 0
    of_study = sorted(windows)
    assert int(study_of(folder)["one", "C"]["proposed"]) > 0
    assert int(study_of(folder)["one", "off"]["proposed"]) == 0
    windows.clear()
    for uses in few_rows:
        assert main([*command, *settings_of(uses), "--overwrite"]) == 0
        assert (folder / "study" / uses.replace(" ", "") / "one.txt").read_bytes() == (
            folder / "results" / "one.txt"
        ).read_bytes()
    assert sorted(windows) == of_study


@pytest.mark.slow
def test_failing_run_does_not_stop_others(folder, capsys, few_rows, monkeypatch):
    real = track_and_score.evaluate_sequence

    def fails(work, advanced):
        if work.results.parent.name == "C" and work.sequence.name == "two":
            raise ValueError("unexpected")
        return real(work, advanced)

    monkeypatch.setattr(track_and_score, "evaluate_sequence", fails)
    assert main(["mot", "--ablation", "study", "--reid", "none", "--jobs", "1"]) == 1
    assert "track-eval: two, C: ValueError: unexpected" in capsys.readouterr().err
    study = study_of(folder)
    assert ("two", "C") not in study
    assert ("combined (1 of 2)", "C") in study
    assert len(study) == 3 * len(few_rows) - 1


def test_ctrl_c_keeps_finished_rows(folder, capsys, few_rows, monkeypatch):
    real = track_and_score.evaluate_sequence

    def stops(work, advanced):
        if work.results.parent.name == "C":
            raise KeyboardInterrupt
        return real(work, advanced)

    monkeypatch.setattr(track_and_score, "evaluate_sequence", stops)
    assert main(["mot/one", "--ablation", "study", "--reid", "none", "--jobs", "1"]) == 130
    assert [uses for _, uses in study_of(folder)] == ["off", "A"]
    assert (folder / "study" / "ablation.png").is_file()
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        (["--out", "o"], "does not go with --out"),
        (["--results", "mot"], "does not go with --results"),
        (["--csv", "x.csv"], "does not go with --csv"),
        (["--detector", "absent.onnx"], "absent.onnx: no such model file"),
        (["--set", "nothing.here=1"], "unknown setting"),
    ],
)
def test_user_error_is_one_line_and_status_2(folder, capsys, few_rows, tail, said):
    assert main(["mot", "--ablation", "study", "--jobs", "1", *tail]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_study_needs_overwrite_and_ground_truth(folder, capsys, few_rows):
    command = ["mot/one", "--ablation", "study", "--reid", "none", "--jobs", "1"]
    assert main(command) == 0
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*command[:1], "--rules"]) == 2
    assert "--rules goes with --ablation DIR" in capsys.readouterr().err
    shutil.rmtree(folder / "mot" / "one" / "gt")
    assert main([*command, "--overwrite"]) == 2
    assert "a study needs ground truth" in capsys.readouterr().err


# The picture


def test_plot_bars_are_as_long_as_their_numbers(monkeypatch):
    drawn = []
    real = matplotlib.axes.Axes.barh
    monkeypatch.setattr(matplotlib.axes.Axes, "barh", lambda *a, **k: drawn.append(real(*a, **k)) or drawn[-1])
    scores = {"off": (40.0, 50.0, 60.0), "A": (20.0, 50.0, 80.0), "B": (10.0, -5.0, 30.0)}
    panel = {name: dict(zip(ablation_plot.COLOURS, of, strict=True)) for name, of in scores.items()}
    ablation_plot.plot({"one": panel}, [*scores, "absent"], "off", "note")
    lengths = np.array([[bar.get_width() for bar in bars] for bars in drawn])  # a negative score has no bar
    np.testing.assert_array_equal(lengths, np.array([*scores.values(), (0, 0, 0)]).clip(0).T)


def test_plot_of_missing_results_is_a_png():
    panels = {f"sequence {i}": {"off": dict.fromkeys(ablation_plot.COLOURS, 10.0 * i)} for i in range(5)}
    panels["nothing"] = {"A": {"HOTA": None}}
    data = ablation_plot.plot(panels, ["off", "A"], "off", "note")
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).min() < 255


def test_missing_matplotlib_is_one_line_before_tracking(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["mot/one", "--ablation", "study", "--reid", "none", "--jobs", "1"]) == 2
    err = capsys.readouterr().err
    assert "matplotlib, which is not installed" in err
    assert err.count("\n") == 1
