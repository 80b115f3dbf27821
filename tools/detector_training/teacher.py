"""A second opinion on the training pictures: another detector's boxes, written down once and merged with the labels.

Public labels leave people out, and pictures without labels are plenty. The teacher is an ONNX file of RTMDet's layout:
input (1, 3, H, W), outputs `dets` (1, N, 5) of x1, y1, x2, y2, score and `labels` (1, N), suppression inside. It looks
at each picture at several sizes, the smaller ones for people who fill the picture.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from reid_training.errors import DataError, ModelError
from reid_training.runs import replace_file
from tools.detector_training.ap import FloatArray, overlaps
from tools.detector_training.config import SourceConfig, TeacherConfig
from tools.detector_training.labels import Picture
from tools.detector_training.predict import fit
from tools.detector_training.scenes import ByteArray, read_image, read_sources
from tracker.boxes import nms
from tracker.runtime.onnx_session import open_session

COLUMNS = ("picture", "left", "top", "right", "bottom", "score")
# Of RTMDet's training, BGR.
MEAN, DEVIATION = np.array([103.53, 116.28, 123.675]), np.array([57.375, 57.12, 58.395])
NMS_IOU = 0.6
LEAST_SCORE = 0.1  # of a box that is written down
KNOWN_IOU = 0.3  # a box that overlaps a label this much says nothing new

Opinions = Mapping[str, FloatArray]  # by the picture's path below the data folder: (N, 5) box xyxy and score


class Teacher:
    """People in a picture, by a detector of RTMDet's layout. sides: the longer one of its inputs."""

    def __init__(self, path: Path, sides: Sequence[int], threads: int = 1) -> None:
        self.session = open_session(path, "cpu", threads)
        if [output.name for output in self.session.outputs] != ["dets", "labels"]:
            raise ModelError(f"{path}: a teacher has two outputs, dets and labels, as RTMDet's export has")
        self.sides = tuple(sides)

    def __call__(self, image: ByteArray) -> FloatArray:
        """(N, 5), best first, in pixels of the picture."""
        found = [self._look(image, side) for side in self.sides]
        rows = np.concatenate(found)
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        return np.asarray(rows[nms(rows[:, :4], rows[:, 4], NMS_IOU)])

    def _look(self, image: ByteArray, side: int) -> FloatArray:
        canvas, scale = fit(image, side)
        batch = ((canvas - MEAN) / DEVIATION).astype(np.float32).transpose(2, 0, 1)[None]
        dets, classes = self.session.run(np.ascontiguousarray(batch))
        rows = dets[0][(classes[0] == 0) & (dets[0][:, 4] >= LEAST_SCORE)].astype(np.float64)
        height, width = image.shape[:2]
        rows[:, :4] = np.clip(rows[:, :4] / scale, 0, [width, height, width, height])
        return np.asarray(rows[(rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])])


def label(teacher: Teacher, sources: Mapping[str, SourceConfig], data: Path, out: Path) -> int:
    """Writes the teacher's boxes on the pictures as CSV; a picture without any has one empty row.

    Sources without people are left out: there every box of the teacher is a mistake.
    """
    asked = {name: source for name, source in sources.items() if source.format != "no_people"}
    paths = sorted({picture.path for sides in read_sources(asked, data).values() for side in sides for picture in side})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for path in tqdm(paths, desc="labelling", unit=" pictures", disable=None):
        cv2.setNumThreads(1)
        name, rows = path.relative_to(data).as_posix(), teacher(read_image(path))
        for *box, score in rows.tolist():
            writer.writerow([name, *(f"{value:.1f}" for value in box), f"{score:.3f}"])
        if len(rows) == 0:
            writer.writerow([name, "", "", "", "", ""])
    replace_file(out, lambda stream: stream.write(text.getvalue().encode()))
    return len(paths)


def read_opinions(path: Path) -> dict[str, FloatArray]:
    found: dict[str, list[list[float]]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            for number, row in enumerate(csv.DictReader(stream), start=2):
                if None in row or None in row.values():
                    raise DataError(f"{path}:{number}: expected {', '.join(COLUMNS)}")
                boxes = found.setdefault(row["picture"], [])
                if row["score"]:
                    boxes.append([float(row[name]) for name in COLUMNS[1:]])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: no boxes of a teacher: {error!r}") from None
    return {name: np.array(boxes, dtype=np.float64).reshape(-1, 5) for name, boxes in found.items()}


def taught(
    pictures: Iterable[Picture], source: SourceConfig, opinions: Opinions, data: Path, config: TeacherConfig
) -> list[Picture]:
    """The pictures with what the teacher adds.

    Where all people are labelled, its unmatched confident boxes become ignored regions: the label may be missing. Where
    some are not, they become people, who count by their score, and its weaker boxes are ignored; the rest of such a
    picture then is background. A picture that the teacher has not seen stays as it is.
    """
    merged = []
    for picture in pictures:
        rows = opinions.get(picture.path.relative_to(data).as_posix())
        if rows is None:
            merged.append(picture)
            continue
        overlap, _ = overlaps(rows[:, :4], np.concatenate([picture.boxes, picture.ignored]))
        new = rows[overlap.max(1, initial=0.0) < KNOWN_IOU]
        sure = new[:, 4] >= config.person_score
        if source.complete:
            ignored = np.concatenate([picture.ignored, new[sure, :4]])
            merged.append(dataclasses.replace(picture, ignored=ignored))
            continue
        people, weak = new[sure], new[~sure & (new[:, 4] >= config.ignore_score)]
        merged.append(
            dataclasses.replace(
                picture,
                boxes=np.concatenate([picture.boxes, people[:, :4]]),
                ignored=np.concatenate([picture.ignored, weak[:, :4]]),
                outlines=picture.outlines and (*picture.outlines, *[None] * len(people)),
                weights=np.concatenate([picture.weights_or_ones(), np.minimum(people[:, 4] / config.full_score, 1.0)]),
                taught=True,
            )
        )
    return merged
