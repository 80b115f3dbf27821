"""Spans of a source: their frames with the numbers and times of the whole, and no others."""

from __future__ import annotations

import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.synthetic.mot import make_scene, write_sequence
from tracker.api import track_video
from tracker.commands.track import main
from tracker.errors import ConfigError, SourceError
from tracker.sources.open import open_source
from tracker.sources.span import Picker, Span

FPS, N_FRAMES = 25.0, 48


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same scene in every form that a file can have, and mp4v with its key frames far apart."""
    folder = tmp_path_factory.mktemp("span")
    scene = make_scene(3, n_people=3, n_frames=N_FRAMES, width=128, height=96, fps=FPS)
    write_sequence(scene, folder / "SYN", video=folder / "video.avi")
    writer = cv2.VideoWriter(str(folder / "video.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (128, 96))
    for path in sorted((folder / "SYN" / "img1").iterdir()):
        writer.write(cv2.imread(str(path)))
    writer.release()
    return {
        "avi": folder / "video.avi",
        "mp4": folder / "video.mp4",
        "mot": folder / "SYN",
        "images": folder / "SYN/img1",
    }


def test_span_parses_frames_and_times():
    assert Span.parse() == Span()
    assert Span.parse("250", "500", "2") == Span(start_index=249, end_index=500, stride=2)
    assert Span.parse(250, 250) == Span(start_index=249, end_index=250)
    assert Span.parse("12.5s", "1:30", "0.5s") == Span(start_s=12.5, end_s=90.0, stride_s=0.5)
    assert Span.parse("1:02:03.5") == Span(start_s=3723.5)
    assert Span.parse("0s", "0:05") == Span(end_s=5.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"start": "0"}, "--start takes a frame number from 1"),
        ({"start": "-5"}, "got '-5'"),
        ({"start": "12.5"}, "12.5s"),
        ({"end": "five"}, "--end takes"),
        ({"end": "1:2:3:4"}, "--end takes"),
        ({"stride": "0"}, "--stride takes a number of frames from 1"),
        ({"stride": "0s"}, "--stride takes"),
        ({"stride": "nan"}, "--stride takes"),
        ({"start": "10", "end": "9"}, "--end 9 is before --start 10"),
        ({"start": "10s", "end": "10s"}, "no frame lies between"),
        ({"end": "0s"}, "no frame lies between"),
    ],
)
def test_span_invalid_values_are_one_line(words, said):
    with pytest.raises(ConfigError, match=said) as error:
        Span.parse(**words)
    assert "\n" not in str(error.value)


def chosen_slowly(span: Span, times: list[float]) -> list[int]:
    """Frame by frame, as the words say it; exact times only."""
    inside = [
        i for i, t in enumerate(times)
        if i >= span.start_index and t >= span.start_s
        and (span.end_index is None or i < span.end_index) and (span.end_s is None or t < span.end_s)
    ]  # fmt: skip
    if not span.stride_s:
        return inside[:: span.stride]
    taken, due = [], 0.0
    for i in inside:
        passed = times[i] - times[inside[0]]
        if passed >= due:
            taken.append(i)
            while due <= passed:
                due += span.stride_s
    return taken


@pytest.mark.parametrize("seed", range(20))
def test_picker_agrees_with_a_loop(seed):
    rng = np.random.default_rng(seed)
    # Quarters of a second are exact in binary, so that the oracle needs no tolerance.
    times = np.cumsum(rng.integers(0, 4, 60) * 0.25)
    times = [float(t - times[0]) for t in times]
    span = Span(
        start_index=int(rng.integers(0, 30)) * int(rng.integers(0, 2)),
        start_s=float(rng.integers(0, 40)) * 0.25 * int(rng.integers(0, 2)),
        end_index=int(rng.integers(20, 60)) if rng.random() < 0.5 else None,
        end_s=float(rng.integers(40, 80)) * 0.25 if rng.random() < 0.5 else None,
        stride=int(rng.integers(1, 5)),
        stride_s=float(rng.integers(1, 9)) * 0.25 if rng.random() < 0.5 else 0.0,
    )
    picker = Picker(span)
    assert [i for i, t in enumerate(times) if picker.wants(i, t)] == chosen_slowly(span, times)


@pytest.mark.parametrize("span", [Span(), Span(7, end_index=30), Span(start_s=1.0, end_s=1.5), Span(3, stride=4)])
@pytest.mark.parametrize("fps", [25.0, 30.0, 10.0])
def test_span_count_agrees_with_the_picker(span, fps):
    assert span.count(48, fps) == len(chosen_slowly(span, [i / fps for i in range(48)]))


def test_span_count_with_a_stride_in_seconds():
    assert (
        Span(stride_s=0.5).count(50, 25.0) == len(chosen_slowly(Span(stride_s=0.5), [i / 25 for i in range(50)])) == 4
    )
    assert Span(stride_s=0.001).count(50, 25.0) == 50
    assert (Span(stride=2).rate(30.0), Span(stride_s=0.5).rate(30.0), Span(stride_s=0.001).rate(30.0)) == (15, 2, 30)


SPANS = [
    (Span(), range(N_FRAMES)),
    (Span(10), range(10, N_FRAMES)),
    (Span(end_index=9), range(9)),
    (Span(5, stride=3, end_index=40), range(5, 40, 3)),
    (Span(start_s=0.4, end_s=1.2, stride_s=0.2), range(10, 30, 5)),
]


@pytest.mark.parametrize("kind", ["avi", "mp4", "mot", "images"])
@pytest.mark.parametrize(("span", "wanted"), SPANS)
def test_part_has_the_same_frames_as_the_whole(sources, kind, span, wanted):
    with open_source(sources[kind], fps=FPS) as source:
        whole = list(source)
    assert len(whole) == N_FRAMES
    with open_source(sources[kind], fps=FPS, span=span) as source:
        part = list(source)
        assert source.n_frames == len(part)
        assert source.fps == pytest.approx(span.rate(FPS))
    assert [(frame.index, frame.time_s) for frame in part] == [(i, whole[i].time_s) for i in wanted]
    assert all((frame.image == whole[frame.index].image).all() for frame in part)


@pytest.mark.parametrize("kind", ["avi", "mp4", "mot", "images"])
def test_resume_after_gives_the_remaining_frames(sources, kind):
    span = Span(5, stride=3)
    with open_source(sources[kind], fps=FPS, span=span) as source:
        uninterrupted = list(source)
    with open_source(sources[kind], fps=FPS, span=span) as source:
        source.go_on_after(uninterrupted[4].index)
        rest = list(source)
    assert [(frame.index, frame.time_s) for frame in rest] == [(f.index, f.time_s) for f in uninterrupted[5:]]
    assert all((a.image == b.image).all() for a, b in zip(rest, uninterrupted[5:], strict=True))


@pytest.mark.parametrize("kind", ["avi", "mp4", "mot", "images"])
@pytest.mark.parametrize("span", [Span(N_FRAMES), Span(start_s=60.0)])
def test_part_after_the_end_is_an_error(sources, kind, span):
    said = rf"no frame in the part asked for, from .*ends with frame {N_FRAMES}"
    with open_source(sources[kind], fps=FPS, span=span) as source, pytest.raises(SourceError, match=said):
        list(source)


def test_resume_after_the_last_frame_is_no_error(sources):
    with open_source(sources["avi"]) as source:
        source.go_on_after(N_FRAMES - 1)
        assert list(source) == []


class Camera:
    """What `open_capture` gives for a camera."""

    released = False

    def get(self, _):
        return 0.0

    def release(self):
        self.released = True


def test_live_source_refuses_a_span(monkeypatch):
    camera = Camera()
    monkeypatch.setattr("tracker.sources.webcam.open_capture", lambda _: camera)
    with pytest.raises(SourceError, match=r"webcam 0: is live.*--start, --end and --stride are for files"):
        open_source("webcam", span=Span(stride=2))
    assert camera.released


def test_replayed_detections_match_the_frames_of_a_part(sources):
    det = sources["mot"] / "det" / "det.txt"
    part = list(track_video(sources["avi"], detections=det, reid=None, start=11, end=40))
    assert [frame.index for frame, _ in part] == list(range(10, 40))
    boxes = {}
    for line in det.read_text().splitlines():
        frame, _, left, top, width, height, *_ = map(float, line.split(","))
        boxes.setdefault(int(frame) - 1, []).append([left - 1, top - 1, left - 1 + width, top - 1 + height])
    detected = [(frame.index, row) for frame, tracks in part for row in tracks if row.det_index >= 0]
    assert len(detected) > 30
    for index, row in detected:
        box = boxes[index][row.det_index]
        near = np.abs(np.array(box) - row.xyxy).max()
        assert near < 0.3 * (box[3] - box[1])  # filtered, yet of that detection


@pytest.fixture(scope="module")
def half_rate(sources, tmp_path_factory):
    """Every second frame of the sequence as one of half the rate, with the detections of those frames."""
    folder = tmp_path_factory.mktemp("half") / "HALF"
    (folder / "img1").mkdir(parents=True)
    (folder / "det").mkdir()
    for number, path in enumerate(sorted((sources["mot"] / "img1").iterdir())[::2], start=1):
        (folder / "img1" / f"{number:06d}{path.suffix}").write_bytes(path.read_bytes())
    ini = (sources["mot"] / "seqinfo.ini").read_text()
    ini = ini.replace("frameRate=25", "frameRate=12.5").replace(f"seqLength={N_FRAMES}", f"seqLength={N_FRAMES // 2}")
    (folder / "seqinfo.ini").write_text(ini)
    lines = [line.split(",", 1) for line in (sources["mot"] / "det" / "det.txt").read_text().splitlines()]
    kept = [f"{int(number) // 2 + 1},{rest}\n" for number, rest in lines if int(number) % 2]
    (folder / "det" / "det.txt").write_text("".join(kept))
    return folder


@pytest.mark.parametrize("reid", [None, "default"])
def test_stride_of_two_equals_half_the_frame_rate(sources, half_rate, reid):
    """Ages, velocities and confirmation equal those of the slower video; only the frame numbers differ."""
    how = {"detections": "public", "reid": reid, "device": "cpu"}
    strided = list(track_video(sources["mot"], stride=2, **how))
    slow = list(track_video(half_rate, **how))
    assert [frame.index for frame, _ in strided] == [2 * frame.index for frame, _ in slow]
    assert [frame.time_s for frame, _ in strided] == [frame.time_s for frame, _ in slow]
    assert sum(len(tracks) for _, tracks in slow) > 30
    for (_, ours), (_, theirs) in zip(strided, slow, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
        assert np.array_equal(ours.source, theirs.source)


@pytest.mark.data
def test_part_of_a_real_video(data_root):
    """MPEG-4 with predicted frames: the pictures of the part are those of reading from the start."""
    path = data_root / "videos" / "vtest.avi"
    with open_source(path) as source:
        whole = {frame.index: frame for frame in source if frame.index in range(60, 90, 7)}
    with open_source(path, span=Span(60, end_index=90, stride=7)) as source:
        for frame in source:
            assert (frame.image == whole.pop(frame.index).image).all()
    assert not whole


@pytest.mark.slow
def test_page_commands_run(tmp_path, monkeypatch):
    """docs/long_videos.md on a video of 26 s at 10 fps, through which one person walks."""
    monkeypatch.chdir(tmp_path)
    writer = cv2.VideoWriter("video.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for _ in range(260):
        writer.write(np.full((48, 64, 3), 90, np.uint8))
    writer.release()
    boxes = [f"{number},-1,{1 + number / 10:.2f},5,12,30,0.9,-1,-1,-1\n" for number in range(1, 261)]
    (tmp_path / "det.txt").write_text("".join(boxes))
    page = (Path(__file__).resolve().parents[2] / "docs" / "long_videos.md").read_text()
    commands = [line for line in page.splitlines() if line.startswith("track ")]
    wanted = [range(250, 261), range(126, 261), range(1, 261, 3), range(1, 261, 5), range(1, 261)]
    for command, frames in zip(commands, wanted, strict=True):
        words = shlex.split(command, comments=True)[1:]
        again = [] if "--resume" in words else ["--overwrite"]
        assert main([*words, *again, "--detections", "det.txt", "--reid", "none", "--quiet"]) == 0
        out = Path(words[words.index("--out") + 1])
        assert [int(line.split(",")[0]) for line in out.read_text().splitlines()] == list(frames)
