"""Read what `track-link` links: tables, embeddings, the ways between cameras, corrections, crops."""

from __future__ import annotations

import csv
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker.commands.report.pictures import read_image, reduced
from tracker.commands.report.table import TrackTable, read_table
from tracker.errors import ConfigError
from tracker.offline.linking import Cameras, Pair, Tracklets
from tracker.runtime.safe_paths import leaves_folder
from tracker.types import FloatArray, IntArray

CROPS_SHOWN = 3  # of a track, on the page
CROP_HEIGHT_PX = 128
UNIT = 0.01  # by how much the length of an embedding may differ from 1

Decision = tuple[str, int, str, int]  # table, track, table, track


@dataclass(frozen=True, slots=True)
class Video:
    """One table, with its embeddings."""

    path: Path
    id: IntArray  # (T,) numbers of its tracks, ascending
    n_boxes: IntArray  # (T,)
    start_s: FloatArray  # (T,) of the first box, seconds since the start of the video
    end_s: FloatArray  # (T,)
    means: FloatArray  # (T, D) mean of the embeddings, NaN where there is none

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True, slots=True)
class Corrections:
    """What a person has decided on the page."""

    same: Sequence[Decision] = ()
    different: Sequence[Decision] = ()


@dataclass(frozen=True, slots=True)
class CameraFile:
    """Cameras by name, and when the videos of each begin."""

    camera_of: Mapping[str, str]  # table -> camera
    start_s: Mapping[str, float]  # table -> seconds
    ways: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)  # see `linking.Cameras`


def read_video(path: Path, embeddings: Path, size: int) -> Video:
    """A table of `track --out FILE.csv` and the embeddings of the same run; size: D of the network.

    Raises TrackletError for files that are malformed, or do not belong together.
    """
    if path.suffix.lower() != ".csv":
        raise ConfigError(f"{path}: track-link takes tables of `track --out FILE.csv`")
    table = read_table(path)
    assert table.time_s is not None
    rows = _read_embeddings(embeddings, path, size)
    rows = rows[np.lexsort((rows["id"], rows["frame"]))]
    if not (np.array_equal(rows["frame"] - 1, table.frame) and np.array_equal(rows["id"], table.id)):
        raise ConfigError(f"{embeddings}: has other boxes than {path}; are they of the same run?")
    if (np.diff(table.frame) == 0).any() and ((np.diff(table.frame) == 0) & (np.diff(table.id) == 0)).any():
        raise ConfigError(f"{path}: a frame has an identity twice")
    return _video(path, table, rows["embedding"])


def _video(path: Path, table: TrackTable, embeddings: NDArray[np.float32]) -> Video:
    assert table.time_s is not None
    ids, row_of = np.unique(table.id, return_inverse=True)
    start_s, end_s = np.full(len(ids), np.inf), np.full(len(ids), -np.inf)
    np.minimum.at(start_s, row_of, table.time_s)
    np.maximum.at(end_s, row_of, table.time_s)
    known = np.isfinite(embeddings).all(axis=1)
    total = np.zeros((len(ids), embeddings.shape[1]))
    np.add.at(total, row_of[known], embeddings[known])
    n_known = np.bincount(row_of[known], minlength=len(ids))[:, None]
    means = np.divide(total, n_known, out=np.full(total.shape, np.nan), where=n_known > 0)
    return Video(path, ids, np.bincount(row_of, minlength=len(ids)), start_s, end_s, means)


