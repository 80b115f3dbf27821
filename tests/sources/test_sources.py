"""Sources: every frame once, in order, with its time; one clear line for every bad input."""

from __future__ import annotations

import http.server
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from tracker.errors import SourceError
from tracker.eval.sequences import length_of
from tracker.sources.base import FrameSource
from tracker.sources.images import ImageFolder, natural_key
from tracker.sources.mot import MotSequence
from tracker.sources.open import open_source
from tracker.sources.prefetch import Prefetch
from tracker.sources.video import VideoFile
from tracker.sources.webcam import LiveSource
from tracker.types import Frame

WIDTH, HEIGHT, N_FRAMES, FPS = 64, 48, 60, 25


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Noise, so that compressed frames have a size, with a brightness that encodes the frame number."""
    noise = np.random.default_rng(number).integers(0, 40, (height, width, 3))
    return (noise + 3 * (number % 60)).astype(np.uint8)


def write_video(path: Path, codec: str, n_frames: int = N_FRAMES) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), FPS, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for number in range(n_frames):
        writer.write(picture(number))
    writer.release()
    return path


def write_sequence(folder: Path, n_frames: int = 4, images: bool = True, **changes: str | None) -> Path:
    keys: dict[str, str | None] = {
        "name": "TEST-01",
        "imDir": "img1",
        "frameRate": "20",
        "seqLength": str(n_frames),
        "imWidth": str(WIDTH),
        "imHeight": str(HEIGHT),
        "imExt": ".png",
    }
    keys.update(changes)
    folder.mkdir(exist_ok=True)
    lines = [f"{key}={value}" for key, value in keys.items() if value is not None]
    (folder / "seqinfo.ini").write_text("\n".join(["[Sequence]", *lines]))
    if images:
        (folder / "img1").mkdir()
        for number in range(1, n_frames + 1):
            cv2.imwrite(str(folder / "img1" / f"{number:06d}.png"), picture(number))
    return folder


@pytest.fixture(scope="module")
def avi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("avi") / "video.avi", "MJPG")


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("mp4") / "video.mp4", "mp4v")


@pytest.mark.parametrize("kind", ["avi", "mp4"])
def test_video_gives_the_frames_of_opencv(kind, avi, mp4):
    path = {"avi": avi, "mp4": mp4}[kind]
    capture = cv2.VideoCapture(str(path))
    with open_source(path) as source:
        assert isinstance(source, FrameSource)
        assert (source.width, source.height, source.fps, source.n_frames, source.live) == (64, 48, 25.0, 60, False)
        count = 0
        for frame in source:
            ok, image = capture.read()
            assert ok
            assert np.array_equal(frame.image, image)
            assert frame.index == count
            assert frame.time_s == pytest.approx(count / FPS)
            count += 1
    assert count == N_FRAMES
    assert not capture.read()[0]


def test_given_frame_rate_replaces_the_time_stamps(avi):
    with open_source(avi, fps=10) as source:
        assert [f.time_s for f in source][:3] == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize("stamps", [[0, 0, 0, 0], [0, 40, 20, 60], [0, 40, float("nan"), 120], [-1, -1, -1, -1]])
def test_time_increases_with_any_time_stamps(avi, monkeypatch, stamps):
    with VideoFile(avi) as source:
        values = iter([s / 1000 for s in stamps] + [0.0] * N_FRAMES)
        monkeypatch.setattr(VideoFile, "_stamp", lambda self: next(values))
        times = [frame.time_s for frame in source]
    assert times[0] == 0
    assert np.allclose(np.diff(times), 1 / FPS)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_avi_gives_its_frames_then_an_error(avi, tmp_path, share):
    data = avi.read_bytes()
    path = tmp_path / "cut.avi"
    path.write_bytes(data[: int(len(data) * share)])
    frames = []
    with (
        Prefetch(open_source(path)) as source,
        pytest.raises(SourceError, match=r"cut\.avi: breaks off after frame \d+ of 60") as error,
    ):
        for frame in source:
            frames.append(frame.index)
    assert frames == list(range(len(frames)))
    assert f"frame {len(frames)} of" in str(error.value)
    assert abs(len(frames) - share * N_FRAMES) < 6


@pytest.mark.parametrize("announced", [60, 62, 63, 120])
def test_header_that_counts_too_many_frames_is_a_note(avi, tmp_path, caplog, announced):
    """As recorders write it; the file is as long as its container says."""
    data = avi.read_bytes()
    for part, offset in ((b"avih", 16), (b"strh", 32)):
        at = data.index(part) + 8 + offset
        data = data[:at] + announced.to_bytes(4, "little") + data[at + 4 :]
    (tmp_path / "recorder.avi").write_bytes(data)
    with VideoFile(tmp_path / "recorder.avi") as source:
        assert len(list(source)) == N_FRAMES
    said = [f"recorder.avi: the header announces {announced} frames, 60 can be shown"]
    assert caplog.messages == (said if announced > 62 else [])


def test_variable_frame_rate_video_is_complete(avi, monkeypatch, caplog):
    with VideoFile(avi) as source:
        source.announced = 2 * N_FRAMES  # every second frame was left out: the stamps run twice as fast
        stamps = iter(range(N_FRAMES))
        monkeypatch.setattr(VideoFile, "_stamp", lambda self: next(stamps) * 2 / FPS)
        assert len(list(source)) == N_FRAMES
    assert caplog.messages == []


def test_truncated_mp4_and_other_files_are_no_videos(mp4, tmp_path):
    (tmp_path / "cut.mp4").write_bytes(mp4.read_bytes()[:3000])
    (tmp_path / "text.mp4").write_text("no video\n" * 99)
    (tmp_path / "empty.avi").touch()
    for name, message in (("cut.mp4", "not a video"), ("text.mp4", "not a video"), ("empty.avi", "empty")):
        with pytest.raises(SourceError, match=message) as error:
            open_source(tmp_path / name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)


def test_video_without_frames_is_an_error(tmp_path):
    with pytest.raises(SourceError, match=r"none\.avi"):
        open_source(write_video(tmp_path / "none.avi", "MJPG", 0))


def test_bad_input_prints_only_the_error(tmp_path):
    """In a process of its own: FFmpeg reads its log level once, when the first video of a process opens."""
    path = tmp_path / "text1.mp4"
    path.write_text("no video\n" * 99)
    code = f"""
