"""Crops of people from the ground truth of MOTChallenge sequences, with the table that `--data` takes.

MOT16, MOT17 and MOT20: `frame, id, left, top, width, height, consider, class, visibility`; class 1 with consider 1 is
a pedestrian that counts. MOT15: ten columns without class and visibility. Coordinates are 1-based pixels.
"""

from __future__ import annotations

import configparser
import contextlib
import csv
import logging
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from reid_training.data.base import ByteArray, IntArray, decode
from reid_training.errors import ConfigError, DataError, not_written
from tracker.runtime.safe_paths import leaves_folder

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
TABLE = "people.csv"
PEDESTRIAN, REFLECTION = 1, 12  # classes of MOT16
NAME = re.compile(r"[0-9]{1,18}")  # of a picture: its frame's number
SUFFIXES = {".jpg", ".jpeg", ".png"}
JPEG_QUALITY = 95
LARGEST = 1e9  # neither frames nor people nor pixels count further; sums of greater numbers overflow
# Videos that MOT15 and MOT16/17 share, by their number in MOT16/17; PETS09-S2L1 is OpenCV's vtest.avi.
OTHER_NAMES = {"Venice-2": "02", "ETH-Pedcross2": "05", "ADL-Rundle-6": "09", "ADL-Rundle-8": "10"}
NUMBERED = re.compile(r"MOT(?P<year>16|17)-(?P<number>\d\d)(-(DPM|FRCNN|SDP))?")


@dataclass(frozen=True, slots=True)
class CropRules:
    """Which boxes become crops."""

    min_visibility: float = 0.5  # below it, most of the crop shows another person
    every: int = 1  # frames; neighbours hardly differ
    min_height_px: int = 32  # of the part inside the picture
    margin: float = 0.0  # added on each side, of the box's side

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_visibility <= 1.0:
            raise ConfigError(f"--min-visibility must be in [0, 1], got {self.min_visibility}")
        if self.every < 1:
            raise ConfigError(f"--every must be >= 1, got {self.every}")
        if self.min_height_px < 1:
            raise ConfigError(f"--min-height must be >= 1, got {self.min_height_px}")
        if not 0.0 <= self.margin <= 1.0:
            raise ConfigError(f"--margin must be in [0, 1], got {self.margin}")


@dataclass(frozen=True, slots=True)
class Truth:
    """Ground truth of a sequence, sorted by frame. Other classes are included, because they can occlude a person."""

    frames: IntArray  # (N,) from 1
    pids: IntArray  # (N,)
    boxes: FloatArray  # (N, 4) xyxy, 0-based pixels, x right, y down; may reach beyond the picture
    counts: npt.NDArray[np.bool_]  # (N,) a pedestrian that counts
    solid: npt.NDArray[np.bool_]  # (N,) can be an occluder
    visibility: FloatArray  # (N,) share of the box that is seen; nan = not in the file


@dataclass(frozen=True, slots=True)
class MotFolder:
    name: str
    truth: Path
    images: dict[int, Path]  # frame number -> file; empty: the images are not here


def video_of(name: str) -> str:
    """The same text for all names of one video: MOT16-09, MOT17-09-FRCNN and ADL-Rundle-6 are 09."""
    match = NUMBERED.fullmatch(name)
    return match["number"] if match else OTHER_NAMES.get(name, name)


def other_names(name: str) -> list[str]:
    """Other names of the same video."""
    video = video_of(name)
    names = [f"MOT16-{video}", f"MOT17-{video}"] if video.isdecimal() else []
    names += [old for old, number in OTHER_NAMES.items() if number == video]
    names += ["vtest.avi"] if name == "PETS09-S2L1" else []
    match = NUMBERED.fullmatch(name)
    own = f"MOT{match['year']}-{match['number']}" if match else name
    return [other for other in names if other != own]


