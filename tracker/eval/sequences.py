"""MOT sequence folders: where they are, and what their seqinfo.ini says."""

from __future__ import annotations

import configparser
from collections.abc import Sequence
from pathlib import Path

from tracker.eval.mot_files import MotFileError

TRUTH = Path("gt") / "gt.txt"
INFO = "seqinfo.ini"
_LARGEST = 1e9  # of frames, and of frames per second


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
    """Frames of the sequence by seqinfo.ini, None if it is not given."""
    length = info_of(sequence, "seqLength")
    if length is not None and length != int(length):
        raise MotFileError(f"{sequence / INFO}: seqLength must be a whole number, got {length:g}")
    return None if length is None else int(length)


def info_of(sequence: Path, key: str) -> float | None:
    """A number above 0 of seqinfo.ini, None if the file or the key is not there."""
    info = configparser.ConfigParser(interpolation=None)
    try:
        info.read(sequence / INFO, encoding="utf-8-sig")
        value = info.getfloat("Sequence", key, fallback=None)
    except (configparser.Error, ValueError, UnicodeDecodeError) as error:
        raise MotFileError(f"{sequence / INFO}: {' '.join(str(error).split())}") from error
    if value is not None and not 0 < value <= _LARGEST:
        raise MotFileError(f"{sequence / INFO}: {key} must be a number above 0 and at most {_LARGEST:g}, got {value:g}")
    return value
