"""`track-eval tune`: agrees with brute force, never uses the held-out video, writes a file for `--config`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from tests.synthetic.mot import make_scene, write_sequence
from tracker.config import TrackerConfig
from tracker.errors import ConfigError
from tracker.eval import tune
from tracker.eval.cli import main
from tracker.eval.search import ALL_VIDEOS, Scorer, Tuning, changes, flattened
from tracker.eval.sequence_run import SequenceRun
from tracker.eval.tune import SPACE, group_videos
from tracker.runtime.processes import Done

VALUES = (0.2, 0.35, 0.5, 0.8)
DEFAULT = 0.5
STRONG = '"detection.strong_score" = [0.2, 0.35, 0.5, 0.8]\n'
TWO = STRONG + '"lifecycle.confirm_hits" = [1, 3]\n'
BARS = ("HOTA", "MOTA", "IDF1")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three videos without images; one comes with a second detection file."""
    for seed, name in enumerate(["one", "two", "three"]):
        scene = make_scene(seed, n_people=5, n_frames=50, burst_start=0.05, false_positives=1.0)
        write_sequence(scene, tmp_path / "mot" / name, images=False)
    lines = (tmp_path / "mot" / "two" / "det" / "det.txt").read_text().splitlines(keepends=True)
    (tmp_path / "mot" / "two" / "det" / "other.txt").write_text("".join(lines[::2]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*options: str, space: str = STRONG) -> int:
    Path("space.toml").write_text(space, encoding="utf-8-sig")
    return main(["tune", "mot", "--out", "preset.toml", "--space", "space.toml", "--jobs", "1", *options])


def settings(path="preset.toml"):
    return changes(TrackerConfig.load(path), TrackerConfig())


def mean_by_track_eval(folder, *options: str) -> float:
    """The objective, by single runs of the command."""
    assert main(["mot", "--json", "s.json", "--overwrite", "--jobs", "1", *options]) == 0
    rows = [row for row in json.loads((folder / "s.json").read_text()) if row["sequence"] != "combined"]
    return float(np.mean([row[name] for row in rows for name in BARS]))


@pytest.mark.slow
def test_search_of_one_setting_equals_brute_force(folder, capsys):
    scores = {value: mean_by_track_eval(folder, "--set", f"detection.strong_score={value}") for value in VALUES}
    best = max(scores, key=scores.__getitem__)
    assert scores[best] > scores[DEFAULT] + 0.1  # otherwise the case proves nothing
    capsys.readouterr()
    assert run() == 0
    out = capsys.readouterr().out
    assert settings() == {"detection.strong_score": best}
    text = (folder / "preset.toml").read_text()
    assert f"rose from {scores[DEFAULT]:.2f} to {scores[best]:.2f} there" in text
    assert mean_by_track_eval(folder, "--config", "preset.toml") == scores[best]
    assert tomllib.loads(text) == {"detection": {"strong_score": best}}
    assert "track-eval tune mot --out preset.toml" in text
    assert f"found on all: detection.strong_score = {best}" in out
    held_out = [line.split()[0] for line in out.splitlines() if line.startswith(("one", "two", "three", "mean"))]
    assert held_out == ["one", "three", "two", "mean"]


@pytest.mark.slow
def test_report_scores_are_of_settings_found_on_other_videos(folder):
    """A video's tuned scores are those of the settings that brute force finds on the other videos."""
    assert run("--min-gain", "0") == 0
    text = (folder / "preset.toml").read_text()
    by_value = {}
    for value in VALUES:
        mean_by_track_eval(folder, "--set", f"detection.strong_score={value}")
        rows = json.loads((folder / "s.json").read_text())
        by_value[value] = {row["sequence"]: {name: row[name] for name in BARS} for row in rows}
    for video in ("one", "two", "three"):
        others = [name for name in ("one", "two", "three") if name != video]

        def on_others(value, others=others):
            return sum(by_value[value][name][measure] for name in others for measure in BARS)

        best = max((DEFAULT, *VALUES), key=on_others)
        cells = next(line.split()[2:] for line in text.splitlines() if line.startswith(f"#   {video} "))
        pairs = [(by_value[DEFAULT][video][name], by_value[best][video][name]) for name in BARS]
        assert cells == [f"{score:.1f}" for pair in pairs for score in pair]


@pytest.mark.slow
def test_jobs_and_memory_do_not_change_the_preset(folder):
    texts = []
    for options in (["--jobs", "1"], ["--jobs", "2"], ["--jobs", "2", "--memory", "0"]):
        assert run("--seed", "3", "--overwrite", *options, space=TWO) == 0
        texts.append((folder / "preset.toml").read_text().split("\n", 1)[1])
    assert texts.count(texts[0]) == len(texts)


@pytest.mark.slow
def test_each_detection_file_is_a_run_and_videos_are_held_out_whole(folder):
    assert run("--det", "det/det.txt", "--det", "det/other.txt") == 0
    lines = (folder / "preset.toml").read_text().splitlines()
    assert "#   two: two det (motion only), two other (motion only)" in lines
    assert "#   one: one det (motion only)" in lines
    assert run("--same-video", "one=three", "--overwrite") == 0
    lines = (folder / "preset.toml").read_text().splitlines()
    assert "#   one+three: one det (motion only), three det (motion only)" in lines
    assert sum(line.startswith(("#   one", "#   three")) for line in lines) == 3  # runs, scores, settings


@pytest.mark.slow
def test_given_settings_are_the_start_and_stay_in_the_preset(folder):
    assert run("--set", "lifecycle.coast_s=0.4") == 0
    assert settings()["lifecycle.coast_s"] == 0.4


def test_spent_trials_write_best_so_far(folder, capsys):
    assert run("--trials", "1", space=TWO) == 0
    assert "1 trials are spent" in capsys.readouterr().err
    text = (folder / "preset.toml").read_text()
    assert "PARTIAL" in text
    assert settings() == {}


@pytest.mark.slow
@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (ConfigError("gone"), 2)])
def test_stopped_search_writes_best_so_far(folder, capsys, monkeypatch, error, status):
    real, n_runs = tune.run_trial, 0

    def stops(trial, advanced):
        nonlocal n_runs
        n_runs += 1
        if n_runs > 4 * 3:  # the start and three values; then a second setting
            raise error
        return real(trial, advanced)

    assert run() == 0
    expected = settings()
    assert expected
    monkeypatch.setattr(tune, "run_trial", stops)
    seed = next(s for s in range(9) if np.random.default_rng(s).permutation(2)[0] == 0)
    assert run("--seed", str(seed), "--overwrite", space=TWO) == status
    assert "preset.toml is partial" in capsys.readouterr().err
    assert "PARTIAL" in (folder / "preset.toml").read_text()
    assert settings() == expected