def _read_embeddings(path: Path, table: Path, size: int) -> NDArray[np.void]:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: there is no such file; `track --save-embeddings FILE.npy` writes it beside {table.name}, or name "
            "another one with --embeddings"
        ) from error
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path}: is no file of `track --save-embeddings`: {error}") from error
    names = getattr(rows, "dtype", np.dtype("f4")).names
    if names != ("frame", "id", "embedding") or rows.ndim != 1:
        raise ConfigError(f"{path}: is no file of `track --save-embeddings`")
    found = rows["embedding"].shape[-1]
    if len(rows) and found != size:
        raise ConfigError(
            f"{path}: has embeddings of size {found}, the network of --reid gives {size}; name the network of the run"
        )
    if not len(rows):
        return np.zeros(0, [("frame", "i8"), ("id", "i8"), ("embedding", "f4", (size,))])
    lengths = np.linalg.norm(rows["embedding"], axis=1)
    if (np.abs(lengths - 1.0) > UNIT).any():  # NaN: none, which is fine
        raise ConfigError(f"{path}: row {int((np.abs(lengths - 1.0) > UNIT).argmax()) + 1} is not of length 1")
    return np.asarray(rows)


def tracklets_of(videos: Sequence[Video], cameras: CameraFile | None) -> tuple[Tracklets, Cameras]:
    """All tracks of all videos, one video after the other, and the ways between their cameras by number."""
    names = [video.name if cameras is None else cameras.camera_of[video.name] for video in videos]
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    begin = [0.0 if cameras is None else cameras.start_s[video.name] for video in videos]
    tracks = Tracklets(
        np.concatenate([np.full(len(video.id), number[name]) for video, name in zip(videos, names, strict=True)]),
        np.concatenate([video.start_s + start for video, start in zip(videos, begin, strict=True)]),
        np.concatenate([video.end_s + start for video, start in zip(videos, begin, strict=True)]),
        np.concatenate([video.means for video in videos]),
        [f"{video.name} {identity}" for video in videos for identity in video.id.tolist()],
    )
    if cameras is None:
        return tracks, Cameras()
    ways = {(number[a], number[b]): s for (a, b), s in cameras.ways.items() if a in number and b in number}
    return tracks, Cameras(ways)


def read_cameras(path: Path, tables: Sequence[str]) -> CameraFile:
    """The TOML file of --cameras. Raises ConfigError with the key that is wrong."""
    try:
        text = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    cameras = text.pop("cameras", None)
    ways = text.pop("ways", [])
    if text or not isinstance(cameras, dict) or not isinstance(ways, list):
        raise ConfigError(f"{path}: has a table cameras and tables [[ways]], and nothing else")
    camera_of: dict[str, str] = {}
    start_s: dict[str, float] = {}
    kinds = set()
    for camera, starts in cameras.items():
        if not isinstance(starts, dict):
            raise ConfigError(f'{path}: cameras.{camera} must be like {{ "A.csv" = 2026-11-30T08:00:00 }}')
        for table, start in starts.items():
            if table in camera_of:
                raise ConfigError(f"{path}: {table} is of two cameras, {camera_of[table]} and {camera}")
            camera_of[table], start_s[table] = camera, _start(path, table, start)
            kinds.add(type(start) is datetime)
    if len(kinds) > 1:
        raise ConfigError(f"{path}: starts are all dates with times, or all numbers of seconds")
    missing = [table for table in tables if table not in camera_of]
    if missing:
        raise ConfigError(f"{path}: does not say which camera {missing[0]} is of")
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for place, way in enumerate(ways, start=1):
        _add_way(found, way, cameras, f"{path}: way {place}")
    return CameraFile(camera_of, start_s, found)


def _start(path: Path, table: str, value: Any) -> float:
    if type(value) is datetime:
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, bool | str | date | time | dict | list) or not math.isfinite(value):
        raise ConfigError(f"{path}: the start of {table} must be a date with a time, or seconds, got {value!r}")
    return float(value)


