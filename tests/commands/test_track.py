"""The command `track`: its files, messages and exit status."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.synthetic.mot import make_scene, write_sequence
from tests.synthetic.video import motion_only, write_damaged, write_video
from tracker.api import track_video
from tracker.commands.track import main
from tracker.commands.track_options import build_parser
from tracker.config import TrackerConfig
from tracker.detector.base import DetectorBase
from tracker.sinks.mot_txt import mot_lines
from tracker.types import Detections

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("cli"), 1, n_frames=20, width=320, height=240)


@pytest.fixture
def track(scene, capsys):
    """Run the command in this process on the video with motion alone; gives (exit status, stdout, stderr)."""

    def run(*arguments, source=scene / "video.avi", detections=scene / "SYN-01" / "det" / "det.txt", reid="none"):
        words = [str(source)] if source is not None else []
        words += ["--detections", str(detections)] if detections is not None else []
        words += ["--reid", reid] if reid is not None else []
        capsys.readouterr()
        try:
            status = main([*words, *map(str, arguments)])
        except SystemExit as ended:  # argparse
            status = ended.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run


def one_line(err: str) -> str:
    """The single line on stderr of a run that failed."""
    assert err.count("\n") == 1, err
    assert err.startswith("track: ")
    return err


def check_mot_file(path: Path) -> np.ndarray:
    """Every line whole, frames ascending, no identity twice in a frame."""
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    rows = [line.split(",") for line in text.splitlines()]
    assert all(len(row) == 10 for row in rows)
    table = np.array(rows, float).reshape(-1, 10)
    assert (np.diff(table[:, 0]) >= 0).all()
    keys = [(row[0], row[1]) for row in table]
    assert len(set(keys)) == len(keys)
    return table


def test_video_and_detections_give_tracks(track, scene, tmp_path):
    out = tmp_path / "tracks.txt"
    status, stdout, err = track("--out", out)
    assert status == 0
    assert stdout == ""
    table = check_mot_file(out)
    assert table[0, 0] == 1  # the first frame is filled in
    assert set(table[:, 1]) >= {1.0}
    assert f"wrote {out}" in err
    frames = track_video(scene / "video.avi", detections=scene / "SYN-01" / "det" / "det.txt", reid=None)
    assert out.read_text() == "".join(mot_lines(frame.index, tracks) for frame, tracks in frames)


def test_damaged_frames_are_skipped_and_the_others_tracked(track, scene, tmp_path):
    video = write_damaged(scene / "video.avi", tmp_path / "damaged.avi", 1, 9, 10)
    status, _, err = track("--out", tmp_path / "tracks.txt", source=video)
    assert status == 0
    assert err.count("damaged.avi: ") == 2
    assert "track: damaged.avi: frame 1 cannot be decoded; skipped, later frames keep their numbers and times\n" in err
    assert "track: damaged.avi: damaged frames that were skipped: 3 of 20\n" in err
    assert sorted(set(check_mot_file(tmp_path / "tracks.txt")[:, 0])) == [*range(2, 9), *range(11, 21)]


def test_unknown_option_is_refused(track, tmp_path):
    status, _, err = track("--outt", "x.txt", "--out", tmp_path / "tracks.txt")
    assert status == 2
    assert "unrecognized arguments: --outt" in err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_pipe_is_tracked_and_cannot_be_read_again(track, scene, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def send():
        with suppress(BrokenPipeError):  # of a run that is refused
            pipe.write_bytes((scene / "video.avi").read_bytes())

    def run(*arguments):
        threading.Thread(target=send, daemon=True).start()
        return track("--out", tmp_path / "tracks.txt", *arguments, source=pipe)

    status, _, err = run("--resume")
    assert status == 2
    assert "--resume needs a checkpoint, but pipe is a pipe" in one_line(err)
    status, _, err = run("--smooth", "--video", tmp_path / "tracked.mp4")
    assert status == 2
    assert "read a source twice for results with pictures: pipe is a pipe; save the video first" in one_line(err)
    assert run("--smooth")[0] == 0
    assert len(set(check_mot_file(tmp_path / "tracks.txt")[:, 0])) == 20


def test_read_only_system_without_a_folder_for_temporary_files(scene, tmp_path):
    """As in a container: no home, nothing to write but the result."""
    code = f"""
