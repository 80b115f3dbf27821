"""COCO JSON for videos: the lists videos, images, annotations, tracks and categories in one object.

The names are those of TAO (Dave et al., 2020, https://taodataset.org: track_id, frame_index, tracks) and of CocoVID
(instance_id, frame_id), which share the rest with COCO. `attributes` makes CVAT import the boxes as tracks.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tracker.sinks.base import ClosedByWith, PlainRow, class_name, plain_rows
from tracker.sinks.frame_file import FrameFile
from tracker.types import Frame, Source, Tracks

VIDEO_ID = 1
HEAD = '{"info":{"description":"tracks of people, by tracklet"},"licenses":[],"annotations":[\n'
TAIL = '\n],"images":[\n', '\n],"tracks":[\n', '\n],"categories":[\n', '\n],"videos":[\n', "\n]}\n"
SEPARATOR = ",\n"
# A box predicted because the detector skipped the frame is not occluded.
OCCLUDED = Source.OCCLUDED.name.lower()


class CocoVideoSink(ClosedByWith):
    """Annotations are written as they come, the other lists when the file closes.

    Room for those lists is reserved with each frame, so that on a full disk too the file closes as valid JSON of the
    frames before. In memory stay 16 bytes a frame and the identities. Pixels count from 0; image ids are frame numbers
    from 1, frame_index and frame_id count from 0. A class number c is category c + 1, for COCO's start at 1.

    name: of the video. class_names: by class number; 0 is a person unless it says otherwise.
    """

    def __init__(
        self,
        path: str | Path,
        overwrite: bool = False,
        *,
        name: str = "video",
        class_names: Mapping[int, str] | None = None,
    ) -> None:
        self._name = name
        self._class_names = class_names or {}
        self._frames = array("d")  # index and time_s of each, alternating: compact, and added to in one step
        self._size = (0, 0)  # width and height, which all frames share
        self._class_of: dict[int, int] = {}  # identity -> class when it was first seen
        self._classes: set[int] = set()
        self._n_rows = 0
        self._file: FrameFile | None = FrameFile(path, overwrite, seekable=True)
        self._end = len(HEAD)  # of the annotations; behind it the room for the other lists
        self._file.begin((HEAD + " " * _length(self._rest())).encode("ascii"))

    def write(self, frame: Frame, tracks: Tracks) -> None:
        assert self._file is not None
        rows = list(plain_rows(tracks))
        room = 0
        if not self._frames:
            self._size = (frame.width, frame.height)
            room += len(f"{frame.width}{frame.height}")  # the video's, which took room for 0 x 0
        records = [_dumps(self._annotation(frame, row, self._n_rows + n)) for n, row in enumerate(rows, start=1)]
        text = "".join((SEPARATOR if self._n_rows + n else "") + record for n, record in enumerate(records))
        new = {row.id: row.class_id for row in rows if row.id not in self._class_of}
        categories = {row.class_id for row in rows} - self._classes
        added = [self._image(frame.index, frame.time_s)]
        added += [self._track(identity, class_id) for identity, class_id in new.items()]
        added += [self._category(class_id) for class_id in categories]
        room += len(text) + sum(len(_dumps(row)) + len(SEPARATOR) for row in added)
        self._file.append(b" " * room, frame.index)
        self._file.put(self._end, text.encode("ascii"), frame.index)

        self._frames.extend((frame.index, frame.time_s))
        self._class_of |= new
        self._classes |= categories
        self._n_rows += len(rows)
        self._end += len(text)

    def close(self) -> None:
        """Write the other lists behind the annotations, within the room reserved for them."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            at = self._end
            for text in self._rest():
                file.put(at, text.encode("ascii"))
                at += len(text)
            file.cut(at)
        finally:
            file.close()

    def _rest(self) -> Iterator[str]:
        """Everything behind the annotations, in pieces."""
        frames = zip(self._frames[::2], self._frames[1::2], strict=True)
        yield TAIL[0]
        yield from _joined(self._image(int(index), time_s) for index, time_s in frames)
        yield TAIL[1]
        yield from _joined(self._track(identity, class_id) for identity, class_id in self._class_of.items())
        yield TAIL[2]
        yield from _joined(self._category(class_id) for class_id in sorted(self._classes))
        yield TAIL[3]
        yield _dumps(
            {
                "id": VIDEO_ID, "name": self._name, "width": self._size[0], "height": self._size[1],
                "neg_category_ids": [], "not_exhaustive_category_ids": [],
            }
        )  # fmt: skip
        yield TAIL[4]

    def _annotation(self, frame: Frame, row: PlainRow, number: int) -> dict[str, Any]:
        x1, y1, x2, y2 = row.xyxy
        width, height = round(x2 - x1, 2), round(y2 - y1, 2)
        return {
            "id": number, "image_id": frame.index + 1, "video_id": VIDEO_ID, "category_id": row.class_id + 1,
            "track_id": row.id, "instance_id": row.id, "bbox": [x1, y1, width, height],
            "area": round(width * height, 2), "segmentation": [], "iscrowd": 0, "score": row.score,
            "source": row.source,
            "attributes": {"track_id": row.id, "keyframe": True, "occluded": row.source == OCCLUDED},
        }  # fmt: skip

    def _image(self, index: int, time_s: float) -> dict[str, Any]:
        """file_name is what CVAT calls the frames of a video."""
        width, height = self._size
        return {
            "id": index + 1, "video_id": VIDEO_ID, "frame_index": index, "frame_id": index, "time_s": round(time_s, 6),
            "file_name": f"frame_{index:06d}.jpg", "width": width, "height": height,
        }  # fmt: skip

    def _track(self, identity: int, class_id: int) -> dict[str, Any]:
        return {"id": identity, "category_id": class_id + 1, "video_id": VIDEO_ID}

    def _category(self, class_id: int) -> dict[str, Any]:
        return {"id": class_id + 1, "name": class_name(class_id, self._class_names)}


def _dumps(row: Mapping[str, Any]) -> str:
    return json.dumps(row, separators=(",", ":"))


def _joined(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield (SEPARATOR if number else "") + _dumps(row)


def _length(texts: Iterator[str]) -> int:
    return sum(len(text) for text in texts)