def test_search_without_result_writes_nothing(folder, capsys, monkeypatch):
    def stops(trial, advanced):
        raise KeyboardInterrupt

    (folder / "mot" / "two" / "det" / "det.txt").write_text("1,2\n")
    assert run() == 2
    assert "two det: " in capsys.readouterr().err
    monkeypatch.setattr(tune, "run_trial", stops)
    assert run() == 130
    assert not (folder / "preset.toml").exists()


@pytest.mark.parametrize(
    ("tail", "space", "said"),
    [
        (
            ["--objective", "HOTA+LUCK"],
            STRONG,
            "--objective takes HOTA, DetA, AssA, MOTA, IDF1 joined by +, got 'LUCK'",
        ),
        (["--jobs", "0"], STRONG, "--jobs must be >= 1"),
        (["--trials", "0"], STRONG, "--trials must be >= 1, got 0"),
        (["--min-gain", "nan"], STRONG, "--min-gain must be >= 0, got nan"),
        (["--same-video", "one"], STRONG, "--same-video takes A=B"),
        (["--same-video", "one=four"], STRONG, "the sequences are: one, three, two"),
        (["--same-video", "one=two", "--same-video", "two=three"], STRONG, "at least two videos"),
        (["--det", "det/none.txt"], STRONG, "has none of the detection files det/none.txt"),
        (["--video", "four=x.avi"], STRONG, "the sequences are: one, three, two"),
        ([], "", "no setting to search"),
        ([], '"lifecycle.nothing" = [1]', "space.toml: unknown setting lifecycle.nothing"),
        ([], '"lifecycle.coast_s" = [1, "x"]', "space.toml: lifecycle.coast_s must be a number, got 'x'"),
        ([], '"lifecycle.coast_s" = 2', "must be a list of values, got 2"),
        ([], "= 2", "cannot read a search space from space.toml"),
    ],
)
def test_user_error_is_one_line_and_status_2(folder, capsys, tail, space, said):
    assert run(*tail, space=space) == 2
    err = capsys.readouterr().err
    assert err.startswith("track-eval tune: ")
    assert said in err
    assert err.count("\n") == 1
    assert not (folder / "preset.toml").exists()