import tempfile
def missing(*_): raise FileNotFoundError(2, "No usable temporary directory found")
tempfile._get_default_tempdir = missing
from tracker.commands.track import main
raise SystemExit(main({[str(scene / "video.avi"), *motion_only(scene), "--out", str(tmp_path / "tracks.txt")]}))
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "TMPDIR")}
    words = [sys.executable, "-B", "-c", code]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    check_mot_file(tmp_path / "tracks.txt")


def test_mot_folder_uses_its_own_detections(track, scene, tmp_path):
    assert track("--out", tmp_path / "a.txt", source=scene / "SYN-01", detections="public")[0] == 0
    assert track("--out", tmp_path / "b.txt")[0] == 0
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "b.txt").read_text()


def test_bundled_network_tracks(track, tmp_path):
    status, _, err = track("--out", tmp_path / "tracks.txt", "--device", "cpu", reid=None)
    assert status == 0, err
    assert len(check_mot_file(tmp_path / "tracks.txt")) > 20


def test_device_openvino_tracks_as_the_cpu_does(track, tmp_path):
    pytest.importorskip("openvino", reason="the package openvino is not installed")
    for device in ("cpu", "openvino-f32"):
        status, _, err = track("--out", tmp_path / device, "--device", device, "--detector-size", 96, detections=None)
        assert status == 0, err
        status, _, err = track("--out", tmp_path / f"{device}.txt", "--device", device, reid=None)
        assert status == 0, err
        assert f"identity from reid_fast on {device}" in err
    found, right = check_mot_file(tmp_path / "openvino-f32.txt"), check_mot_file(tmp_path / "cpu.txt")
    assert len(right) > 20
    np.testing.assert_allclose(found, right, atol=0.02)


def test_device_openvino_without_the_package_is_one_line(track, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    status, _, err = track("--out", tmp_path / "t.txt", "--device", "openvino", detections=None)
    assert status == 2
    assert "pip install openvino" in one_line(err)


def test_without_detector_the_bundled_one_runs(track, tmp_path):
    for name, words in (("a", ()), ("b", ("--detector", "person"))):
        words = ("--out", tmp_path / name, "--device", "cpu", "--detector-size", 96, *words)
        status, _, err = track(*words, detections=None)
        assert status == 0, err
        assert "people from person.onnx, " in err
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_missing_bundled_detector_is_one_line(track, tmp_path, monkeypatch):
    monkeypatch.setattr("tracker.detector.open.PACKAGED", "absent.onnx")
    status, _, err = track("--out", tmp_path / "t.txt", detections=None)
    assert status == 2
    assert "absent.onnx: no such model file" in one_line(err)


def test_result_on_standard_output_with_quiet(track):
    status, out, err = track("--out", "-", "--quiet")
    assert status == 0
    assert err == ""
    assert out.startswith("1,1,")
    assert all(len(line.split(",")) == 10 for line in out.splitlines())


def test_annotated_video_is_written(track, tmp_path):
    import cv2

    status, _, err = track("--video", tmp_path / "tracked.mp4")
    assert status == 0, err
    video = cv2.VideoCapture(str(tmp_path / "tracked.mp4"))
    n = 0
    while video.read()[0]:
        n += 1
    assert n == 20


def test_each_use_has_its_own_switch(track, tmp_path, monkeypatch):
    import tracker.build

    seen = []
    original = tracker.build.open_pipeline
    monkeypatch.setattr(
        tracker.build, "open_pipeline", lambda *a, **k: (seen.append(k["config"]), original(*a, **k))[1]
    )
    switches = [[], ["--no-veto"], ["--no-reassociate"], ["--verify", "off"]]
    for number, words in enumerate(switches):
        assert track("--out", tmp_path / f"{number}.txt", *words)[0] == 0
    default = TrackerConfig()
    assert seen[0] == default
    assert seen[1] == default.override({"association.veto": False})
    assert seen[2] == default.override({"association.reassociate": False})
    assert seen[3] == default.override({"proposals.verify": "off"})


# ------------------------------------------------------------------------------------------------- settings


def test_print_config_reads_back(track, tmp_path):
    status, out, _ = track("--print-config", "--set", "lifecycle.lost_s=7", "--no-veto", "--conf", "0.05")
    assert status == 0
    path = tmp_path / "settings.toml"
    path.write_text(out)
    config = TrackerConfig.load(path)
    assert config.lifecycle.lost_s == 7
    assert config.association.veto is False
    assert (config.detection.strong_score, config.detection.weak_score) == (0.05, 0.05)
    again = track("--print-config", "--config", path)[1]
    assert again == out


def test_named_options_win_over_set_and_set_over_the_file(track, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("[detection]\nevery = 2\nnms_iou = 0.6\n")
    words = ["--config", path, "--set", "detection.every=3"]
    out = track(*words, "--print-config")[1]
    assert "every = 3" in out
    assert "nms_iou = 0.6" in out
    assert "every = 4" in track(*words, "--detect-every", "4", "--print-config")[1]


def test_conf_keeps_the_weak_score_that_is_set(track):
    out = track("--conf", "0.4", "--set", "detection.weak_score=0.2", "--print-config")[1]
    assert "strong_score = 0.4\nweak_score = 0.2\n" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "lifecycle.lost=1"], "lifecycle.lost_s"),
        (["--set", "lifecycle.lost_s"], "NAME=VALUE"),
        (["--set", "lifecycle.lost_s=soon"], "lost_s"),
        (["--set", "lifecycle.lost_s=-1"], "lost_s"),
        (["--conf", "7"], "strong_score"),
        (["--set", "association.motion_weight=-1"], "motion_weight"),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
        (["--source", "other.avi"], "two sources"),
    ],
)
def test_invalid_settings_are_one_line(track, tmp_path, words, said):
    status, _, err = track("--out", tmp_path / "t.txt", *words)
    assert status == 2
    assert said in one_line(err)
    assert not (tmp_path / "t.txt").exists()