def find_sequences(root: Path) -> list[MotFolder]:
    """The folder itself if it is a sequence, else all sequences at any depth below it, by name."""
    if not root.is_dir():
        raise DataError(f"no folder {root}")
    truths = sorted(root.rglob("gt/gt.txt"), key=lambda path: path.parts)
    if not truths:
        raise DataError(f"{root}: no MOT sequence (a folder with gt/gt.txt) here or below")
    return [MotFolder(path.resolve().parent.parent.name, path, _find_images(path.parent.parent)) for path in truths]


def _find_images(folder: Path) -> dict[int, Path]:
    info = configparser.ConfigParser(interpolation=None)
    try:
        info.read(folder / "seqinfo.ini", encoding="utf-8-sig")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise DataError(f"{folder / 'seqinfo.ini'} is not an ini file: {' '.join(str(error).split())}") from None
    name = info.get("Sequence", "imDir", fallback="img1").strip()
    if leaves_folder(name):
        raise DataError(f"{folder / 'seqinfo.ini'}: imDir must be a folder inside the sequence's, got {name!r}")
    images = folder / name
    try:
        if not images.is_dir():
            return {}
        files = [path for path in images.iterdir() if path.suffix.lower() in SUFFIXES and NAME.fullmatch(path.stem)]
    except OSError as error:
        raise DataError(f"cannot read {images}: {error.strerror}") from None
    return {int(path.stem): path for path in files}


def choose_sequences(found: Sequence[MotFolder], names: Sequence[str], excluded: Sequence[str]) -> list[MotFolder]:
    """The named ones, or all: without the videos of `excluded`, each video once, only those with images."""
    known = {sequence.name for sequence in found}
    for name in names:
        if name not in known:
            raise DataError(f"no sequence {name}; found: {', '.join(sorted(known))}")
    forbidden = {video_of(name): name for name in excluded}
    missed = set(forbidden) - {video_of(name) for name in known}
    for video in sorted(missed):
        logger.info("%s: nothing to exclude, no sequence here is that video", forbidden[video])
    chosen: dict[str, MotFolder] = {}
    # MOT17 first: its ground truth of the same videos is the better one.
    for sequence in sorted(found, key=lambda sequence: (not sequence.name.startswith("MOT17"), sequence.name)):
        video = video_of(sequence.name)
        if names and sequence.name not in names:
            continue
        if video in forbidden:
            logger.info("%s: excluded%s", sequence.name, _same_as(sequence.name, forbidden[video]))
        elif not sequence.images and sequence.name in names:
            raise DataError(f"{sequence.name}: no images beside {sequence.truth}")
        elif not sequence.images:
            logger.info("%s: left out, no images beside its ground truth", sequence.name)
        elif video in chosen:
            logger.info("%s: left out%s", sequence.name, _same_as(sequence.name, chosen[video].name))
        else:
            chosen[video] = sequence
    if not chosen:
        raise DataError("no sequence is left to cut crops from")
    return sorted(chosen.values(), key=lambda sequence: sequence.name)


def _same_as(name: str, other: str) -> str:
    return "" if name == other else f", the same video as {other}"


