"""Find the videos, plan where their results go, and record which are finished."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tracker.errors import OutputError, SourceError, WriteError
from tracker.runtime.safe_paths import leaves_folder
from tracker.sources.video import VIDEO_SUFFIXES

RECORD_NAME = "track-many.json"
DONE, FAILED = "done", "failed"


@dataclass(frozen=True, slots=True)
class Video:
    """One task: a source and the file that its tracks go to."""

    source: Path
    out: Path

    @property
    def log(self) -> Path:
        """The output of `track` for this video."""
        return self.out.with_name(self.out.name + ".log")

    @property
    def part(self) -> Path:
        """The incomplete result. It has the ending of the result, which chooses the format."""
        return self.out.with_name(f".{self.out.stem}.part{self.out.suffix}")


@dataclass(slots=True)
class Entry:
    """One video in the record."""

    status: str  # DONE or FAILED
    asked: str  # digest of the options and of the video's size and time
    seconds: float = 0.0
    attempts: int = 1
    error: str = ""


def find_videos(names: Sequence[str], recursive: bool = True) -> list[tuple[Path, Path]]:
    """(video, its place below the folder that was named) of all files and folders named, sorted.

    A folder with a seqinfo.ini is a MOT sequence and counts as a video. Raises SourceError for a name that does not
    exist, and for a folder without videos.
    """
    found: dict[Path, Path] = {}
    for name in names:
        path = Path(name).expanduser()
        if not path.exists():
            raise SourceError(f"{name}: no such file or folder; give videos, or folders that hold some")
        if path.is_file() or is_sequence(path):
            found.setdefault(path.resolve(), Path(path.name))
            continue
        inside = _below(path, recursive)
        if not inside:
            raise SourceError(f"{name}: holds no videos ({', '.join(sorted(VIDEO_SUFFIXES))}) and no MOT sequences")
        for video in inside:
            found.setdefault(video.resolve(), video.relative_to(path))
    return sorted(found.items(), key=lambda pair: (str(pair[1]), str(pair[0])))


def is_sequence(folder: Path) -> bool:
    return (folder / "seqinfo.ini").is_file()


def _below(folder: Path, recursive: bool) -> list[Path]:
    inside = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if is_sequence(path) or (path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES):
            inside.append(path)
        elif recursive and path.is_dir():
            inside += _below(path, recursive)
    return inside


def plan(found: Sequence[tuple[Path, Path]], out: Path, ending: str) -> list[Video]:
    """Where the result of each video goes: its place below `out`, with another ending.

    Two videos that differ in their ending alone keep it: a.mp4.txt and a.avi.txt. Raises SourceError where two would
    still have one result.
    """
    places = [place.with_suffix("") if source.is_file() else place for source, place in found]
    often = Counter(places)
    videos = []
    taken: dict[Path, Path] = {}
    for (source, place), short in zip(found, places, strict=True):
        name = place if often[short] > 1 else short
        result = out / name.with_name(name.name + ending)
        if result in taken:
            raise SourceError(f"{taken[result]} and {source} would both be written to {result}; rename one of them")
        taken[result] = source
        videos.append(Video(source, result))
    return videos


class Record:
    """track-many.json in the folder of results: what is done, what failed and why. Rewritten after every video."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        """Raises OutputError if there is a record that cannot be read."""
        self.path = folder / RECORD_NAME
        self._folder = folder
        self._options = list(options)
        self.entries: dict[str, Entry] = {}
        if self.path.is_file():
            self.entries = _read(self.path)

    def asked(self, video: Video) -> str:
        """Digest of everything that decides the result, except the program itself."""
        facts: list[Any] = [self._options, str(video.source.resolve())]
        for path in [video.source, *([video.source / "seqinfo.ini"] if video.source.is_dir() else [])]:
            try:
                stat = path.stat()
            except OSError as error:  # it was there when the videos were looked for
                raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
            facts += [stat.st_size if path.is_file() else 0, stat.st_mtime_ns]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def is_done(self, video: Video) -> bool:
        """Finished with the same options, from the same file, and the result is there."""
        entry = self.entries.get(self._key(video))
        done = entry is not None and entry.status == DONE and entry.asked == self.asked(video)
        return done and video.out.is_file()

    def put(self, video: Video, entry: Entry) -> None:
        self.entries[self._key(video)] = entry
        text = json.dumps({key: asdict(value) for key, value in sorted(self.entries.items())}, indent=1) + "\n"
        draft = self.path.with_name(self.path.name + ".draft")
        try:
            draft.write_text(text, encoding="utf-8")
            os.replace(draft, self.path)
        except OSError as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise WriteError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _key(self, video: Video) -> str:
        return video.out.relative_to(self._folder).as_posix()


def _read(path: Path) -> dict[str, Entry]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        outside = next((key for key in table if leaves_folder(key)), None)
        if outside is not None:
            raise ValueError(f"{outside!r} lies outside its folder")
        return {key: Entry(**value) for key, value in table.items()}
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise OutputError(f"{path}: is damaged ({error}); remove it, and every video is tracked again") from error