def test_invalid_options_are_refused(track, tmp_path):
    assert track("--out", tmp_path / "t.txt", "--nonsense")[0] == 2
    assert track("--out", tmp_path / "t.txt", source=None)[0] == 2
    assert track("--device", "abacus")[0] == 2


def test_help_shows_the_usual_options_and_help_all_every_one(track):
    status, short, _ = track("--help", detections=None, reid=None, source=None)
    assert status == 0
    assert len(short.splitlines()) <= 60
    assert "--out FILE" in short
    assert "--threads" not in short
    status, whole, _ = track("--help-all", detections=None, reid=None, source=None)
    assert status == 0
    options = {option for action in build_parser()._actions for option in action.option_strings}
    assert [option for option in options if option not in whole] == []


def test_profile_says_where_the_time_went(track, tmp_path):
    assert "ms/frame" not in track("--out", tmp_path / "a.txt")[2]
    assert "ms/frame" in track("--out", tmp_path / "b.txt", "--profile")[2]


def test_help_and_version(track):
    assert track("--help")[0] == 0
    assert track("--version")[1].startswith("tracklet ")


# ------------------------------------------------------------------------------------------------- bad input


def bad_source(kind: str, tmp_path: Path, scene: Path) -> Path:
    path = tmp_path / f"{kind}.avi"
    if kind == "text":
        path.write_text("this is no video\n" * 50)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "headonly":
        path.write_bytes((scene / "video.avi").read_bytes()[:3000])
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "headonly", "folder"])
def test_sources_that_are_no_video_are_refused(track, scene, tmp_path, kind):
    source = bad_source(kind, tmp_path, scene)
    status, _, err = track("--out", tmp_path / "t.txt", source=source)
    assert status == 2
    assert str(source) in one_line(err)


def test_truncated_video_keeps_tracks_so_far(track, scene, tmp_path):
    whole = (scene / "video.avi").read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: len(whole) // 2])
    status, _, err = track("--out", tmp_path / "t.txt", "--quiet", source=cut)
    assert status == 2
    assert "cut.avi" in one_line(err)
    assert len(check_mot_file(tmp_path / "t.txt")) > 5


# text of det.txt, message
BAD_DETECTIONS = [
    ("", "empty"),
    ("\n\n", "empty"),
    ("1,-1,10,20,30,60,0.9\n1,-1,10,20\n", "line 2"),
    ("1,-1,10,20,30,60,0.9\n\n2,-1,x,20,30,60,0.9\n", "line 3"),
    ("1,-1,nan,20,30,60,0.9\n", "line 1"),
    ("1,-1,10,20,-3e10,60,0.9\n", "line 1"),
    ("0,-1,10,20,30,60,0.9\n", "line 1"),
    ("1,-1,10,20,inf,60,0.9\n", "line 1"),
]


