"""Videos that are damaged, cut off, or announce more than they show: numbers and times of what is left are right."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from pathlib import Path

import pytest

from tracker.errors import SourceError
from tracker.sources.container import read_container
from tracker.sources.span import Span
from tracker.sources.video import VideoFile

pytestmark = pytest.mark.skipif(
    shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None, reason="ffmpeg and ffprobe make the videos"
)

FPS, N_FRAMES = 25, 60
# Frame n is 20 + 3 n bright, of 16 to 235.
FILM = f"color=black:size=64x48:rate={FPS},geq=lum='20+3*N':cb=128:cr=128"
CODECS = {
    "mjpeg": ["-c:v", "mjpeg", "-q:v", "2"],
    "mpeg4": ["-c:v", "mpeg4", "-g", "10", "-bf", "2", "-q:v", "2"],
    "h264": ["-c:v", "libx264", "-g", "10", "-bf", "2", "-pix_fmt", "yuv420p"],
}


def ffmpeg(*words: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, words)], check=True, timeout=120)


def copied(source: Path, name: str, *words: str) -> Path:
    """The video with its frames as they are, in another container or with other stamps."""
    path = source.with_name(name)
    ffmpeg("-i", source, "-c", "copy", *words, path)
    return path


def zeroed(source: Path, name: str, *numbers: int) -> Path:
    """The video without the content of these frames, counted from 0 in the order of the file."""
    words = ["-show_entries", "packet=pos,size", "-of", "json", str(source)]
    probed = subprocess.run(["ffprobe", "-v", "error", *words], check=True, capture_output=True, timeout=120)
    packets, data = json.loads(probed.stdout)["packets"], bytearray(source.read_bytes())
    head = 8 if source.suffix == ".avi" else 0  # of the chunk
    for number in numbers:
        start, size = int(packets[number]["pos"]) + head, int(packets[number]["size"]) - head
        data[start : start + size] = bytes(size)
    path = source.with_name(name)
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    made = {}
    for codec, words in CODECS.items():
        made[codec] = folder / f"{codec}.mp4"
        ffmpeg("-f", "lavfi", "-i", FILM, "-frames:v", str(N_FRAMES), *words, "-movflags", "faststart", made[codec])
    made["avi"], made["mkv"] = folder / "mjpeg.avi", folder / "mjpeg.mkv"
    ffmpeg("-i", made["mjpeg"], *CODECS["mjpeg"], made["avi"])  # a copy would announce twice the rate
    ffmpeg("-i", made["mjpeg"], "-c", "copy", made["mkv"])
    return made


def read(path: Path, **how) -> list[int]:
    """Indices of the frames, after a check that picture and time are those of the number."""
    indices = []
    with VideoFile(path, **how) as video:
        for frame in video:
            assert frame.time_s == pytest.approx(frame.index / FPS, abs=1e-3)
            shown = (frame.image.mean() * 219 / 255 + 16 - 20) / 3
            assert abs(shown - frame.index) < 0.7
            indices.append(frame.index)
    return indices


def left(*gone: int) -> list[int]:
    return [index for index in range(N_FRAMES) if index not in gone]


# ------------------------------------------------------------------------------------ headers that count too much


def test_film_that_begins_before_its_first_shown_frame(videos, caplog):
    """An edit list hides the frames from the key frame to the place of the cut."""
    path = videos["h264"].with_name("part.mp4")
    ffmpeg("-ss", "1.35", "-i", videos["h264"], "-c", "copy", path)
    with caplog.at_level(logging.INFO), VideoFile(path) as video:
        assert video.n_frames == 26  # frames 34 to 59
        assert [frame.index for frame in video] == list(range(26))
    assert caplog.messages == []


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_film_that_begins_between_key_frames(videos, caplog, ending):
    path = copied(videos["h264"], f"between.{ending}", "-bsf:v", r"noise=drop=lt(n\,3)")
    with VideoFile(path) as video:
        assert [(frame.index, round(frame.time_s * FPS)) for frame in video] == [(n, n) for n in range(50)]
    assert len(caplog.messages) <= 1
    assert all("frames, 50 can be shown" in said for said in caplog.messages)


@pytest.mark.parametrize("kind", ["mjpeg", "avi", "mkv"])
def test_film_that_is_cut_off_is_an_error(videos, kind):
    whole = videos[kind]
    path = whole.with_name(f"cut{whole.suffix}")
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    assert not read_container(whole).ends_early
    indices = []
    with VideoFile(path) as video, pytest.raises(SourceError, match=r"breaks off after frame \d+ of 60: .* cut off"):
        indices.extend(frame.index for frame in video)
    with VideoFile(path, span=Span(end_index=10)) as video:
        assert len(list(video)) == 10


def test_container_that_is_damaged_counts_as_whole(tmp_path, videos):
    data = videos["mjpeg"].read_bytes()
    for place in range(0, 2000, 7):
        (tmp_path / "source.mp4").write_bytes(data[:place] + b"\xff" * 5 + data[place + 5 :])
        assert 0 <= read_container(tmp_path / "source.mp4").shown <= 1
    for content in (b"", b"RIFF", b"RIFF\0\0\0\0AVI ", b"\x1a\x45\xdf\xa3", b"\x1a\x45\xdf\xa3\x01" + b"\xff" * 40):
        (tmp_path / "source.mp4").write_bytes(content)
        assert not read_container(tmp_path / "source.mp4").ends_early


# ------------------------------------------------------------------------------------------------- damaged frames


@pytest.mark.parametrize("kind", ["mjpeg", "avi"])
@pytest.mark.parametrize("gone", [[30], [0, 1, 2], [*range(20, 40)], [0, 10, 11, 50]])
def test_damaged_frames_are_skipped(videos, caplog, kind, gone):
    source = zeroed(videos[kind], f"damaged{videos[kind].suffix}", *gone)
    assert read(source) == left(*gone)
    first, last = caplog.messages
    assert f"{source.name}: frame" in first
    assert last == f"{source.name}: damaged frames that were skipped: {len(gone)} of {N_FRAMES}"


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
@pytest.mark.parametrize("gone", [[0], [30], [34], [*range(23, 37)], [*range(12)]])
def test_damaged_stretch_with_predicted_frames(videos, caplog, codec, gone):
    """Frames that depend on a damaged one are lost with it or shown with traces of it; those from the next key frame on
    are right."""
    with VideoFile(zeroed(videos[codec], "damaged.mp4", *gone)) as video:
        found = [(frame.index, round(frame.time_s * FPS)) for frame in video]
    assert all(index == ticks for index, ticks in found)
    indices = [index for index, _ in found]
    assert indices == sorted(set(indices))
    after = (gone[-1] // 10 + 2) * 10
    assert set(range(after, N_FRAMES)) <= set(indices)
    assert caplog.messages[-1].startswith("damaged.mp4: damaged frames that were skipped: ")


def test_damaged_frames_in_a_part_and_after_a_resume(videos):
    source = zeroed(videos["mjpeg"], "damaged.mp4", 5, 30)
    assert read(source, span=Span(10, stride=5)) == [10, 15, 20, 25, 35, 40, 45, 50, 55]
    with VideoFile(source) as video:
        video.go_on_after(28)
        assert [frame.index for frame in video] == [29, *range(31, N_FRAMES)]
    with VideoFile(source, fps=10) as video:
        assert [frame.time_s for frame in video] == pytest.approx([n / 10 for n in left(5, 30)])


def test_film_with_a_hole_is_said_to_have_one(videos, caplog):
    """Packets that never arrived: the decoder reports nothing. Times are right, frames are numbered as they come."""
    whole = copied(videos["h264"], "whole.ts")
    data = whole.read_bytes()
    n = len(data) // 188
    hole = whole.with_name("hole.ts")
    hole.write_bytes(data[: 188 * (n // 3)] + data[188 * (n * 2 // 3) :])
    with VideoFile(hole) as video:
        found = [(frame.index, frame.time_s, (frame.image.mean() * 219 / 255 + 16 - 20) / 3) for frame in video]
    assert [index for index, _, _ in found] == list(range(len(found)))
    assert N_FRAMES / 3 < len(found) < N_FRAMES * 0.9
    assert sum(abs(time_s * FPS - shown) < 0.7 for _, time_s, shown in found) > 0.9 * len(found)
    assert caplog.messages[-1] == (
        f"hole.ts: {N_FRAMES - len(found)} of {N_FRAMES} frames are missing in the file; later frames are numbered "
        "without them, their times are right"
    )


def test_film_with_damaged_end_is_no_error(videos, caplog):
    assert read(zeroed(videos["mjpeg"], "damaged.mp4", *range(50, 60))) == list(range(50))
    assert caplog.messages == ["damaged.mp4: the header announces 60 frames, 50 can be shown"]


def test_film_of_damaged_frames_is_an_error(videos):
    with pytest.raises(SourceError, match="without a single frame that can be decoded"):
        VideoFile(zeroed(videos["mjpeg"], "damaged.mp4", *range(N_FRAMES)))


# ----------------------------------------------------------------------------------------------------- time stamps


@pytest.mark.parametrize(
    "stamps", ["if(eq(N,30),PREV_OUTPTS,TS)", "if(eq(N,30),TS-400,TS)", "if(between(N,30,45),0,TS)"]
)
def test_wrong_stamps_leave_the_others_right(videos, stamps):
    source = copied(videos["mkv"], "stamps.mkv", "-bsf:v", f"setts=ts='{stamps}'")
    assert read(source) == list(range(N_FRAMES))
    assert read(source, span=Span(end_s=2.0)) == list(range(50))
