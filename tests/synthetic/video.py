"""A small generated video with its detections, and the arguments of `track` for it with motion alone."""

from __future__ import annotations

from pathlib import Path

from tests.synthetic.mot import make_scene, write_sequence


def write_video(
    folder: Path, seed: int = 4, *, n_people: int = 4, n_frames: int = 30, width: int = 160, height: int = 120
) -> Path:
    """Write video.avi and SYN-01, the same frames as a MOT sequence, into the folder; returns the folder."""
    scene = make_scene(seed, n_people=n_people, n_frames=n_frames, width=width, height=height)
    write_sequence(scene, folder / "SYN-01", video=folder / "video.avi")
    return folder


def motion_only(folder: Path) -> list[str]:
    """The options of `track` for a video of this folder: its detections and no appearance."""
    return ["--detections", str(folder / "SYN-01" / "det" / "det.txt"), "--reid", "none"]


def write_damaged(video: Path, path: Path, *numbers: int) -> Path:
    """A copy of an .avi file in which the frames with these numbers, from 1, have no content."""
    data = bytearray(video.read_bytes())
    place, number = data.index(b"movi") + 4, 0
    while data[place : place + 4] == b"00dc":
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        number += 1
        if number in numbers:
            data[place + 8 : place + 8 + size] = bytes(size)
        place += 8 + size + size % 2
    assert number >= max(numbers)
    path.write_bytes(data)
    return path
