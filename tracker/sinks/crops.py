"""The best few crops of every identity, as JPEG files with a table.

The folder has the layout of `reid crops`, so that `reid adapt --support`, `reid evaluate --data` and
`reid suggest-labels --crops` take it.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from tracker import boxes as bx
from tracker.errors import OutputError, WriteError
from tracker.sinks.base import ClosedByWith, RunFacts, SinkOption
from tracker.sinks.crop_selection import Crop, CropSelection, inside, sharpness, sized, unoccluded
from tracker.types import Frame, ImageArray, Source, Tracks

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
    compressed, two times `per_identity` at most. If the person comes back, better ones may replace them. The pixels
    are those of the box inside the picture; only detected boxes are cut. camera: what the table calls the source.
    """

    def __init__(
        self,
        folder: str | Path,
        overwrite: bool = False,
        *,
        camera: str = "video",
        per_identity: int = PER_IDENTITY,
    ) -> None:
        self.folder = Path(folder)
        self._camera = camera
        self._per_identity = per_identity
        self._selections: dict[int, CropSelection] = {}  # of every identity so far
        self._seen_s: dict[int, float] = {}  # when identities with crops in memory were last seen
        self._outdated: set[str] = set()  # files that better ones replaced
        self._closed = False
        self._begin(overwrite)

    def write(self, frame: Frame, tracks: Tracks) -> None:
        if frame.image is None:
            raise OutputError(f"{self.folder}: the source has no pictures, so there are no crops to cut; leave it out")
        clipped = bx.clip(tracks.xyxy, frame.width, frame.height)
        # The detector's score falls where a pole or a sign covers a person.
        quality = unoccluded(tracks.xyxy) * inside(tracks.xyxy, clipped) * sized(clipped) * tracks.score
        heights = tracks.xyxy[:, 3] - tracks.xyxy[:, 1]
        large = (clipped[:, 2:] - clipped[:, :2] >= MIN_SIDE_PX).all(axis=1)
        for row in np.flatnonzero(large & (tracks.source == Source.DETECTED)).tolist():
            selection = self._selections.setdefault(int(tracks.id[row]), CropSelection(2 * self._per_identity))
            best = float(quality[row]) * selection.steadiness(frame.time_s, float(heights[row]))
            if selection.wants(frame.time_s, best):  # sharpness can only lower it
                x1, y1, x2, y2 = np.rint(clipped[row]).astype(int).tolist()
                self._offer(frame, tracks[row], best, frame.image[y1:y2, x1:x2])
        self._seen_s.update({identity: frame.time_s for identity in tracks.id.tolist() if identity in self._seen_s})
        gone = [identity for identity, seen_s in self._seen_s.items() if frame.time_s - seen_s > WRITE_AFTER_S]
        for identity in gone:
            self._save_crops(identity)

    def close(self) -> None:
        """Write the crops in memory, then the table again: sorted, and without the crops that were replaced."""
        if self._closed:
            return
        self._closed = True
        try:
            for identity in list(self._seen_s):
                self._save_crops(identity)
        finally:
            for name in self._outdated:  # before the table: a later run finds files by it
                (self.folder / name).unlink(missing_ok=True)
            self._write_table()

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
            with suppress(OSError):  # the folder may hold other files
                (self.folder / TABLE).unlink(missing_ok=True)
                self.folder.rmdir()
            raise self._write_error(error) from error

    def _crops(self) -> Iterator[tuple[int, Crop]]:
        """Identity and crop, of all identities."""
        for identity in sorted(self._selections):
            for crop in self._selections[identity].crops:
                yield identity, crop

    def _offer(self, frame: Frame, person: Tracks, quality: float, picture: ImageArray) -> None:
        """Keep the picture of `person` (one row) if it is the best of its time span; quality: without sharpness."""
        quality *= sharpness(picture)
        identity = int(person.id[0])
        selection = self._selections[identity]
        if not selection.wants(frame.time_s, quality):
            return
        x1, y1, x2, y2 = person.xyxy[0].tolist()
        score = float(person.score[0])
        replaced = selection.add(
            Crop(frame.index + 1, frame.time_s, (x1, y1, x2, y2), score, quality, _encoded(picture))
        )
        self._drop(identity, replaced)
        self._seen_s[identity] = frame.time_s

    def _drop(self, identity: int, crops: Iterable[Crop]) -> None:
        self._outdated |= {name_of(identity, crop) for crop in crops if crop.jpeg is None}

    def _save_crops(self, identity: int) -> None:
        """Choose among one identity's crops, and write those that are in memory."""
        del self._seen_s[identity]
        selection = self._selections[identity]
        self._drop(identity, selection.reduce(self._per_identity))
        fresh = [crop for crop in selection.crops if crop.jpeg is not None]
        try:
            # Before the files: by the table a resumed run finds and removes them.
            self._append_rows(self._row(identity, crop) for crop in fresh)
            for crop in fresh:
                assert crop.jpeg is not None
                _write_whole(self.folder / name_of(identity, crop), crop.jpeg)
                crop.jpeg = None
        except OSError as error:
            raise self._write_error(error) from error

    def _append_rows(self, rows: Iterable[Sequence[object]]) -> None:
        text = _csv_text(rows)
        with (self.folder / TABLE).open("a", encoding="utf-8", newline="") as stream:
            stream.write(text)

    def _write_table(self) -> None:
        rows = [self._row(identity, crop) for identity, crop in self._crops() if crop.jpeg is None]
        draft = self.folder / f"{TABLE}.part"
        try:
            draft.write_text(_csv_text([COLUMNS, *rows]), encoding="utf-8", newline="")
            os.replace(draft, self.folder / TABLE)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise self._write_error(error) from error

    def _row(self, identity: int, crop: Crop) -> Sequence[object]:
        edges = [f"{edge:.2f}" for edge in crop.box]
        return (
            name_of(identity, crop), identity, self._camera, crop.frame, f"{crop.time_s:.6f}", *edges,
            f"{crop.score:.4f}", f"{crop.quality:.3f}",
        )  # fmt: skip

    def _write_error(self, error: OSError) -> WriteError:
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


def name_of(identity: int, crop: Crop) -> str:
    return f"{identity:04d}_{crop.frame:06d}.jpg"


def _write_whole(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError:
        path.unlink(missing_ok=True)  # half a picture
        raise


def _encoded(picture: ImageArray) -> bytes:
    import cv2

    _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return jpeg.tobytes()


def _csv_text(rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _earlier(folder: Path) -> list[Path]:
    """Files of an earlier run, by its table, and no others: the folder may hold a user's own pictures.

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


def _open(path: str | None, run: RunFacts) -> CropSink:
    assert path is not None
    return CropSink(path, run.overwrite, camera=run.name)


CROPS = SinkOption(
    flags=("--crops",),
    metavar="DIR",
    help="the best few crops of every identity, with a table",
    open=_open,
    check_free=check_crops_folder,
    pictures="required",
)