@pytest.mark.parametrize(("text", "said"), BAD_DETECTIONS)
def test_malformed_detection_files_are_refused(track, tmp_path, text, said):
    path = tmp_path / "det.txt"
    path.write_text(text)
    status, _, err = track("--out", tmp_path / "t.txt", detections=path)
    assert status == 2
    assert said in one_line(err)
    assert str(path) in err


def test_unreadable_detection_files_are_refused(track, tmp_path):
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 9)
    for path in (tmp_path / "none.txt", tmp_path / "binary.txt", tmp_path):
        status, _, err = track("--out", tmp_path / "t.txt", detections=path)
        assert status == 2
        assert str(path) in one_line(err)


@pytest.mark.parametrize("which", ["reid", "detector"])
def test_files_without_a_model_are_refused(track, tmp_path, which):
    path = tmp_path / "garbage.onnx"
    path.write_bytes(b"\x00garbage" * 100)
    for name in (path, tmp_path / "none.onnx"):
        if which == "reid":
            status, _, err = track("--out", tmp_path / "t.txt", "--device", "cpu", reid=str(name))
        else:
            words = ("--out", tmp_path / "t.txt", "--device", "cpu", "--detector", name)
            status, _, err = track(*words, detections=None)
        assert status == 2
        assert str(name) in one_line(err)


@pytest.mark.parametrize("words", [[], ["--detector-size", "416", "--layout", "yolo"]])
def test_size_and_layout_reach_the_detector(track, tmp_path, monkeypatch, words):
    asked = []

    class Detector(DetectorBase):
        name = "some.onnx"

        def __init__(self, path, *, size, layout, **_):
            asked.append((size, layout))

        def detect(self, frame):
            return Detections.empty()

    monkeypatch.setattr("tracker.detector.onnx.OnnxDetector", Detector)
    status, _, _ = track("--out", tmp_path / "t.txt", "--detector", "some.onnx", *words, detections=None)
    assert (status, asked) == (0, [(416, "yolo") if words else (None, "auto")])


def test_detector_runs_at_every_nth_frame(track, tmp_path):
    """Like the setting of the same name; the description and the summary report it."""
    status, _, err = track("--out", tmp_path / "a.txt", "--detect-every", 4)
    assert status == 0
    assert "det.txt of one frame in 4, scores are probabilities, verify " in err
    assert "predicted between detections" in err
    assert track("--out", tmp_path / "b.txt", "--set", "detection.every=4")[0] == 0
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes()
    assert track("--out", tmp_path / "c.txt", "--detect-every", 1)[0] == 0
    assert track("--out", tmp_path / "d.txt")[0] == 0
    assert (tmp_path / "c.txt").read_bytes() == (tmp_path / "d.txt").read_bytes()
    assert track("--out", tmp_path / "e.txt", "--set", "detection.every=4", "--detect-every", "auto")[0] == 0
    assert (tmp_path / "c.txt").read_bytes() == (tmp_path / "e.txt").read_bytes()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("0", "detection.every must be in [1, 100], got 0"),
        ("-1", "detection.every must be in [1, 100], got -1"),
        ("soon", "--detect-every must be auto or a number of frames from 1 to 100, got 'soon'"),
        ("2.5", "--detect-every must be auto or a number of frames from 1 to 100, got '2.5'"),
        ("", "--detect-every must be auto or a number of frames from 1 to 100, got ''"),
    ],
)
def test_invalid_detect_every_is_one_line(track, tmp_path, value, said):
    status, _, err = track("--out", tmp_path / "t.txt", "--detect-every", value)
    assert status == 2
    assert said in one_line(err)


def test_detector_size_without_detector_is_refused(track, tmp_path):
    status, _, err = track("--out", tmp_path / "t.txt", "--detector-size", "416")
    assert status == 2
    assert "size of 416 is for a network; detections from a file have none" in one_line(err)
    status, _, err = track("--out", tmp_path / "t.txt", "--layout", "yolo")
    assert status == 2
    assert "it goes with --detector" in one_line(err)
    status, _, err = track("--out", tmp_path / "t.txt", "--detector", "person", "--layout", "none", detections=None)
    assert status == 2
    assert "unknown detector layout 'none'; there are: auto, person, nanodet, yolox, yolox-raw" in one_line(err)


def test_detections_and_detector_together_are_refused(track, tmp_path):
    status, _, err = track("--out", tmp_path / "t.txt", "--detector", "yolo.onnx")
    assert status == 2
    assert "either" in one_line(err)


# ---------------------------------------------------------------------------------------------------- results


