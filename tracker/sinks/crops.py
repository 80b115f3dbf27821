"""The best few crops of every identity, as JPEG files with a table.

The folder has the layout of `reid crops`, so that `reid adapt --support`, `reid evaluate --data` and
`reid suggest-labels --crops` take it.
"""

from __future__ import annotations

import csv
import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from tracker import boxes as bx
from tracker.errors import OutputError, ResumeError, WriteError
from tracker.sinks.base import ClosedByWith
from tracker.sinks.crop_selection import (
    Album,
    Pick,
    albums_of,
    albums_state,
    inside,
    sharpness,
    sized,
    unhidden,
)
from tracker.sinks.side_file import Stash
from tracker.types import Frame, ImageArray, Source, State, Tracks

TABLE = "people.csv"
COLUMNS = ("image", "id", "camera", "frame", "time_s", "x1", "y1", "x2", "y2", "score", "quality")
PER_IDENTITY = 5
WRITE_AFTER_S = 10.0  # unseen for so long: most people do not come back, and their pictures need no memory
MIN_SIDE_PX = 8  # of the part inside the picture
JPEG_QUALITY = 95
_CROP_NAME = re.compile(r"[0-9]{4,18}_[0-9]{6,18}\.jpg")


class CropSink(ClosedByWith):
    """The best few crops of every identity, as pictures with a table.

    DIR/0007_000123.jpg: identity 7 in frame 123 (from 1); DIR/people.csv: a row for each.

    An identity's crops are on disk once it is unseen for 10 s, or when the sink closes; until then they are in memory,
    compressed, two times `per_identity` at most. Of somebody who comes back better ones may take their place. The
    pixels are those of the box inside the picture; only detected boxes are cut. camera: what the table calls the
    source. resume: see `sinks.base.Resumable`; the crops in memory lie in a file beside the folder meanwhile.
    """

    def __init__(
        self,
        folder: str | Path,
        overwrite: bool = False,
        *,
        camera: str = "video",
        per_identity: int = PER_IDENTITY,
        resume: State | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._camera = camera
        self._per_identity = per_identity
        self._albums: dict[int, Album] = {}  # of every identity so far
        self._seen_s: dict[int, float] = {}  # when identities with crops in memory were last seen
        self._outdated: set[str] = set()  # files whose place better ones took
        self._unsynced: list[str] = []  # files written since the last `state`
        self._stated: set[str] = set()  # files that `state` spoke of last,
        self._noted: set[str] = set()  # and those of the last checkpoint
        self._closed = False
        self._stash = Stash(self.folder, resume and resume["stash"])
        if resume is None:
            self._begin(overwrite)
        else:
            self._go_on(resume)

    def write(self, frame: Frame, tracks: Tracks) -> None:
        if frame.image is None:
            raise OutputError(f"{self.folder}: the source has no pictures, so there are no crops to cut; leave it out")
        clipped = bx.clip(tracks.xyxy, frame.width, frame.height)
        # The detector's score falls where a pole or a sign hides somebody, whom no other box covers.
        quality = unhidden(tracks.xyxy) * inside(tracks.xyxy, clipped) * sized(clipped) * tracks.score
        heights = tracks.xyxy[:, 3] - tracks.xyxy[:, 1]
        large = (clipped[:, 2:] - clipped[:, :2] >= MIN_SIDE_PX).all(axis=1)
        for row in np.flatnonzero(large & (tracks.source == Source.DETECTED)).tolist():
            album = self._albums.setdefault(int(tracks.id[row]), Album(2 * self._per_identity))
            best = float(quality[row]) * album.steadiness(frame.time_s, float(heights[row]))
            if album.wants(frame.time_s, best):  # sharpness can only lower it
                x1, y1, x2, y2 = np.rint(clipped[row]).astype(int).tolist()
                self._offer(frame, tracks[row], best, frame.image[y1:y2, x1:x2])
        self._seen_s.update({who: frame.time_s for who in tracks.id.tolist() if who in self._seen_s})
        for identity in [who for who, seen_s in self._seen_s.items() if frame.time_s - seen_s > WRITE_AFTER_S]:
            self._put_out(identity)

    def state(self) -> State:
        names = {name_of(who, pick): pick for who, pick in self._picks()}
        waiting = {name: pick.jpeg for name, pick in names.items() if pick.jpeg is not None}
        try:
            for name in self._unsynced:
                with (self.folder / name).open("rb+") as file:
                    os.fsync(file.fileno())
        except OSError as error:
            raise self._broken_off(error) from error
        self._unsynced = []
        self._stated = set(names) - set(waiting)
        return {
            "albums": albums_state(self._albums),
            "seen_s": [[who, seen_s] for who, seen_s in self._seen_s.items()],
            "outdated": sorted(self._outdated),
            "stash": self._stash.keep(waiting, lambda name: waiting[name]),
        }

    def noted(self) -> None:
        self._noted = self._stated
        self._stash.noted()

    def forget(self) -> None:
        self._noted = set()
        self._stash.forget()
        if self._closed:
            self._remove_outdated()

    def close(self) -> None:
        """Write what is still in memory, then the table anew: sorted, and without the crops that were replaced.

        Those stay on disk as long as a checkpoint counts on them.
        """
        if self._closed:
            return
        self._closed = True
        self._stash.close()
        try:
            for identity in list(self._seen_s):
                self._put_out(identity)
        finally:
            self._write_table()
        self._remove_outdated()

    def _begin(self, overwrite: bool) -> None:
        check_crops_folder(self.folder, overwrite)
        try:
            for path in _earlier(self.folder):
                path.unlink(missing_ok=True)
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be written: {error.strerror}") from error
        try:
            self._append_rows([COLUMNS])
        except OSError as error:
            with suppress(OSError):  # others' pictures keep the folder
                (self.folder / TABLE).unlink(missing_ok=True)
                self.folder.rmdir()
            raise self._broken_off(error) from error

    def _go_on(self, state: State) -> None:
        """Back to how the folder was when it gave this state."""
        waiting = {name_parts(name): jpeg for name, jpeg in self._stash.pieces().items()}
        self._albums = albums_of(state["albums"], 2 * self._per_identity, waiting)
        self._seen_s = dict(state["seen_s"])
        self._outdated = set(state["outdated"])  # they are taken away: a checkpoint is not to name anything else
        if foreign := next((name for name in self._outdated if not _CROP_NAME.fullmatch(name)), None):
            raise ResumeError(f"{self.folder}: the checkpoint names a file that is no crop, {foreign!r}")
        there = {name_of(who, pick): pick for who, pick in self._picks() if pick.jpeg is None}
        for name, pick in there.items():
            self._check_file(self.folder / name, pick)
        self._noted = set(there)
        for path in _earlier(self.folder):
            if path.name != TABLE and path.name not in there:  # it came after that
                path.unlink(missing_ok=True)
        self._write_table()

    def _check_file(self, path: Path, pick: Pick) -> None:
        try:
            same = zlib.crc32(path.read_bytes()) == pick.check
        except OSError as error:
            raise ResumeError(f"{path}: cannot be gone on with: {error.strerror}") from error
        if not same:
            raise ResumeError(
                f"{path}: was changed since the checkpoint, so the run cannot go on; --overwrite begins again"
            )

    def _picks(self) -> Iterator[tuple[int, Pick]]:
        """Identity and pick, of all."""
        for identity in sorted(self._albums):
            for pick in self._albums[identity].picks:
                yield identity, pick

    def _remove_outdated(self) -> None:
        for name in self._outdated - self._noted:
            (self.folder / name).unlink(missing_ok=True)

    def _offer(self, frame: Frame, person: Tracks, quality: float, crop: ImageArray) -> None:
        """Keep the crop of `person` (one row) if it is the best so far in its time; quality: without sharpness."""
        quality *= sharpness(crop)
        identity = int(person.id[0])
        album = self._albums[identity]
        if not album.wants(frame.time_s, quality):
            return
        x1, y1, x2, y2 = person.xyxy[0].tolist()
        score = float(person.score[0])
        out = album.add(Pick(frame.index + 1, frame.time_s, (x1, y1, x2, y2), score, quality, _encoded(crop)))
        self._forget(identity, out)
        self._seen_s[identity] = frame.time_s

    def _forget(self, identity: int, picks: Iterable[Pick]) -> None:
        self._outdated |= {name_of(identity, pick) for pick in picks if pick.jpeg is None}

    def _put_out(self, identity: int) -> None:
        """Choose among one identity's crops, and write those that are in memory."""
        del self._seen_s[identity]
        album = self._albums[identity]
        self._forget(identity, album.reduce(self._per_identity))
        fresh = [pick for pick in album.picks if pick.jpeg is not None]
        try:
            # Before the files: by the table a run that goes on finds what came after its checkpoint.
            self._append_rows(self._row(identity, pick) for pick in fresh)
            for pick in fresh:
                assert pick.jpeg is not None
                _write_whole(self.folder / name_of(identity, pick), pick.jpeg)
                self._unsynced.append(name_of(identity, pick))
                pick.check, pick.jpeg = zlib.crc32(pick.jpeg), None
        except OSError as error:
            raise self._broken_off(error) from error

    def _append_rows(self, rows: Iterable[Sequence[object]]) -> None:
        text = _csv_text(rows)
        with (self.folder / TABLE).open("a", encoding="utf-8", newline="") as stream:
            stream.write(text)

    def _write_table(self) -> None:
        rows = [self._row(identity, pick) for identity, pick in self._picks() if pick.jpeg is None]
        draft = self.folder / f"{TABLE}.part"
        try:
            draft.write_text(_csv_text([COLUMNS, *rows]), encoding="utf-8", newline="")
            os.replace(draft, self.folder / TABLE)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise self._broken_off(error) from error

    def _row(self, identity: int, pick: Pick) -> Sequence[object]:
        edges = [f"{edge:.2f}" for edge in pick.box]
        return (
            name_of(identity, pick), identity, self._camera, pick.frame, f"{pick.time_s:.6f}", *edges,
            f"{pick.score:.4f}", f"{pick.quality:.3f}",
        )  # fmt: skip

    def _broken_off(self, error: OSError) -> WriteError:
        return WriteError(f"{error.filename or self.folder}: cannot be written: {error.strerror}; others are there")


def check_crops_folder(folder: Path, overwrite: bool) -> None:
    """Raise OutputError if crops cannot go there."""
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder}: is a file; crops need a folder")
        if not folder.parent.is_dir():
            raise OutputError(f"{folder}: the folder {folder.parent} does not exist")
        if folder.is_dir() and any(folder.iterdir()):
            if not overwrite:
                raise OutputError(f"{folder}: is not empty; pass --overwrite to replace the crops in it")
            _earlier(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error


def name_of(identity: int, pick: Pick) -> str:
    return f"{identity:04d}_{pick.frame:06d}.jpg"


def name_parts(name: str) -> tuple[int, int]:
    """Identity and frame of the crop that `name_of` calls so."""
    identity, frame = name.removesuffix(".jpg").split("_")
    return int(identity), int(frame)


def remove_crops(folder: Path) -> None:
    """Take away what a sink wrote there, and the folder if nothing else is in it."""
    for path in _earlier(folder):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _write_whole(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError:
        path.unlink(missing_ok=True)  # half a picture
        raise


def _encoded(crop: ImageArray) -> bytes:
    import cv2

    _, jpeg = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return jpeg.tobytes()


def _csv_text(rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _earlier(folder: Path) -> list[Path]:
    """What an earlier run wrote, by its table, and nothing else: the folder may hold a user's own pictures.

    Raises OutputError if the table is not one of ours.
    """
    table = folder / TABLE
    if not table.is_file():
        return []
    try:
        header, *rows = csv.reader(io.StringIO(table.read_text(encoding="utf-8")))
    except (ValueError, csv.Error):  # no text, or no line of it
        header, rows = [], []
    if tuple(header) != COLUMNS:
        raise OutputError(f"{table}: was not written by track --crops, so it stays; give another folder")
    names = {row[0] for row in rows if row}
    foreign = next((name for name in names if not _CROP_NAME.fullmatch(name)), None)
    if foreign is not None:
        raise OutputError(f"{table}: names a file that is no crop, {foreign!r}, so all stays; give another folder")
    return [*(folder / name for name in names), table]