from tracker.errors import SourceError
from tracker.sources.open import open_source
for spec in ({str(path)!r}, "99", "http://127.0.0.1:9/video.mp4"):
    try:
        open_source(spec)
    except SourceError:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert (done.stdout, done.stderr) == ("refused\n" * 3, "")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("/does/not/exist.mp4", "no such file or folder"),
        ("/does/not/*.png", "no image matches"),
        ("99", "webcam 99: cannot be opened"),
        ("rtsp://127.0.0.1:9/cam", "rtsp://127.0.0.1:9/cam: cannot be opened"),
        ("http://127.0.0.1:9/video.mp4", "cannot be opened"),
    ],
)
def test_missing_sources_are_one_line(spec, message):
    with pytest.raises(SourceError, match=message):
        open_source(spec)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_impossible_frame_rate(avi, fps):
    with pytest.raises(SourceError, match="frame rate"):
        open_source(avi, fps=fps)


NAMES = ["12:30:05.avi", "http:video.avi", "concat:a|b.avi", "100%d.avi", "a?b#c.avi", "-o.avi", "ü ß.avi"]


@pytest.mark.parametrize("name", NAMES)
def test_video_with_any_name_is_opened(avi, tmp_path, monkeypatch, name):
    """By its relative name, its path and its address."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(avi, name)
    for spec in (name, tmp_path / name, (tmp_path / name).as_uri()):
        with open_source(spec) as source:
            assert source.name == name
            assert next(iter(source)).index == 0


def piped(data: bytes, path: Path) -> threading.Thread:
    """Sends a video through the pipe at this path."""
    thread = threading.Thread(target=path.write_bytes, args=(data,), daemon=True)
    thread.start()
    return thread


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_video_through_a_pipe(avi, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    thread = piped(avi.read_bytes(), pipe)
    with Prefetch(open_source(pipe)) as source:
        assert source.source.read_once
        assert source.source.files == ()
        assert [frame.index for frame in source] == list(range(N_FRAMES))
    thread.join()
    piped(b"no video\n" * 9999, pipe)
    with pytest.raises(SourceError, match=r"pipe: not a video .* a pipe can carry \.ts and \.mkv"):
        open_source(pipe)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_waiting_for_a_pipe_can_be_interrupted(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("tracker.sources.base.check", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_source(tmp_path / "pipe")
    piped(b"", tmp_path / "pipe").join()  # the thread that waits ends


def test_video_on_standard_input(avi):
    code = """