def read_truth(path: Path) -> Truth:
    """Ground truth in the columns of MOT15 or MOT16; every mistake is named with its line."""
    rows: list[tuple[float, ...]] = []
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for line, text in enumerate(stream, start=1):
                if text.strip():
                    rows.append(_parse_line(text, f"{path}, line {line}"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text file") from None
    if not rows:
        raise DataError(f"{path}: no boxes")
    table = np.array(rows)  # (N, 9)
    has_area = (table[:, 4:6] > 0).all(axis=1)
    if not has_area.all():
        logger.warning("%s: left out %d of %d boxes: they have no area", path, (~has_area).sum(), len(table))
    table = table[has_area]
    table = table[np.argsort(table[:, 0], kind="stable")]
    boxes = table[:, 2:6].copy()
    boxes[:, :2] -= 1.0  # 1-based pixels
    boxes[:, 2:] += boxes[:, :2]
    return Truth(
        frames=table[:, 0].astype(np.int64),
        pids=table[:, 1].astype(np.int64),
        boxes=boxes,
        counts=(table[:, 6] != 0) & (table[:, 7] == PEDESTRIAN),
        solid=table[:, 7] != REFLECTION,
        visibility=np.where(table[:, 8] < 0, math.nan, table[:, 8]),
    )


def _parse_line(text: str, where: str) -> tuple[float, ...]:
    """frame, id, left, top, width, height, consider, class, visibility; the last is -1 where the file has none."""
    fields = text.split("," if "," in text else None)
    try:
        values = [float(field) for field in fields]
    except ValueError:
        raise DataError(f"{where}: not numbers separated by commas or blanks: {text.strip()[:60]!r}") from None
    if len(values) not in (9, 10):
        raise DataError(f"{where}: {len(values)} columns; MOT16 has 9, MOT15 has 10")
    if not all(math.isfinite(value) for value in values):
        raise DataError(f"{where}: not finite: {text.strip()[:60]!r}")
    if max(map(abs, values)) > LARGEST:
        raise DataError(f"{where}: no number may be above {LARGEST:g}: {text.strip()[:60]!r}")
    if values[0] < 1 or values[0] != int(values[0]) or values[1] != int(values[1]):
        raise DataError(f"{where}: frame (from 1) and id must be whole numbers, got {fields[0]} and {fields[1]}")
    if len(values) == 10:  # MOT15: a place in the world instead of class and visibility
        return (*values[:7], float(PEDESTRIAN), -1.0)
    if values[8] > 1:
        raise DataError(f"{where}: visibility must be in [0, 1], got {values[8]:g}")
    return tuple(values)


def visible_share(box: FloatArray, others: FloatArray, width: int, height: int) -> float:
    """Share of a box (4,) that is inside the picture and that no other box (N, 4) in front of it covers.

    The box with the lower bottom edge is in front: on flat ground those feet are nearer to the camera.
    """
    left, top, right, bottom = np.clip(box, 0, (width, height, width, height))
    if right <= left or bottom <= top:
        return 0.0
    front = others[others[:, 3] > box[3]]
    front = np.clip(front, (left, top, left, top), (right, bottom, right, bottom))  # (F, 4)
    # The edges of all boxes cut the rest into cells, each of them covered or not as a whole.
    xs, ys = np.unique([left, right, *front[:, 0], *front[:, 2]]), np.unique([top, bottom, *front[:, 1], *front[:, 3]])
    seen = np.ones((len(ys) - 1, len(xs) - 1), dtype=bool)
    for x1, y1, x2, y2 in front:
        seen[np.searchsorted(ys, y1) : np.searchsorted(ys, y2), np.searchsorted(xs, x1) : np.searchsorted(xs, x2)] = (
            False
        )
    area = float((np.diff(ys)[:, None] * np.diff(xs))[seen].sum())
    return area / float((box[2] - box[0]) * (box[3] - box[1]))


def with_margin(box: FloatArray, margin: float, width: int, height: int) -> IntArray:
    """The box grown by `margin` of its sides on each side, as whole pixels inside the picture."""
    grow = margin * (box[2:] - box[:2])
    grown = np.concatenate([box[:2] - grow, box[2:] + grow])
    whole: IntArray = np.clip(np.rint(grown), 0, (width, height, width, height)).astype(np.int64)
    return whole


def crops_of_frame(
    truth: Truth, rows: IntArray, image: ByteArray, rules: CropRules
) -> Iterator[tuple[int, float, ByteArray]]:
    """Person, visibility and pixels (view of `image`) of the boxes of one frame that the rules let through."""
    height, width = image.shape[:2]
    for row in rows[truth.counts[rows]]:
        box = truth.boxes[row]
        visibility = float(truth.visibility[row])
        if math.isnan(visibility):
            others = rows[truth.solid[rows] & (rows != row)]
            visibility = visible_share(box, truth.boxes[others], width, height)
        _, y1, _, y2 = with_margin(box, 0.0, width, height)
        if visibility < rules.min_visibility or y2 - y1 < rules.min_height_px:
            continue
        x1, y1, x2, y2 = with_margin(box, rules.margin, width, height)
        if x2 > x1:
            yield int(truth.pids[row]), visibility, image[y1:y2, x1:x2]


def cut_crops(sequences: Sequence[MotFolder], out: Path, rules: CropRules) -> int:
    """Writes out/SEQUENCE/PERSON_FRAME.jpg and out/people.csv (id = sequence and person, camera = sequence).

    One frame is in memory at a time. All ground truth is checked before the first file is written; the table gets its
    name when everything is there. What breaks off, Ctrl-C too, leaves an empty folder: a half is no data set, and the
    same command would find its folder taken. Returns the number of crops.
    """
    truths = [_checked_truth(sequence, rules) for sequence in sequences]
    draft = out / f"{TABLE}.part"
    _begin_folder(out)
    try:
        with draft.open("w", encoding="utf-8", newline="") as stream:
            n_crops = sum(
                _cut_sequence(sequence, truth, out, rules, stream)
                for sequence, truth in zip(sequences, truths, strict=True)
            )
        if n_crops == 0:
            raise DataError(
                f"no box is visible to {rules.min_visibility:g} and at least {rules.min_height_px} px high in every "
                f"{rules.every}. frame of {', '.join(sequence.name for sequence in sequences)}"
            )
        draft.rename(out / TABLE)
    except BaseException as error:
        _take_away(out, sequences)
        if isinstance(error, OSError):
            raise not_written(error.filename or out, error) from None
        raise
    return n_crops


def _begin_folder(out: Path) -> None:
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out} exists and is not empty; nothing was written")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(error.filename or out, error) from None


def _take_away(out: Path, sequences: Sequence[MotFolder]) -> None:
    for sequence in sequences:
        shutil.rmtree(out / sequence.name, ignore_errors=True)
    with contextlib.suppress(OSError):
        (out / f"{TABLE}.part").unlink()


def _checked_truth(sequence: MotFolder, rules: CropRules) -> Truth:
    truth = read_truth(sequence.truth)
    for frame in _wanted_frames(truth, rules):
        if frame not in sequence.images:
            raise DataError(f"{sequence.truth} has boxes in frame {frame}, but there is no image of that number")
    return truth


def _wanted_frames(truth: Truth, rules: CropRules) -> list[int]:
    """Frames 1, 1 + every, ... that contain a person to be cropped."""
    frames = np.unique(truth.frames[truth.counts])
    return [int(frame) for frame in frames[(frames - 1) % rules.every == 0]]


def _cut_sequence(sequence: MotFolder, truth: Truth, out: Path, rules: CropRules, stream: TextIO) -> int:
    table = csv.writer(stream, lineterminator="\n")
    if stream.tell() == 0:
        table.writerow(["image", "id", "camera", "frame", "visibility"])
    people: set[int] = set()
    n_crops = 0
    frames = _wanted_frames(truth, rules)
    for frame in progress(frames, sequence.name):
        rows = np.arange(*np.searchsorted(truth.frames, [frame, frame + 1]))
        image = decode(sequence.images[frame])
        for person, visibility, crop in crops_of_frame(truth, rows, image, rules):
            name = f"{sequence.name}/{person:04d}_{frame:06d}.jpg"
            _, content = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            (out / sequence.name).mkdir(exist_ok=True)
            (out / name).write_bytes(content.tobytes())
            table.writerow([name, f"{sequence.name}_{person}", sequence.name, frame, f"{visibility:.3f}"])
            people.add(person)
            n_crops += 1
    logger.info("%s: %d crops of %d people from %d frames", sequence.name, n_crops, len(people), len(frames))
    return n_crops


def progress(frames: list[int], name: str) -> Iterable[int]:
    """A progress bar, on a terminal only."""
    bar: Iterable[int] = tqdm(frames, desc=name, unit=" frames", disable=None)
    return bar
