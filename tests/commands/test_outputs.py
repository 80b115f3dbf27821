"""The files that `track` writes; every snippet of docs/outputs.md runs on them and reads what they hold.

The oracle is `tracks.txt`, read line by line; that it holds what `track_video` gives is tested beside the command.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.synthetic.mot import make_scene, write_sequence
from tracker.commands.track import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
ENDINGS = ("txt", "csv", "jsonl", "json")


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """A folder with video.mp4 and the sequence SYN-01, the same frames."""
    folder = tmp_path_factory.mktemp("outputs")
    write_sequence(make_scene(1, n_people=5, n_frames=30, width=320, height=240), folder / "SYN-01")
    write_sequence(make_scene(1, n_people=5, n_frames=30, width=320, height=240), folder / "SYN-02",
                   images=False, video=folder / "video.mp4")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def results(scene, tmp_path_factory) -> Path:
    """A folder with every result of one run, made as the page says."""
    folder = tmp_path_factory.mktemp("results")
    words = [scene / "video.mp4", "--detections", scene / "SYN-02" / "det" / "det.txt", "--device", "cpu", "--quiet"]
    for ending in ENDINGS:
        words += ["--out", folder / f"tracks.{ending}"]
    words += ["--crops", folder / "crops", "--save-embeddings", folder / "embeddings.npy"]
    words += ["--video", folder / "video.mp4"]
    assert main([str(word) for word in words]) == 0
    return folder


@pytest.fixture(scope="module")
def truth(results) -> np.ndarray:
    """frame, id, x1, y1, x2, y2, score, from the MOT file; pixels from 0."""
    rows = []
    for line in (results / "tracks.txt").read_text().splitlines():
        frame, identity, left, top, width, height, score = map(float, line.split(",")[:7])
        rows.append([frame, identity, left - 1, top - 1, left - 1 + width, top - 1 + height, score])
    assert len(rows) > 60
    return np.array(rows)


def snippet(words: str) -> str:
    """The snippet of the page that contains these words."""
    (found,) = [text for text in SNIPPETS if words in text]
    return found


@pytest.fixture
def read(results, tmp_path, monkeypatch):
    """Run a snippet of the page in the folder of the results; returns its variables by name."""

    def run(words: str) -> dict:
        monkeypatch.chdir(results)
        names: dict = {}
        exec(compile(snippet(words), "docs/outputs.md", "exec"), names)
        return names

    return run


# ------------------------------------------------------------------------------------------------ readers


def test_numpy_reads_mot_text(read, truth):
    found = read("np.loadtxt")
    np.testing.assert_array_equal(found["frames"], truth[:, 0])
    np.testing.assert_array_equal(found["ids"], truth[:, 1])
    np.testing.assert_allclose(found["boxes"], truth[:, 2:6])
    np.testing.assert_array_equal(found["scores"], truth[:, 6])


def test_pandas_reads_the_table(read, truth):
    found = read("stay_s")
    table = found["table"]
    np.testing.assert_array_equal(table[["frame", "id"]], truth[:, :2])
    np.testing.assert_allclose(table[["x1", "y1", "x2", "y2"]], truth[:, 2:6], atol=0.0151)
    np.testing.assert_allclose(table.score, truth[:, 6])
    fps = 25  # of the scene
    np.testing.assert_allclose(table.time_s, (truth[:, 0] - 1) / fps, atol=1e-6)
    assert table.isna().sum().sum() == 0
    for identity, stay_s in found["stay_s"].items():
        frames = truth[truth[:, 1] == identity, 0]
        assert stay_s == pytest.approx((frames.max() - frames.min()) / fps, abs=1e-5)
    assert found["people"].to_dict() == {frame: (truth[:, 0] == frame).sum() for frame in set(truth[:, 0])}


def test_supervision_reads_the_table(read, truth):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed: pip install supervision")
    frames = read("as_detections")["frames"]
    assert set(frames) == set(truth[:, 0])
    for frame, seen in frames.items():
        assert isinstance(seen, supervision.Detections)
        rows = truth[truth[:, 0] == frame]
        np.testing.assert_array_equal(seen.tracker_id, rows[:, 1])
        np.testing.assert_allclose(seen.xyxy, rows[:, 2:6], atol=0.0151)
    # What it is for: supervision works with them.
    zone = supervision.PolygonZone(polygon=np.array([[0, 0], [320, 0], [320, 240], [0, 240]]))
    picture = np.zeros((240, 320, 3), np.uint8)
    drawn = supervision.BoxAnnotator().annotate(picture.copy(), seen)
    assert drawn.any()
    assert zone.trigger(seen).any()


def test_json_lines_have_every_frame(read, truth):
    pandas = pytest.importorskip("pandas")
    found = read("crowd")
    assert [frame["frame"] for frame in found["frames"]] == list(range(1, 31))
    assert list(found["crowd"].values()) == [int((truth[:, 0] == frame).sum()) for frame in range(1, 31)]
    (said,) = re.findall(r"`(pd\.json_normalize\(.*?\))`", PAGE)
    table = eval(said, {"pd": pandas, **found})
    np.testing.assert_array_equal(table[["frame", "id"]].to_numpy(int), truth[:, :2])


def test_pycocotools_reads_the_coco_file(read, truth):
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    found = read("pycocotools")
    coco = found["coco"]
    assert sorted(coco.getImgIds()) == list(range(1, 31))
    for image_id in coco.getImgIds():
        rows = truth[truth[:, 0] == image_id]
        found_here = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        assert [row["track_id"] for row in found_here] == rows[:, 1].tolist()
        for row, known in zip(found_here, rows, strict=True):
            np.testing.assert_allclose(row["bbox"], [*known[2:4], *(known[4:6] - known[2:4])], atol=0.0151)
    assert len(found["path"]) == (truth[:, 1] == found["person"]).sum()
    assert [row["name"] for row in coco.loadCats(coco.getCatIds())] == ["person"]


def test_trackeval_reads_the_coco_file_as_tao(read, results, tmp_path):
    """As ground truth and as a tracker's result: the two agree in everything."""
    trackeval = pytest.importorskip("trackeval", reason="TrackEval is not installed: pip install trackeval")
    read("results.json")
    for name, source in (("gt", "tracks.json"), ("trackers/ours/data", "results.json")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / source).write_text((results / source).read_text())
    dataset = trackeval.datasets.TAO(
        {"GT_FOLDER": str(tmp_path / "gt"), "TRACKERS_FOLDER": str(tmp_path / "trackers"), "PRINT_CONFIG": False}
    )
    data = dataset.get_preprocessed_seq_data(dataset.get_raw_seq_data("ours", "video.mp4"), "person")
    assert data["num_gt_dets"] == len((results / "tracks.txt").read_text().splitlines())
    assert np.mean(trackeval.metrics.HOTA().eval_sequence(data)["HOTA"]) == pytest.approx(1)


