"""Our table against TrackEval, the program that MOTChallenge scores with: equal to 1e-6, on real data."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tracker.eval.cli import main

trackeval = pytest.importorskip("trackeval", reason="TrackEval is not installed: pip install trackeval")

COUNTS = {"IDs": "IDSW", "Frag": "Frag", "MT": "MT", "ML": "ML", "FP": "CLR_FP", "FN": "CLR_FN"}


def theirs(benchmark: str, folder: Path, results: Path, names: list[str]) -> dict[str, dict[str, float]]:
    """The table as TrackEval has it: sequence -> column -> value, with "combined"."""
    quiet = {"PRINT_CONFIG": False}
    dataset = trackeval.datasets.MotChallenge2DBox(
        {
            "BENCHMARK": benchmark, "GT_FOLDER": str(folder), "SKIP_SPLIT_FOL": True, "SEQ_INFO": dict.fromkeys(names),
            "TRACKERS_FOLDER": str(results.parent), "TRACKERS_TO_EVAL": [results.name], "TRACKER_SUB_FOLDER": "",
        } | quiet,
    )  # fmt: skip
    metrics = [trackeval.metrics.HOTA(), trackeval.metrics.CLEAR(quiet), trackeval.metrics.Identity(quiet)]
    found = {}
    for name in names:
        raw = dataset.get_raw_seq_data(results.name, name)
        data = dataset.get_preprocessed_seq_data(raw, "pedestrian")
        found[name] = [metric.eval_sequence(data) for metric in metrics]
    found["combined"] = [
        metric.combine_sequences({name: found[name][i] for name in names}) for i, metric in enumerate(metrics)
    ]
    return {name: columns(*values) for name, values in found.items()}


def columns(hota, clear, identity) -> dict[str, float]:
    table = {name: 100 * float(np.mean(hota[name])) for name in ("HOTA", "DetA", "AssA")}
    table |= {"MOTA": 100 * clear["MOTA"], "IDF1": 100 * identity["IDF1"]}
    return table | {ours: clear[name] for ours, name in COUNTS.items()}


def assert_equal(benchmark: str, folder: Path, results: Path, table: Path) -> None:
    rows = {row.pop("sequence"): row for row in json.loads(table.read_text())}
    names = sorted(path.name for path in folder.iterdir())
    expected = theirs(benchmark, folder, results, names)
    assert set(rows) == {*names, *(["combined"] if len(names) > 1 else [])}
    for name, row in rows.items():
        row.pop("fps")
        row.pop("verify")
        # Rates are in per cent here, so this is 1e-8 of a rate.
        assert row == pytest.approx(expected[name], abs=1e-6), name


def link(sequence: Path, target: Path) -> None:
    """The sequence without its images: motion-only tracking needs none, and reading them takes time."""
    target.mkdir(parents=True)
    for name in ("seqinfo.ini", "gt", "det"):
        (target / name).symlink_to(sequence / name)


def spoil(truth: Path, out: Path, rng: np.random.Generator) -> None:
    """Results made of all ground truth, ignored boxes too: moved, lost for a while, swapped, doubled."""
    rows = np.loadtxt(truth, delimiter=",", usecols=range(6))
    frames, ids = rows[:, 0], rows[:, 1]
    kept = np.ones(len(rows), bool)
    for identity in np.unique(ids):
        start = rng.integers(1, frames.max() + 1, 4)
        for a, length in zip(start, rng.integers(1, 40, 4), strict=True):
            kept &= ~((ids == identity) & (frames >= a) & (frames < a + length))
    for a in rng.integers(1, frames.max() + 1, 6):  # from here on two identities are exchanged
        one, two = rng.choice(np.unique(ids), 2)
        later = frames >= a
        ids[later] = np.select([ids[later] == one, ids[later] == two], [two, one], ids[later])
    blind = np.isin(frames, rng.integers(1, frames.max() + 1, 10))
    rows = rows[kept & ~blind]
    # Whole pixels and halves: overlaps of exactly 0.5 and ties between pairs do occur.
    rows[:, 2:4] += np.round(rng.normal(0, 0.12, (len(rows), 2)) * rows[:, 4:6])
    doubled = rows[rng.random(len(rows)) < 0.1] + [0, 1000, 3, 3, 0, 0]
    halves = rows[rng.random(len(rows)) < 0.1] * [1, 1, 1, 1, 1, 0.5] + [0, 2000, 0, 0, 0, 0]
    everything = np.concatenate([rows, doubled, halves])
    np.savetxt(out, np.c_[everything, np.ones(len(everything))], delimiter=",", fmt="%g")


@pytest.fixture
def sets(data_root, tmp_path):
    """Benchmark -> a folder of its sequences, without pictures."""
    for year, name in (("15", "TUD-Campus"), ("15", "PETS09-S2L1"), ("16", "MOT16-09")):
        source = data_root / f"mot{year}" / "train" / name
        if not source.is_dir():
            pytest.skip(f"no {source}")
        link(source, tmp_path / f"MOT{year}" / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("benchmark", ["MOT15", "MOT16"])
def test_tracker_scores_equal_trackeval(sets, benchmark):
    folder, out, table = sets / benchmark, sets / "out", sets / "scores.json"
    assert main([str(folder), "--out", str(out), "--reid", "none", "--jobs", "1", "--json", str(table)]) == 0
    assert_equal(benchmark, folder, out, table)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("benchmark", ["MOT15", "MOT16"])
def test_perturbed_ground_truth_scores_equal_trackeval(sets, benchmark, seed):
    folder, results, table = sets / benchmark, sets / "spoilt", sets / "scores.json"
    results.mkdir()
    for sequence in folder.iterdir():
        spoil(sequence / "gt" / "gt.txt", results / f"{sequence.name}.txt", np.random.default_rng(seed))
    assert main([str(folder), "--results", str(results), "--jobs", "1", "--json", str(table)]) == 0
    assert_equal(benchmark, folder, results, table)


@pytest.mark.data
@pytest.mark.slow
def test_mot17_scores_equal_trackeval(data_root, tmp_path):
    """Four sequences with distractors, one from a moving camera; Faster R-CNN detections."""
    archive = data_root / "mot17_train_text.tar.xz"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    folder, out, table = tmp_path / "mot17" / "train", tmp_path / "out", tmp_path / "scores.json"
    command = [str(folder), "--out", str(out), "--det", "det/FRCNN.txt", "--reid", "none", "--jobs", "1"]
    assert main([*command, "--json", str(table)]) == 0
    assert_equal("MOT17", folder, out, table)
