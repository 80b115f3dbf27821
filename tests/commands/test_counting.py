"""`track` with lines, zones, a heatmap, smoothing and filled gaps; `track-smooth` on a finished file."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from tests.synthetic.mot import make_scene, write_sequence
from tracker import LineCounter, ZoneCounter, refine_tracks, track_video
from tracker.commands.smooth import main as smooth_main
from tracker.commands.track import main
from tracker.eval.mot_files import read_tracks
from tracker.sinks.mot_txt import mot_lines

N_FRAMES = 40


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """video.avi, and det.txt where every person misses some detections."""
    folder = tmp_path_factory.mktemp("counting")
    write_sequence(
        make_scene(3, n_people=5, n_frames=N_FRAMES, width=320, height=240),
        folder / "SYN-03",
        video=folder / "video.avi",
    )
    shutil.copy(folder / "SYN-03" / "det" / "det.txt", folder / "det.txt")
    return folder


@pytest.fixture
def track(scene, capsys):
    """Run `track` on the video with motion alone; gives (exit status, stdout, stderr)."""

    def run(*words, source=scene / "video.avi"):
        status = main([str(source), "--detections", str(scene / "det.txt"), "--reid", "none", *map(str, words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run


@pytest.fixture(scope="module")
def tracked(scene):
    """(frames, tracks) from Python, of the same video."""
    return list(track_video(scene / "video.avi", detections=scene / "det.txt", reid=None))


def video_pictures(path: Path) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    pictures = []
    while (read := video.read())[0]:
        pictures.append(read[1])
    return pictures


def test_counts_are_those_of_the_counters_in_a_loop(track, scene, tracked, tmp_path):
    corners = [(160, 0), (320, 0), (320, 240), (160, 240)]
    line, zone = LineCounter((160, 0), (160, 240), name="middle"), ZoneCounter(corners, name="zone 1")
    events = []
    for frame, tracks in tracked:
        for counter in (line, zone):
            events += counter.update(tracks, frame.time_s, frame.index)
    events += zone.finish()
    assert line.n_in + line.n_out > 0
    assert zone.n_entered + zone.n_left > 0

    path = tmp_path / "counts.csv"
    numbers = ",".join(f"{x},{y}" for x, y in corners)
    status, _, err = track("--line", "middle=160,0,160,240", "--zone", numbers, "--counts", path)
    assert status == 0, err
    table = pd.read_csv(path)
    assert [(r.frame - 1, r.name, r.id, r.direction) for r in table.itertuples(index=False)] == [
        (e.frame, e.name, e.id, e.direction) for e in events
    ]
    assert f"middle      {line.n_in} in, {line.n_out} out" in err
    assert f"zone 1      {zone.n_entered} entered, {zone.n_left} left" in err
    assert f"wrote {path}" in err


def test_shares_are_pixels_of_this_picture(track, tmp_path):
    a, b = tmp_path / "a.csv", tmp_path / "b.csv"
    assert track("--line", "0.5,0,0.5,1", "--zone", "0.25,0.25,1,0.25,1,1", "--counts", a)[0] == 0
    assert track("--line", "160,0,160,240", "--zone", "80,60,320,60,320,240", "--counts", b)[0] == 0
    assert a.read_text() == b.read_text()
    assert len(a.read_text().splitlines()) > 2


@pytest.mark.slow
def test_video_shows_the_counts(track, tmp_path):
    plain, counted = tmp_path / "plain.avi", tmp_path / "counted.avi"
    assert track("--video", plain)[0] == 0
    assert track("--video", counted, "--line", "0,120,320,120")[0] == 0
    for a, b in zip(video_pictures(plain), video_pictures(counted), strict=True):
        row = np.abs(a.astype(int) - b.astype(int)).sum(axis=2)[118:123].max(axis=0)
        assert (row > 60).mean() > 0.9  # the line lies over the whole width


def test_heatmap_is_written(track, tmp_path):
    path = tmp_path / "heat.png"
    status, _, err = track("--heatmap", path)
    assert status == 0, err
    assert cv2.imread(str(path)).shape == (240, 320, 3)


WRONG = [
    (["--line", "1,2,3"], "--line takes x1,y1,x2,y2"),
    (["--line", "a,b,c,d"], "--line takes x1,y1,x2,y2"),
    (["--line", "=1,2,3,4"], "--line takes x1,y1,x2,y2"),
    (["--line", "nan,2,3,4"], "--line takes x1,y1,x2,y2"),
    (["--line", "5,5,5,5"], "--line line 1: both ends"),
    (
        ["--line", "door=0,5,900,5"],
        "--line door: the point (900, 5) lies outside the picture, which has 320x240 pixels",
    ),
    (["--zone", "1,2,30,4"], "--zone takes x1,y1,x2,y2,x3,y3,..."),
    (["--zone", "1,2,3,4,5,6,7"], "--zone takes x1,y1,x2,y2,x3,y3,..."),
    (["--zone", "0,0,90,90,90,0,0,90"], "--zone zone 1: the edges (0.0, 0.0) to (90.0, 90.0)"),
    (["--zone", "shop=-5,0,90,90,90,0"], "--zone shop: the point (-5, 0) lies outside"),
    (["--line", "a=1,2,3,4", "--zone", "a=1,2,30,4,5,60"], "two lines or zones are called 'a'"),
    (["--counts", "counts.csv"], "--counts needs something to count"),
    (["--fill-gaps", "0"], "--fill-gaps must be a number of seconds above 0"),
    (["--fill-gaps", "nan"], "--fill-gaps must be a number of seconds above 0"),
    (["--smooth", "--show"], "--show needs frames as they come"),
    (["--line", "0,5,9,5", "--counts", "-", "--out", "-"], "standard output takes one result"),
    (["--smooth", "--resume"], "--resume continues results, --smooth and --fill-gaps write them after the end"),
    (["--line", "0,5,9,5", "--counts", "-", "--resume"], "--resume continues result files"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_mistakes_are_one_line_and_leave_no_file(track, tmp_path, words, said):
    out = [] if "--out" in words or "--counts" in words else ["--out", tmp_path / "t.txt"]
    status, _, err = track(*words, *out)
    assert status == 2
    assert err.count("\n") == 1, err
    assert said in err
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ after the end


def test_smoothing_and_filling_give_what_the_function_gives(track, tracked, tmp_path):
    path = tmp_path / "t.txt"
    status, _, err = track("--out", path, "--smooth", "--fill-gaps", "0.5")
    assert status == 0, err
    times = [frame.time_s for frame, _ in tracked]
    refined = refine_tracks([tracks for _, tracks in tracked], times, fill_gaps_s=0.5)
    assert path.read_text() == "".join(mot_lines(k, tracks) for k, tracks in enumerate(refined))
    n_new = sum(int(tracks.interpolated.sum()) for tracks in refined)
    assert n_new > 0
    assert f"{n_new} interpolated" in err
    assert f"frame {N_FRAMES} of {N_FRAMES}" in err  # the progress of the tracking


def test_video_of_refined_tracks_has_pictures(track, tmp_path):
    plain, refined = tmp_path / "plain.avi", tmp_path / "refined.avi"
    assert track("--video", plain)[0] == 0
    assert track("--video", refined, "--smooth")[0] == 0
    before, after = video_pictures(plain), video_pictures(refined)
    assert len(before) == len(after) == N_FRAMES
    for a, b in zip(before, after, strict=True):
        assert np.median(np.abs(a.astype(int) - b.astype(int))) <= 2  # boxes moved a little, the video did not


def test_truncated_video_is_refined_up_to_its_end(track, scene, tmp_path):
    cut = tmp_path / "cut.avi"
    whole = (scene / "video.avi").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    plain, smooth = tmp_path / "plain.txt", tmp_path / "smooth.txt"
    status, _, err = track("--out", plain, "--quiet", source=cut)
    assert status == 2
    assert track("--out", smooth, "--smooth", "--quiet", source=cut)[::2] == (2, err)
    assert len(smooth.read_text().splitlines()) == len(plain.read_text().splitlines()) > 5


def test_live_source_cannot_be_smoothed(track, tmp_path, monkeypatch):
    from tracker.sources.video import VideoFile

    monkeypatch.setattr(VideoFile, "live", True)
    status, _, err = track("--out", tmp_path / "t.txt", "--smooth")
    assert status == 2
    assert err == "track: --smooth and --fill-gaps are for files: video.avi has no end to wait for\n"


@pytest.mark.parametrize("clock", ["source", "fps"])
def test_smooth_file_equals_smoothing_its_tracks(track, scene, tmp_path, capsys, clock):
    path, out = tmp_path / "t.txt", tmp_path / "out" / "s.txt"
    assert track("--out", path)[0] == 0
    out.parent.mkdir()
    fps = cv2.VideoCapture(str(scene / "video.avi")).get(cv2.CAP_PROP_FPS)
    words = ["--source", str(scene / "video.avi")] if clock == "source" else ["--fps", str(fps)]
    assert smooth_main([str(path), *words, "--fill-gaps", "0.5", "--out", str(out)]) == 0
    assert "of them interpolated" in capsys.readouterr().err
    tracks = read_tracks(path)
    refined = refine_tracks(tracks, np.arange(len(tracks)) / fps, fill_gaps_s=0.5)
    got = np.loadtxt(out, delimiter=",")
    expected = np.loadtxt("".join(mot_lines(k, t) for k, t in enumerate(refined)).splitlines(), delimiter=",")
    np.testing.assert_allclose(got, expected, atol=0.011)
    assert len(got) > sum(map(len, tracks))


def test_files_of_other_trackers_are_read_as_they_are(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("3,7,11,21,10,30\n1,7,1,1,10,30\n1,2,5,5,4,4\n")
    tracks = read_tracks(path)
    assert [t.id.tolist() for t in tracks] == [[2, 7], [], [7]]
    assert tracks[2].xyxy.tolist() == [[10, 20, 20, 50]]
    assert tracks[0].score.tolist() == [1, 1]
    path.write_text("")
    assert read_tracks(path) == []


SMOOTH_WRONG = [
    (["--fps", "25", "--no-smooth"], "nothing to do"),
    (["--fps", "0"], "--fps must be a positive number"),
    (["--fps", "25", "--fill-gaps", "-1"], "--fill-gaps must be"),
    (["--source", "nowhere.avi"], "nowhere.avi"),
]


@pytest.mark.parametrize(("words", "said"), SMOOTH_WRONG)
def test_finished_file_mistakes_give_one_line(tmp_path, capsys, words, said):
    path = tmp_path / "t.txt"
    path.write_text("1,1,1,1,9,9,1,-1,-1,-1\n")
    assert smooth_main([str(path), *words, "--out", str(tmp_path / "s.txt")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("track-smooth: ")
    assert err.count("\n") == 1
    assert said in err
    assert smooth_main([str(path), "--fps", "25", "--out", str(path), "--overwrite"]) == 2
    assert "would replace an input" in capsys.readouterr().err


def test_results_of_a_longer_video_are_refused(scene, tmp_path, capsys):
    path = tmp_path / "t.txt"
    path.write_text("999,1,1,1,9,9,1,-1,-1,-1\n")
    assert smooth_main([str(path), "--source", str(scene / "video.avi"), "--out", str(tmp_path / "s.txt")]) == 2
    assert "do they belong together" in capsys.readouterr().err