from tracker.sources.open import open_source
with open_source("/dev/stdin") as source:
    print(sum(1 for _ in source))
"""
    done = subprocess.run([sys.executable, "-c", code], input=avi.read_bytes(), capture_output=True, timeout=240)
    assert (done.stdout, done.stderr) == (b"60\n", b"")


@pytest.mark.skipif(sys.platform != "linux", reason="device files of cameras are Linux")
def test_device_file_is_a_camera(tmp_path, monkeypatch):
    """By its path, or a link to it as in /dev/v4l/by-id."""
    link = tmp_path / "by-id"
    link.symlink_to("/dev/null")
    with pytest.raises(SourceError, match=r"by-id: cannot be opened: this device is no camera"):
        open_source(link)
    opened = []

    class Device(Camera):
        def __init__(self, *how: object) -> None:
            super().__init__(3, 0.01)
            opened.append(how)

        def isOpened(self) -> bool:  # noqa: N802 - the name that OpenCV gives it
            return True

    monkeypatch.setattr(cv2, "VideoCapture", Device)
    with open_source(link) as source:
        assert isinstance(source, LiveSource)
        assert next(iter(source)).index == 0
    assert opened == [(str(link), cv2.CAP_V4L2)]


def test_folder_of_videos_points_to_track_many(avi, tmp_path):
    for name in ("a.avi", "b.MP4"):
        shutil.copy(avi, tmp_path / name)
    for spec in (tmp_path, tmp_path / "*"):
        with pytest.raises(SourceError, match=r": 2 videos and no images; to track videos: track-many .* --out FOLDER"):
            open_source(spec)


def test_natural_order():
    names = ["img10.png", "img2.png", "IMG1.png", "a/b3", "a/b20", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "a/b3", "a/b20", "IMG1.png", "img2.png", "img10.png"]


def test_folder_and_glob_in_natural_order(tmp_path):
    for number in (10, 9, 1, 100):
        cv2.imwrite(str(tmp_path / f"img{number}.png"), picture(number))
    (tmp_path / "notes.txt").write_text("not an image")
    for spec in (tmp_path, tmp_path / "*.png", tmp_path / "*"):
        with open_source(spec, default_fps=10) as source:
            assert (source.fps, source.n_frames) == (0.0, 4)
            frames = list(source)
        assert [f.time_s for f in frames] == pytest.approx([0, 0.1, 0.2, 0.3])
        for frame, number in zip(frames, (1, 9, 10, 100), strict=True):
            assert np.array_equal(frame.image, picture(number))


def test_folder_without_images(tmp_path):
    with pytest.raises(SourceError, match="no images"):
        open_source(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_bad_image_is_skipped_and_the_others_keep_their_numbers(tmp_path, caplog, suffix, damage):
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.{suffix}"), picture(number))
    for number in (0, 3):
        bad = tmp_path / f"{number}.{suffix}"
        bad.write_bytes({"cut": bad.read_bytes()[:-200], "text": b"hello", "empty": b""}[damage])
    with Prefetch(ImageFolder(tmp_path, fps=10)) as source:
        seen = [(frame.index, frame.time_s) for frame in source]
    assert [index for index, _ in seen] == [1, 2, 4]
    assert [time_s for _, time_s in seen] == pytest.approx([0.1, 0.2, 0.4])
    first, last = caplog.messages
    assert first.startswith(f"{tmp_path.name}: frame 1 cannot be read ({tmp_path}/0.{suffix}: ")
    assert first.endswith("; skipped, later frames keep their numbers and times")
    assert last == f"{tmp_path.name}: damaged frames that were skipped: 2 of 5"


def test_folder_of_bad_images_is_an_error(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_text("no image")
    with pytest.raises(SourceError, match=r"0\.png: not an image of 8 or 16 bits"):
        open_source(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
@pytest.mark.parametrize(("black", "white"), [(0, 1023), (64, 4095), (7000, 9000), (40000, 42000)])
def test_sensor_values_in_16_bits_fill_the_range(tmp_path, caplog, suffix, black, white):
    """10, 12 and 14 bits, and a thermal camera's; a bright pixel more does not change the range."""
    rng = np.random.default_rng(0)
    raw = [np.linspace(black, white, 48 * 64).reshape(48, 64) + rng.normal(0, 1, (48, 64)) for _ in range(20)]
    raw[7][3, 3] = 65535
    for number, values in enumerate(raw):
        cv2.imwrite(str(tmp_path / f"{number}.{suffix}"), np.clip(values, 0, 65535).astype(np.uint16))
    with caplog.at_level("INFO"), open_source(tmp_path) as source:
        shown = np.stack([frame.image[..., 0] for frame in source]).astype(float)
    wanted = np.clip((np.stack(raw) - black) / (white - black), 0, 1) * 255
    assert shown.dtype == float
    assert np.abs(shown - wanted).max() < 3
    (said,) = caplog.messages
    assert "0." in said
    assert "16 bits a pixel; the values" in said


