"""Videos and folders with wrong headers, or changed while they are read: frames until there, then one line."""

from __future__ import annotations

import math
import shutil

import cv2
import numpy as np
import pytest

from tracker.errors import SourceError
from tracker.sources.images import ImageFolder
from tracker.sources.video import VideoFile

pytestmark = pytest.mark.robustness

N_FRAMES = 12


def picture(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), 20 * number, np.uint8)


@pytest.fixture(scope="module")
def avi(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("videos") / "video.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(N_FRAMES):
        video.write(picture(number))
    video.release()
    return path.read_bytes()


def read(source) -> tuple[list, str]:
    """The frames that were read, and the error message after them."""
    frames = []
    with source:
        try:
            frames.extend(source)
        except SourceError as error:
            return frames, str(error)
    return frames, ""


# part of the header, bytes from its start (AVI RIFF File Reference: MainAVIHeader, AVIStreamHeader)
FIELDS = {
    "microseconds per frame": (b"avih", 0), "number of frames": (b"avih", 16), "width": (b"avih", 32),
    "height": (b"avih", 36), "scale": (b"strh", 20), "rate": (b"strh", 24), "length": (b"strh", 32),
    "size of a picture": (b"strh", 36),
}  # fmt: skip


@pytest.mark.parametrize("value", [0, 1, 120, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("field", FIELDS)
def test_avi_with_a_wrong_header_gives_every_frame(avi, tmp_path, field, value):
    """Every frame comes, whatever the header says of their number, size and rate; times stay times."""
    part, offset = FIELDS[field]
    at = avi.index(part) + 8 + offset
    path = tmp_path / "lie.avi"
    path.write_bytes(avi[:at] + value.to_bytes(4, "little") + avi[at + 4 :])
    video = VideoFile(path)
    frames, said = read(video)
    assert len(frames) == N_FRAMES
    assert said == ""
    times = [frame.time_s for frame in frames]
    assert all(map(math.isfinite, times))
    assert times == sorted(times)
    assert video.fps >= 0


def test_mjpeg_of_two_sizes_gives_one_size_or_an_error(tmp_path):
    """Concatenated JPEG files, as some cameras record: the decoder scales them to one size, or it is an error."""
    path = tmp_path / "video.mjpeg"
    sizes = [(64, 48)] * 5 + [(32, 24)] * 5
    path.write_bytes(b"".join(cv2.imencode(".jpg", picture(n, *size))[1].tobytes() for n, size in enumerate(sizes)))
    frames, said = read(VideoFile(path))
    assert len(frames) >= 5
    assert {(frame.width, frame.height) for frame in frames} == {(64, 48)}
    assert all(frame.image.shape == (48, 64, 3) for frame in frames)
    assert len(frames) == 10 or f"{path}: " in said


def test_frame_of_another_size_is_an_error(avi, tmp_path, monkeypatch):
    """If the decoder does not scale them to one size."""
    (tmp_path / "video.avi").write_bytes(avi)
    video = VideoFile(tmp_path / "video.avi")
    plain = VideoFile._picture

    def cut(source):
        image = plain(source)
        return image if image is None or image[0, 0, 0] < 90 else image[:20]

    monkeypatch.setattr(VideoFile, "_picture", cut)
    frames, said = read(video)
    assert len(frames) == 5
    assert "frame 6 is 64x20, the frames before it are 64x48; all frames must have one size" in said


CHANGES = {
    "removed": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "no picture": lambda path: path.write_text("mine"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_image_changed_during_reading_is_skipped(tmp_path, caplog, change):
    for number in range(8):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    frames = []
    with ImageFolder(tmp_path) as folder:
        for frame in folder:
            frames.append(frame.index)
            if frame.index == 2:
                CHANGES[change](tmp_path / "5.png")
    assert frames == [0, 1, 2, 3, 4, 6, 7]
    assert f"frame 6 cannot be read ({tmp_path}/5.png: " in caplog.messages[0]
    assert all(map(str.isprintable, caplog.messages))


def test_image_of_another_size_is_an_error(tmp_path):
    for number in range(8):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    frames = []
    with ImageFolder(tmp_path) as folder, pytest.raises(SourceError, match=r"5\.png: the image is 10x10"):
        for frame in folder:
            frames.append(frame.index)
            cv2.imwrite(str(tmp_path / "5.png"), picture(1, 10, 10))
    assert frames == [0, 1, 2, 3, 4]


def test_video_removed_during_reading_is_complete_or_an_error(avi, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (place / "video.avi").write_bytes(avi)
    video = VideoFile(place / "video.avi")
    shutil.rmtree(place)
    frames, said = read(video)
    assert len(frames) == N_FRAMES or "video.avi: breaks off after frame" in said