def test_trackeval_reads_mot_text(results, scene, tmp_path):
    """All of the result: it is scored against the ground truth of the scene."""
    trackeval = pytest.importorskip("trackeval", reason="TrackEval is not installed: pip install trackeval")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "SYN-01.txt").write_text((results / "tracks.txt").read_text())
    dataset = trackeval.datasets.MotChallenge2DBox(
        {
            "BENCHMARK": "MOT16", "GT_FOLDER": str(scene), "SKIP_SPLIT_FOL": True, "SEQ_INFO": {"SYN-01": None},
            "TRACKERS_FOLDER": str(tmp_path), "TRACKERS_TO_EVAL": ["ours"], "TRACKER_SUB_FOLDER": "",
            "PRINT_CONFIG": False,
        }
    )  # fmt: skip
    data = dataset.get_preprocessed_seq_data(dataset.get_raw_seq_data("ours", "SYN-01"), "pedestrian")
    assert data["num_tracker_dets"] > 60
    assert trackeval.metrics.CLEAR({"PRINT_CONFIG": False}).eval_sequence(data)["MOTA"] > 0.5


def read_mot_1_1(path: Path) -> dict[int, list[tuple]]:
    """CVAT's "MOT 1.1" as its documentation describes the zip, strictly: frame -> (track, box, label, occluded).

    gt/gt.txt: frame_id (from 1), track_id, x, y, w, h (pixels from 0), "not ignored", class_id (from 1, a line of
    gt/labels.txt), visibility. CVAT refuses a box without a label.
    """
    with zipfile.ZipFile(path) as archive:
        labels = archive.read("gt/labels.txt").decode().split("\n")
        lines = archive.read("gt/gt.txt").decode().splitlines()
    frames: dict[int, list[tuple]] = {}
    for line in lines:
        frame, track, x, y, w, h, not_ignored, label, visibility = line.split(",")
        assert int(frame) >= 1
        assert int(track) >= 1
        assert not_ignored == "1"
        box = [float(value) for value in (x, y, w, h)]
        row = (int(track), box, labels[int(label) - 1], float(visibility) <= 0)
        frames.setdefault(int(frame), []).append(row)
    return frames