def test_images_of_all_16_bits_stay_as_they_are(tmp_path):
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    cv2.imwrite(str(tmp_path / "0.png"), values)
    with open_source(tmp_path) as source:
        image = next(iter(source)).image
    assert image.shape == (64, 64, 3)
    assert np.abs(image[..., 0].astype(int) - values // 256).max() <= 1


def test_dark_image_among_bright_ones_stays_dark(tmp_path):
    """The range is that of the sequence: no flicker, and images of 8 bits are not changed."""
    for number in range(6):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((48, 64), 1000 if number else 100, np.uint16))
    cv2.imwrite(str(tmp_path / "6.png"), np.full((48, 64), 77, np.uint8))
    with open_source(tmp_path) as source:
        assert [frame.image[0, 0, 0] for frame in source] == [0, *[255] * 5, 77]


def test_another_size_in_the_middle(tmp_path):
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number, width=WIDTH if number != 2 else 32))
    with open_source(tmp_path) as source, pytest.raises(SourceError, match=r"2\.png: the image is 32x48.*64x48"):
        list(source)


def test_mot_sequence(tmp_path):
    folder = write_sequence(tmp_path / "seq")
    (folder / "det").mkdir()
    (folder / "det" / "det.txt").touch()
    source = open_source(folder)
    assert isinstance(source, MotSequence)
    assert (source.sequence_name, source.fps, source.n_frames) == ("TEST-01", 20.0, 4)
    assert source.detections_path == folder / "det" / "det.txt"
    frames = list(source)
    assert [f.index for f in frames] == [0, 1, 2, 3]
    assert [f.time_s for f in frames] == pytest.approx([0, 0.05, 0.1, 0.15])
    for frame in frames:
        assert np.array_equal(frame.image, picture(frame.index + 1))