def _add_way(
    found: dict[tuple[str, str], tuple[float, float]], way: Any, cameras: Mapping[str, Any], where: str
) -> None:
    allowed = {"from", "to", "least_s", "most_s", "both", "overlap"}
    if not isinstance(way, dict) or not {"from", "to"} <= way.keys() <= allowed:
        raise ConfigError(f"{where}: needs from and to, and may have least_s, most_s, both and overlap")
    for end in ("from", "to"):
        if not isinstance(way[end], str) or way[end] not in cameras:
            raise ConfigError(f"{where}: {end} must be one of the cameras, {', '.join(cameras)}; got {way[end]!r}")
    for name in ("both", "overlap"):
        if not isinstance(way.get(name, False), bool):
            raise ConfigError(f"{where}: {name} must be true or false, got {way[name]!r}")
    seconds = [way.get("least_s", 0.0), way.get("most_s", math.inf)]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in seconds):
        raise ConfigError(f"{where}: least_s and most_s are numbers of seconds")
    if not 0 <= seconds[0] <= seconds[1]:
        raise ConfigError(f"{where}: least_s must be from 0 to most_s, got {seconds[0]:g} and {seconds[1]:g}")
    overlap = way.get("overlap", False)
    if overlap and way["from"] == way["to"]:
        raise ConfigError(f"{where}: a person is not in two places of one camera at once")
    span = (-math.inf if overlap else float(seconds[0]), float(seconds[1]))
    for pair in [(way["from"], way["to"])] + [(way["to"], way["from"])] * (overlap or way.get("both", False)):
        if pair in found:
            raise ConfigError(f"{where}: the way from {pair[0]} to {pair[1]} is there twice")
        found[pair] = span


def read_corrections(path: Path) -> Corrections:
    """The JSON file that the page saves. Raises ConfigError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from error
    lists = []
    for name in ("same", "different"):
        decisions = document.get(name) if isinstance(document, dict) else None
        if not isinstance(decisions, list):
            raise ConfigError(f'{path}: has no list "{name}"; the page of track-link saves such files')
        for place, each in enumerate(decisions, start=1):
            kinds = [type(value) for value in each] if isinstance(each, list) else []
            if kinds != [str, int, str, int]:
                raise ConfigError(f'{path}: {name} {place} must be like ["A.csv", 3, "B.csv", 7], got {each!r}')
        lists.append([(a, i, b, j) for a, i, b, j in decisions])
    return Corrections(*lists)


def rows_of(decisions: Sequence[Decision], videos: Sequence[Video], path: Path) -> list[Pair]:
    """The rows of the tracks that decisions are about. Raises ConfigError for tracks that do not exist."""
    every = [(video.name, identity) for video in videos for identity in video.id.tolist()]
    row_of = {track: row for row, track in enumerate(every)}
    pairs = []
    for table_a, a, table_b, b in decisions:
        for track in ((table_a, a), (table_b, b)):
            if track not in row_of:
                raise ConfigError(f"{path}: there is no track {track[1]} in {track[0]}, or that table is not given")
        if (table_a, a) == (table_b, b):
            raise ConfigError(f"{path}: compares track {a} of {table_a} with itself")
        pairs.append((row_of[table_a, a], row_of[table_b, b]))
    return pairs


def read_crops(folder: Path) -> dict[int, list[bytes]]:
    """Identity -> its best crops as small JPEG files, from a folder of `track --crops`. Raises ConfigError."""
    table = folder / "people.csv"
    best: dict[int, list[tuple[float, str]]] = {}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                if leaves_folder(row["image"]):
                    raise ConfigError(f"{table}: {row['image']} lies outside its folder")
                best.setdefault(int(row["id"]), []).append((float(row["quality"]), row["image"]))
    except OSError as error:
        raise ConfigError(
            f"{table}: cannot be read: {error.strerror}; --crops takes folders of `track --crops`"
        ) from error
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise ConfigError(f"{table}: is no table of `track --crops`: {error!r}") from error
    crops = {}
    for identity, found in best.items():
        names = [name for _, name in sorted(found, reverse=True)[:CROPS_SHOWN]]
        absent = next((name for name in names if not (folder / name).is_file()), None)
        if absent is not None:
            raise ConfigError(f"{folder}: {absent} is missing, which {table.name} names")
        crops[identity] = [reduced(read_image(folder / name), height=CROP_HEIGHT_PX) for name in names]
    return crops