def test_no_requested_result_is_an_error(track):
    status, _, err = track()
    assert status == 2
    assert "--out" in one_line(err)


def test_results_are_replaced_only_on_demand(track, tmp_path):
    out, video = tmp_path / "tracks.txt", tmp_path / "video.mp4"
    for path, words in ((out, ("--out", out)), (video, ("--video", video))):
        path.write_text("precious")
        status, _, err = track(*words)
        assert status == 2
        assert "--overwrite" in err.splitlines()[-1]
        assert "wrote" not in err
        assert path.read_text() == "precious"
        assert track(*words, "--overwrite")[0] == 0
        assert path.read_bytes() != b"precious"


def test_input_file_is_never_overwritten(track, scene, tmp_path):
    copy = tmp_path / "video.avi"
    shutil.copy(scene / "video.avi", copy)
    before = copy.read_bytes()
    for words in (("--video", copy), ("--video", copy, "--overwrite"), ("--out", copy, "--overwrite")):
        status, _, err = track(*words, source=copy)
        assert status == 2, words
        assert "video.avi" in one_line(err)
        assert copy.read_bytes() == before
    det = tmp_path / "det.txt"
    shutil.copy(scene / "SYN-01" / "det" / "det.txt", det)
    before = det.read_bytes()
    (tmp_path / "link.txt").symlink_to(det)
    for path in (det, tmp_path / "link.txt"):
        assert track("--out", path, "--overwrite", detections=det)[0] == 2
        assert det.read_bytes() == before
    both = tmp_path / "both.avi"
    assert track("--out", both, "--video", both)[0] == 2


def test_unwritable_paths_are_refused(track, tmp_path):
    places = [tmp_path / "none" / "t.txt", tmp_path]
    if Path("/proc").is_dir():
        places.append(Path("/proc/tracks.txt"))
    for place in places:
        status, _, err = track("--out", place)
        assert status == 2
        assert str(place) in one_line(err)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_refused(track, tmp_path):
    tmp_path.chmod(0o500)
    try:
        status, _, err = track("--out", tmp_path / "t.txt")
    finally:
        tmp_path.chmod(0o700)
    assert status == 2
    assert "t.txt" in one_line(err)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_reported_on_one_line(track):
    status, _, err = track("--out", "/dev/full", "--quiet")
    assert status in (1, 2)
    assert "/dev/full" in one_line(err)


# --------------------------------------------------------------------------------------------- a real process


def command(*words) -> list[str]:
    return [sys.executable, "-m", "tracker.commands.track", *map(str, words)]


@pytest.mark.slow
def test_command_runs_as_a_process(scene, tmp_path):
    out = tmp_path / "tracks.txt"
    words = command(scene / "video.avi", *motion_only(scene), "--out", out)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert len(check_mot_file(out)) > 20
    again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert again.returncode == 2
    assert "Traceback" not in again.stderr
    one_line(again.stderr)


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_closed_standard_output_ends_silently(scene, tmp_path, name):
    """`track ... --out - | head -1`: as other programs that SIGPIPE ends; other results keep their frames."""
    table, out = tmp_path / "t.csv", ["--out", name]
    words = command(scene / "video.avi", *motion_only(scene), "--out", table, *out, "--quiet")
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (128 + signal.SIGPIPE, "")
    assert table.read_text().startswith("frame,")
    assert table.read_text().count("\n") > 1


@pytest.fixture(scope="module")
def long_scene(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    write_sequence(make_scene(2, n_frames=250, width=320, height=240), folder / "SYN-02", video=folder / "video.avi")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_a_complete_file(long_scene, tmp_path, number):
    out = tmp_path / "tracks.txt"
    words = command(long_scene / "video.avi", "--detections", long_scene / "SYN-02" / "det" / "det.txt", "--out", out)
    words += ["--device", "cpu", "--video", str(tmp_path / "video.mp4")]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 240
        while not (out.exists() and out.read_text().count("\n") > 20):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)  # tools/benchmarks/stop.py measures how long it takes
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted after frame" in err
    table = check_mot_file(out)
    assert len(table) > 20
    assert table[-1, 0] < 250
    import cv2

    video = cv2.VideoCapture(str(tmp_path / "video.mp4"))
    n = 0
    while video.read()[0]:
        n += 1
    assert n >= table[-1, 0]


def test_command_module_imports_no_numpy_before_signals_are_handled():
    script = "import sys, tracker.commands.track; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