def test_mot_sequence_without_pictures(tmp_path):
    source = MotSequence(write_sequence(tmp_path / "seq", images=False))
    assert source.detections_path is None
    assert [(f.index, f.image, f.width, f.height) for f in source] == [(i, None, WIDTH, HEIGHT) for i in range(4)]


@pytest.mark.parametrize("key", ["frameRate", "seqLength", "imWidth", "imHeight"])
@pytest.mark.parametrize("value", [None, "", "abc", "0", "-3", "nan", "inf"])
def test_seqinfo_names_key_and_file(tmp_path, key, value):
    folder = write_sequence(tmp_path / "seq", images=False, **{key: value})
    with pytest.raises(SourceError, match=rf"seqinfo\.ini: .*{key}"):
        open_source(folder)


@pytest.mark.parametrize("text", ["", "rubbish", "[Other]\nframeRate=3", "[Sequence]\nname=a\nname=b"])
def test_malformed_seqinfo_is_an_error(tmp_path, text):
    (tmp_path / "seqinfo.ini").write_text(text)
    with pytest.raises(SourceError, match=r"seqinfo\.ini: ") as error:
        open_source(tmp_path)
    assert "\n" not in str(error.value)


def test_mot_sequence_skips_a_bad_image(tmp_path, caplog):
    folder = write_sequence(tmp_path / "seq")
    (folder / "img1" / "000002.png").write_text("no image")
    assert [(f.index, f.time_s) for f in MotSequence(folder)] == [(0, 0.0), (2, 0.1), (3, 0.15)]
    assert caplog.messages[-1] == "TEST-01: damaged frames that were skipped: 1 of 4"
    for path in (folder / "img1").iterdir():
        path.write_text("no image")
    with pytest.raises(SourceError, match=r"img1: none of the 4 images can be read"):
        list(MotSequence(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"imWidth": None}, {"imHeight": None, "imWidth": None}, {"seqLength": None}, {"imExt": None}, {"imExt": "png"},
        {"imExt": ".PNG"}, {"imExt": ".jpg"}, {"seqLength": None, "imWidth": None, "imHeight": None, "imExt": None},
    ],
)  # fmt: skip
def test_images_tell_what_seqinfo_leaves_out(tmp_path, caplog, changes):
    with open_source(write_sequence(tmp_path / "seq", **changes)) as source:
        assert (source.width, source.height, source.n_frames) == (WIDTH, HEIGHT, 4)
        assert [frame.index for frame in source] == [0, 1, 2, 3]
    assert caplog.messages == []


def test_seqinfo_without_frame_rate_takes_the_users(tmp_path):
    folder = write_sequence(tmp_path / "seq", frameRate=None)
    assert [frame.time_s for frame in open_source(folder, fps=2.0)] == [0, 0.5, 1, 1.5]
    with pytest.raises(SourceError, match=r"seqinfo\.ini: the key frameRate is missing in \[Sequence\]; give --fps"):
        open_source(folder)


