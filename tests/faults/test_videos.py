"""Films and folders that lie about themselves, or change while they are read: frames until there, then one line."""

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
    path = tmp_path_factory.mktemp("films") / "film.avi"
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(N_FRAMES):
        film.write(picture(number))
    film.release()
    return path.read_bytes()


def read(source) -> tuple[list, str]:
    """The frames that came, and what was said then."""
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
def test_a_header_that_lies(avi, tmp_path, field, value):
    """Every frame comes, whatever the header says of their number, size and rate; times stay times."""
    part, offset = FIELDS[field]
    at = avi.index(part) + 8 + offset
    path = tmp_path / "lie.avi"
    path.write_bytes(avi[:at] + value.to_bytes(4, "little") + avi[at + 4 :])
    film = VideoFile(path)
    frames, said = read(film)
    assert len(frames) == N_FRAMES
    assert said == "" or "breaks off after frame 12 of" in said
    times = [frame.time_s for frame in frames]
    assert all(map(math.isfinite, times))
    assert times == sorted(times)
    assert film.fps >= 0


def test_a_film_whose_pictures_change_their_size(tmp_path):
    """JPEG files one behind the other, as some cameras record: the decoder brings them to one size, or it is said."""
    path = tmp_path / "film.mjpeg"
    sizes = [(64, 48)] * 5 + [(32, 24)] * 5
    path.write_bytes(b"".join(cv2.imencode(".jpg", picture(n, *size))[1].tobytes() for n, size in enumerate(sizes)))
    frames, said = read(VideoFile(path))
    assert len(frames) >= 5
    assert {(frame.width, frame.height) for frame in frames} == {(64, 48)}
    assert all(frame.image.shape == (48, 64, 3) for frame in frames)
    assert len(frames) == 10 or f"{path}: " in said


def test_a_frame_of_another_size_is_said(avi, tmp_path, monkeypatch):
    """Where the decoder does not bring them to one size."""
    (tmp_path / "film.avi").write_bytes(avi)
    film = VideoFile(tmp_path / "film.avi")
    plain = VideoFile._picture

    def cut(source):
        image = plain(source)
        return image if image is None or image[0, 0, 0] < 90 else image[:20]

    monkeypatch.setattr(VideoFile, "_picture", cut)
    frames, said = read(film)
    assert len(frames) == 5
    assert "frame 6 is 64x20, the frames before it are 64x48; all frames must have one size" in said


CHANGES = {
    "removed": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "another size": lambda path: cv2.imwrite(str(path), picture(1, 10, 10)),
    "no picture": lambda path: path.write_text("mine"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_that_changes_while_the_folder_is_read(tmp_path, change):
    for number in range(8):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    frames = []
    with ImageFolder(tmp_path) as folder, pytest.raises(SourceError, match=r"5\.png: ") as caught:
        for frame in folder:
            frames.append(frame.index)
            if frame.index == 2:
                CHANGES[change](tmp_path / "5.png")
    assert frames == [0, 1, 2, 3, 4]
    assert str(caught.value).isprintable()


def test_a_film_that_is_removed_while_it_is_read_comes_whole_or_says_so(avi, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (place / "film.avi").write_bytes(avi)
    film = VideoFile(place / "film.avi")
    shutil.rmtree(place)
    frames, said = read(film)
    assert len(frames) == N_FRAMES or "film.avi: breaks off after frame" in said
