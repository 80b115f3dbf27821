"""MOT sequence folders: where they are, and what their seqinfo.ini says."""

from __future__ import annotations

import configparser
import re
from collections.abc import Sequence
from pathlib import Path

from tracker.eval.mot_files import MotFileError

TRUTH = Path("gt") / "gt.txt"
INFO = "seqinfo.ini"
_LARGEST = 1e9  # of frames, and of frames per second
_NUMBER = re.compile(r"[0-9]{1,8}")  # name of an image


def find_sequences(paths: Sequence[str]) -> list[Path]:
    """Sequence folders at and below the paths, sorted by name. Raises MotFileError for a path without one."""
    found: dict[str, Path] = {}
    for text in paths:
        path = Path(text).resolve()
        if not path.is_dir():
            raise MotFileError(f"{text}: no such folder")
        if (path / "gt").is_dir() or (path / INFO).is_file():
            inside = [path]
        else:
            inside = sorted(
                {file.parents[1] for depth in ("*", "*/*") for file in path.glob(f"{depth}/{TRUTH}")}
                | {file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/{INFO}")}
            )
        if not inside:
            raise MotFileError(f"{text}: neither a sequence (with {INFO} or {TRUTH}) nor a folder of sequences")
        for sequence in inside:
            if found.setdefault(sequence.name, sequence) != sequence:
                raise MotFileError(f"two sequences are called {sequence.name}: {found[sequence.name]} and {sequence}")
    return [found[name] for name in sorted(found)]


def length_of(sequence: Path) -> int | None:
    """Frames of the sequence by seqinfo.ini, or by its images where they are more; None if neither tells."""
    length = info_of(sequence, "seqLength")
    if length is not None and length != int(length):
        raise MotFileError(f"{sequence / INFO}: seqLength must be a whole number, got {length:g}")
    folder = sequence / (_read(sequence).get("Sequence", "imDir", fallback="img1").strip() or "img1")
    try:
        images = list(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise MotFileError(f"{folder}: cannot be read: {error.strerror}") from error
    numbers = [int(path.stem) for path in images if _NUMBER.fullmatch(path.stem)]
    last = max(numbers, default=0) + (0 in numbers)  # images may count from 0
    return max(last, int(length or 0)) or None


def info_of(sequence: Path, key: str) -> float | None:
    """A number above 0 of seqinfo.ini, None if the file or the key is not there."""
    try:
        value = _read(sequence).getfloat("Sequence", key, fallback=None)
    except (configparser.Error, ValueError) as error:
        raise MotFileError(f"{sequence / INFO}: {' '.join(str(error).split())}") from error
    if value is not None and not 0 < value <= _LARGEST:
        raise MotFileError(f"{sequence / INFO}: {key} must be a number above 0 and at most {_LARGEST:g}, got {value:g}")
    return value


def _read(sequence: Path) -> configparser.ConfigParser:
    info = configparser.ConfigParser(interpolation=None)
    try:
        info.read(sequence / INFO, encoding="utf-8-sig")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise MotFileError(f"{sequence / INFO}: {' '.join(str(error).split())}") from error
    return info