@pytest.mark.parametrize(
    ("rename", "length", "frames", "pictures", "said"),
    [
        # renamed images, seqLength; indices of frames and numbers of their pictures; the warnings
        ({}, 2, [0, 1, 2, 3], [1, 2, 3, 4], ["says seqLength = 2, but the images go up to frame 4; all 4 images"]),
        ({}, 9, [0, 1, 2, 3], [1, 2, 3, 4], ["says seqLength = 9, but the images go up to frame 4; all 4 images"]),
        ({3: None}, 4, [0, 1, 3], [1, 2, 4], ["1 of 4 images are missing, the first is that of frame 3; these frames"]),
        ({4: None}, 4, [0, 1, 2], [1, 2, 3], ["says seqLength = 4, but the images go up to frame 3; all 3 images"]),
        ({4: 0}, 4, [0, 1, 2, 3], [4, 1, 2, 3], ["the images count from 0, so frame 1 is 000000.png"]),
        ({1: 5}, 4, [0, 1, 2, 3], [2, 3, 4, 1], ["the images count from 2, so frame 1 is 000002.png"]),
        ({1: 5}, 5, [1, 2, 3, 4], [2, 3, 4, 1], ["1 of 5 images are missing, the first is that of frame 1"]),
    ],
)  # fmt: skip
def test_images_are_right_where_seqinfo_says_otherwise(tmp_path, caplog, rename, length, frames, pictures, said):
    folder = write_sequence(tmp_path / "seq", seqLength=str(length))
    for number, other in rename.items():
        path = folder / "img1" / f"{number:06d}.png"
        path.unlink() if other is None else path.rename(folder / "img1" / f"{other:06d}.png")
    with open_source(folder) as source:
        assert source.n_frames == len(frames)
        found = list(source)
    assert [frame.index for frame in found] == frames
    assert [frame.time_s for frame in found] == pytest.approx([index / 20 for index in frames])
    for frame, number in zip(found, pictures, strict=True):
        assert np.array_equal(frame.image, picture(number))
    assert len(caplog.messages) == len(said)
    for message, words in zip(caplog.messages, said, strict=True):
        assert words in message
    assert length_of(folder) >= max(frames[-1] + 1, length)  # so that no box is refused


def test_image_folder_without_numbers_is_an_error(tmp_path):
    folder = write_sequence(tmp_path / "seq")
    for path in (folder / "img1").iterdir():
        path.rename(path.with_name(f"a{path.name}"))
    with pytest.raises(SourceError, match=r"img1: no images with a number as name, such as 000001\.png"):
        open_source(folder)


def test_mot_sequence_with_a_wrong_size(tmp_path):
    other = write_sequence(tmp_path / "other", imWidth="99")
    with open_source(other) as source, pytest.raises(SourceError, match=r"64x48, but seqinfo\.ini says 99x48"):
        list(source)


class Counting(FrameSource):
    """A source of n numbered frames without pictures, that may fail at the end."""

    name, fps, width, height, n_frames, live = "counting", 10.0, 4, 4, None, False

    def __init__(self, n: int, error: Exception | None = None, delay_s: float = 0.0) -> None:
        self.n, self.error, self.delay_s, self.made, self.closed = n, error, delay_s, 0, False

    def __iter__(self):
        for index in range(self.n):
            time.sleep(self.delay_s)
            self.made += 1
            yield Frame(index, index / self.fps, None, 4, 4)
        if self.error:
            raise self.error

    def close(self) -> None:
        self.closed = True


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch counting"]


@pytest.mark.parametrize("depth", [1, 2, 8])
@pytest.mark.parametrize("n", [0, 1, 8, 200])
def test_prefetch_equals_direct_iteration(n, depth):
    assert list(Prefetch(Counting(n), depth)) == list(Counting(n))


@pytest.mark.parametrize("n", [0, 1, 20])
def test_prefetch_raises_after_the_frames_before_the_error(n):
    seen = []
    error = SourceError("broke")
    with pytest.raises(SourceError) as caught:
        for frame in Prefetch(Counting(n, error), 4):
            seen.append(frame.index)
    assert caught.value is error
    assert seen == list(range(n))
    assert not prefetch_threads()


def test_prefetch_hanging_decoder_does_not_block_close():
    """As over a network: releasing a capture under a running read would crash."""
    back, closed = threading.Event(), threading.Event()

    class Hanging(Counting):
        def __iter__(self):
            yield from itertools.islice(super().__iter__(), 1)
            assert back.wait(60)

        def close(self):
            closed.set()

    with Prefetch(Hanging(5)) as ahead:
        next(iter(ahead))
    assert not closed.is_set()
    back.set()
    assert closed.wait(60)