def test_cvat_reads_the_zip_of_the_page(read, results, truth):
    names = read("cvat.zip")
    frames = read_mot_1_1(results / "cvat.zip")
    found = [(frame, track, *box) for frame, rows in frames.items() for track, box, _, _ in rows]
    expected = np.hstack([truth[:, :4], truth[:, 4:6] - truth[:, 2:4]])
    np.testing.assert_allclose(found, expected, atol=0.0151)
    assert {label for rows in frames.values() for _, _, label, _ in rows} == {"person"}
    hidden = [occluded for rows in frames.values() for *_, occluded in rows]
    assert hidden == (names["table"].source == "occluded").tolist()


def test_cvat_reads_the_coco_file(results, truth):
    """CVAT makes tracks of COCO boxes with these attributes; frames of a video it finds by `frame_%06d`, from 0."""
    table = json.loads((results / "tracks.json").read_text())
    frame_of = {}
    for image in table["images"]:
        stem = Path(image["file_name"]).stem
        assert stem.startswith("frame_")
        frame_of[image["id"]] = int(stem.removeprefix("frame_"))
    labels = {row["id"]: row["name"] for row in table["categories"]}
    tracks: dict[int, list[int]] = {}
    for row in table["annotations"]:
        assert row["segmentation"] == []
        assert row["iscrowd"] == 0
        assert labels[row["category_id"]] == "person"
        assert row["attributes"]["keyframe"] is True
        tracks.setdefault(row["attributes"]["track_id"], []).append(frame_of[row["image_id"]])
    for track, frames in tracks.items():
        assert frames == (truth[truth[:, 1] == track, 0] - 1).tolist()


def test_numpy_reads_the_embeddings(read, truth):
    found = read("mmap_mode")
    rows = found["rows"]
    np.testing.assert_array_equal(rows["frame"], truth[:, 0])
    np.testing.assert_array_equal(rows["id"], truth[:, 1])
    np.testing.assert_allclose(np.linalg.norm(found["seen"]["embedding"], axis=1), 1, atol=1e-5)
    assert len(found["seen"]) > 0.8 * len(rows)
    assert found["sim"].shape == (len(set(truth[:, 1])),) * 2


def test_crops_have_their_table(read, results, truth):
    found = read("people.csv")
    assert set(found["best"].index) == set(truth[:, 1])
    for row in found["crops"].itertuples():
        assert (results / "crops" / row.image).is_file()
        (known,) = truth[(truth[:, 0] == row.frame) & (truth[:, 1] == row.id)]
        np.testing.assert_allclose([row.x1, row.y1, row.x2, row.y2], known[2:6], atol=0.0151)
    assert found["crops"].groupby("id").size().max() <= 5


def test_sinks_work_in_a_user_loop(scene, results, tmp_path, monkeypatch):
    """The snippet tracks with the bundled detector, which finds no one in a drawn scene; so this gives it boxes."""
    import tracker

    det = scene / "SYN-02" / "det" / "det.txt"
    real = tracker.track_video
    monkeypatch.setattr(tracker, "track_video", lambda *a, **k: real(*a, detections=det, device="cpu", **k))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "video.mp4").symlink_to(scene / "video.mp4")
    exec(compile(snippet("open_sink"), "docs/outputs.md", "exec"), {})
    assert (tmp_path / "mine.csv").read_text() == (results / "tracks.csv").read_text()
    assert (tmp_path / "mine.npy").read_bytes() == (results / "embeddings.npy").read_bytes()
    theirs = {path.name: path.read_bytes() for path in (results / "crops").glob("*.jpg")}
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").glob("*.jpg")} == theirs


def test_no_snippet_of_the_page_is_left_out():
    """Their results are compared above; tests/docs runs the page's commands."""
    words = (
        "np.loadtxt", "stay_s", "as_detections", "crowd", "pycocotools", "results.json", "cvat.zip", "mmap_mode",
        "people.csv", "open_sink",
    )  # fmt: skip
    assert sorted(map(snippet, words)) == sorted(SNIPPETS)


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture
def track(scene, capsys):
    """Run the command on the scene with motion alone; gives (exit status, stdout, stderr)."""

    def run(*arguments):
        words = [
            scene / "video.mp4",
            "--detections",
            scene / "SYN-02" / "det" / "det.txt",
            "--reid",
            "none",
            *arguments,
        ]
        capsys.readouterr()
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run