def test_preset_needs_overwrite_and_folder_named_tune_is_scored(folder, capsys):
    (folder / "preset.toml").write_text("kept")
    assert run() == 2
    assert "preset.toml: exists already" in capsys.readouterr().err
    (folder / "mot").rename(folder / "tune")
    assert main(["./tune", "--jobs", "1"]) == 0


def test_default_space_is_valid_and_contains_defaults():
    defaults = flattened(TrackerConfig())
    for name, values in SPACE.items():
        assert defaults[name] in values, name
        for value in values:
            assert flattened(TrackerConfig().override({name: value}))[name] == value


def test_group_videos_joins_same_videos():
    names = ["MOT16-09", "MOT17-09", "MOT17-02", "MOT20-02", "MOT15-02", "TUD", "PETS"]
    groups = group_videos([Path(name) for name in names], {"TUD": "PETS", "MOT15-02": "TUD"})
    assert groups == {
        "MOT16-09+MOT17-09": ["MOT16-09", "MOT17-09"],
        "MOT17-02+MOT20-02": ["MOT17-02", "MOT20-02"],
        "MOT15-02+TUD+PETS": ["MOT15-02", "TUD", "PETS"],
    }


class FakePool:
    """Scores by a formula instead of tracking; records the sequences and settings that are scored."""

    n_jobs = 1

    def __init__(self, wanted):
        self.wanted = wanted  # sequence -> its best confirm_hits
        self.asked = []

    def outcomes(self, items):
        for index, (_, trial) in enumerate(items):
            name = trial.run.sequence.name
            hits = trial.config.lifecycle.confirm_hits
            self.asked.append((name, hits))
            value = 100 - 10 * abs(hits - self.wanted[name])
            yield index, Done(FakeRow(value))


class FakeRow:
    def __init__(self, value):
        self.value = value

    def values(self):
        return dict.fromkeys(("HOTA", "DetA", "AssA", "MOTA", "IDF1"), self.value)


def fake_tuning(wanted):
    runs = [SequenceRun(Path(name), "det/det.txt", None, None, "cpu", None, True) for name in wanted]
    pool = FakePool(wanted)
    videos = {"a": [0, 1], "b": [2], "c": [3]}
    return pool, Tuning(videos, Scorer(runs, pool, None, print), TrackerConfig(), ["HOTA", "IDF1"], print)


FAKE_SPACE = {"lifecycle.confirm_hits": [1, 2, 3, 4, 5], "lifecycle.coast_s": [1.0, 2.0]}


def test_search_never_scores_held_out_video():
    wanted = {"a1": 5, "a2": 5, "b": 2, "c": 2}
    for video, hidden in {"a": {"a1", "a2"}, "b": {"b"}, "c": {"c"}}.items():
        pool, tuning = fake_tuning(wanted)
        config = tuning.search(video, FAKE_SPACE, 0.1, 0)
        assert {name for name, _ in pool.asked} == wanted.keys() - hidden
        assert config.lifecycle.confirm_hits == (2 if video == "a" else 5)


@pytest.mark.parametrize("seed", range(3))
def test_held_out_video_does_not_change_its_settings(seed):
    found = []
    for best in (1, 5):  # for the held-out video
        _, tuning = fake_tuning({"a1": best, "a2": best, "b": 2, "c": 2})
        tuning.run(FAKE_SPACE, 0.1, seed)
        found.append(tuning.found["a"].config)
        row = next(row for row in tuning.rows if row.held_out == "a")
        assert row.after["HOTA"] == 100 - 10 * abs(best - 2)
        assert row.before["HOTA"] == 100 - 10 * abs(best - 3)
    assert found[0] == found[1]


def test_no_run_is_repeated():
    pool, tuning = fake_tuning({"a1": 5, "a2": 5, "b": 2, "c": 2})
    tuning.run({"lifecycle.confirm_hits": [1, 2, 3, 4, 5]}, 0.1, 0)
    assert len(pool.asked) == len(set(pool.asked)) == 4 * 5
    assert tuning.finished
    assert tuning.found[ALL_VIDEOS].config.lifecycle.confirm_hits in (2, 3, 4, 5)
    assert tuning._scorer.n_trials == 5