def test_prefetch_reads_no_further_ahead_than_its_depth():
    source = Counting(1000)
    frames = iter(Prefetch(source, 5))
    next(frames)
    time.sleep(0.1)
    assert source.made <= 1 + 5 + 1  # taken, queued, in the hand of the thread


def test_leaving_early_ends_the_thread():
    source = Counting(100000, delay_s=0.005)
    with Prefetch(source) as ahead:
        for frame in ahead:
            if frame.index == 3:
                break
    assert source.made < 1000  # of so many that they take minutes
    assert source.closed
    assert not prefetch_threads()


def wait_until(met) -> None:
    limit_s = time.monotonic() + 120
    while not met():
        assert time.monotonic() < limit_s
        time.sleep(0.001)


class Camera:
    """Stands in for cv2.VideoCapture: frames with their number as brightness, then silence."""

    def __init__(self, n: int, period_s: float) -> None:
        self.n, self.period_s, self.given, self.released = n, period_s, 0, False

    def get(self, _: int) -> float:
        return 30.0

    def read(self):
        time.sleep(self.period_s)
        if self.given == self.n:
            return False, None
        self.given += 1
        return True, np.full((HEIGHT, WIDTH, 3), self.given, np.uint8)

    def release(self) -> None:
        self.released = True


def test_slow_reader_of_a_camera_gets_the_newest_frame():
    camera = Camera(10**6, 0.004)
    values, times, lag = [], [], []
    with LiveSource("0", capture=camera) as source:
        assert (source.live, source.n_frames, source.fps) == (True, None, 30.0)
        for frame in source:
            values.append(int(frame.image[0, 0, 0]))
            times.append(frame.time_s)
            slow = camera.given + 6
            wait_until(lambda slow=slow: camera.given >= slow)
            lag.append(camera.given)
            if frame.index == 5:
                break
    # Five times there are six more; one of them is given out, and one may be under way when the reader asks.
    assert source.dropped >= 5 * (6 - 2)
    # The next frame is not older than the read call.
    assert all(value >= before - 1 for value, before in zip(values[1:], lag[:-1], strict=True))
    # The clock is that of the camera, which takes its time for every frame, those that are dropped included.
    assert (np.diff(times) >= 0.003 * np.diff(values)).all()
    assert camera.released


def test_slow_reader_of_a_camera_gets_late_frames_where_it_asks_for_them():
    camera = Camera(60, 0.004)
    values, late = [], []
    with LiveSource("0", capture=camera, late_s=1e3, reconnect_s=0) as source, pytest.raises(SourceError):
        for frame in source:
            values.append(int(frame.image[0, 0, 0]))
            late.append(frame.late)
            if frame.index == 3:
                wait_until(lambda: camera.given == 60)
    assert values == list(range(values[0], 61))  # before the first one is taken, only the newest is kept
    assert source.dropped == values[0] - 1
    assert late[4:-1] == [True] * (len(late) - 5)
    assert not late[-1]


def test_camera_that_goes_away_is_an_error():
    values = []
    with LiveSource("0", capture=Camera(3, 0.01), reconnect_s=0) as source, pytest.raises(SourceError) as caught:
        for frame in source:
            values.append(int(frame.image[0, 0, 0]))
    assert values[-1] == 3
    assert str(caught.value).startswith(f"webcam 0: the stream ended after frame {len(values)} (")


def test_video_at_an_address_is_read_completely(avi):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = partial(Quiet, directory=str(avi.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with open_source(f"http://127.0.0.1:{server.server_port}/{avi.name}") as source:
            assert not source.live
            assert len(list(source)) == N_FRAMES
        server.shutdown()


@pytest.mark.data
def test_vtest_is_complete(data_root):
    path = data_root / "videos" / "vtest.avi"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    with Prefetch(open_source(path)) as source:
        assert sum(1 for _ in source) == 795