def test_several_outputs_at_once_and_standard_output(track, tmp_path):
    status, out, err = track("--out", tmp_path / "a.txt", "--out", "-", "--out", tmp_path / "b.csv")
    assert status == 0
    assert out == (tmp_path / "a.txt").read_text()
    assert len((tmp_path / "b.csv").read_text().splitlines()) == len(out.splitlines()) + 1
    for name in ("a.txt", "b.csv"):
        assert f"wrote {tmp_path / name}" in err


def test_crops_may_be_the_only_result(track, tmp_path):
    status, _, err = track("--crops", tmp_path / "crops")
    assert status == 0, err
    assert f"wrote {tmp_path / 'crops'}" in err
    assert (tmp_path / "crops" / "people.csv").is_file()
    status, _, err = track("--crops", tmp_path / "crops")
    assert status == 2
    assert "--overwrite" in err
    assert track("--crops", tmp_path / "crops", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "t.tsv"], "t.tsv: no results are written as .tsv; there are .txt (MOT text), .csv"),
        (["--out", "-", "--out", "-"], "--out - is there twice"),
        (["--out", "t.csv", "--out", "t.csv"], "--out and --out name the same file"),
        (["--out", "t.txt", "--save-embeddings", "t.npz"], "t.npz: embeddings are written as .npy"),
        (["--out", "t.txt", "--video", "t.gif"], "t.gif: cannot write a video of this kind; there are: .mp4"),
        (["--save-embeddings", "t.npy"], "no embeddings to save: with --reid none"),
        (["--out", "t", "--crops", "t"], "--out and --crops name the same file"),
    ],
)
def test_contradictory_options_write_nothing(track, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    status, _, err = track(*words)
    assert status == 2
    assert err.count("\n") == 1
    assert said in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taken", ["b.csv", "c.npy", "d.mp4", "e/mine.txt"])
def test_one_impossible_result_opens_none(scene, tmp_path, capsys, taken):
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    words = ["--out", "a.txt", "--out", "b.csv", "--save-embeddings", "c.npy", "--video", "d.mp4", "--crops", "e"]
    words = [word if word.startswith("--") else str(tmp_path / word) for word in words]
    assert main([str(scene / "video.mp4"), *words]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / taken).read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_every_result_readable(tmp_path, number):
    write_sequence(make_scene(2, n_frames=250, width=320, height=240), tmp_path / "SYN", video=tmp_path / "video.avi")
    words = [tmp_path / "video.avi", "--detections", tmp_path / "SYN" / "det" / "det.txt", "--device", "cpu"]
    for ending in ENDINGS:
        words += ["--out", tmp_path / f"t.{ending}"]
    words += ["--save-embeddings", tmp_path / "t.npy", "--crops", tmp_path / "crops"]
    command = [sys.executable, "-m", "tracker.commands.track", *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        lines = tmp_path / "t.jsonl"
        while not (lines.exists() and lines.read_text().count("\n") > 20):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        err = process.stderr.read()
        assert process.wait(timeout=60) == 130, err
    last = int(re.search(r"interrupted after frame (\d+)", err)[1])
    assert last < 250
    n_rows = len((tmp_path / "t.txt").read_text().splitlines())
    table = json.loads((tmp_path / "t.json").read_text())
    assert len(table["images"]) == last == len((tmp_path / "t.jsonl").read_text().splitlines())
    assert len(table["annotations"]) == n_rows == len(np.load(tmp_path / "t.npy"))
    assert len((tmp_path / "t.csv").read_text().splitlines()) == n_rows + 1
    assert {row["track_id"] for row in table["annotations"]} == {
        int(line.split(",")[1]) for line in (tmp_path / "crops" / "people.csv").read_text().splitlines()[1:]
    }


def test_sequence_without_images_has_no_appearance(scene, tmp_path, capsys):
    words = [scene / "SYN-02", "--detections", "public", "--save-embeddings", tmp_path / "t.npy"]
    assert main([str(word) for word in words]) == 2
    assert "no embeddings to save: SYN-02 has no images" in capsys.readouterr().err
