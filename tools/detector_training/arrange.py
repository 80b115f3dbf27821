r"""Lays out the public data sets that the detector was trained on as folders that the readers know.

    python -m tools.detector_training arrange OUT --capston REPO --siwr-frames REPO --siwr-boxes REPO --penn-fudan REPO
        --coco128 REPO --human-v2 REPO --coco REPO --without-people REPO --clutter REPO
        --sample-videos REPO

Each REPO is a git directory, bare or not, of the public repository named in the table below; what is not given is left
out. Only files are read, nothing is run. OUT is no part of this repository.

| option | repository on GitHub | what is taken |
|---|---|---|
| --capston | ahsanirfan961/Person-Tracker at 49473929 | two upright versions of each photograph, CC BY 4.0 |
| --siwr-frames, --siwr-boxes | Krawus/SIwR-pedestrian-tracking, krzysztof-nowicki/projekt-SIwR | a street camera |
| --penn-fudan | gmguarino/PennFudan | street photographs with masks |
| --coco128 | lightly-ai/coco128_yolo | COCO photographs with outlines |
| --human-v2 | brianhuster/human-dataset | of an export under CC BY 4.0: COCO photographs, street crossings, \
    walkers in streets, views from above, and of Open Images those with three people or more, none of them large: \
    dolls and portraits leave so |
| --coco | minto5z/coco_yolo | COCO photographs with people |
| --without-people | dqvid3/HOG-SVM-Pedestrian-Detector | streets and landscapes; every third one is kept for tests |
| --clutter | JoakimSoderberg/haarcascade-negatives | rooms, things, textures and drawings, grey |
| --sample-videos | intel-iot-devkit/sample-videos | two frames a second of its videos, CC BY 4.0, without labels |
"""

from __future__ import annotations

import hashlib
import re
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2

from reid_training.errors import DataError

CAPSTON_COMMIT = "49473929"
VERSIONS = 2  # of a photograph: the export has up to 33, which differ by crop, shear and colour
# Parts of human-v2, by file name, and how many versions of a photograph are taken.
HUMAN_V2 = {
    "coco": (r"0{3,}\d+", 1),
    "crossings": (r"(?:train|val)_all_data.*", VERSIONS),
    "open_images": (r"[0-9a-f]{16}", 1),
    "street": (r"img_\d+", VERSIONS),
    "above": (r"-\d+-", VERSIONS),
}
MIN_PEOPLE, MAX_AREA = 3, 0.25  # of Open Images: people, and share of the picture that the largest takes
FRAMES_PER_S = 2.0  # of the sample videos
MIN_ASPECT = 1.0  # height / width, median over its people; a photograph turned by 90 degrees has less


@dataclass(frozen=True, slots=True)
class Blob:
    path: PurePosixPath
    key: str


class Repository:
    """Files of a commit of a git repository, without a work tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def git(self, *words: str) -> str:
        try:
            return subprocess.run(
                ["git", "-C", str(self.folder), *words], check=True, capture_output=True, text=True
            ).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            raise DataError(f"{self.folder}: git {' '.join(words)}: {reason}") from None

    def files(self, commit: str, folder: str) -> list[Blob]:
        rows = (line.split("\t", 1) for line in self.git("ls-tree", "-r", "-z", commit, folder).split("\0") if line)
        return [Blob(PurePosixPath(path), head.split()[2]) for head, path in rows]

    def commit_with(self, folder: str) -> str:
        """The newest commit that still has the folder: data are often removed again."""
        for commit in self.git("log", "--all", "--format=%H").split():
            if self.files(commit, folder):
                return commit
        raise DataError(f"{self.folder}: no commit has a folder {folder}")

    def contents(self, blobs: list[Blob]) -> Iterator[tuple[Blob, bytes]]:
        """What is there: a partial clone lacks some."""
        with subprocess.Popen(
            ["git", "-C", str(self.folder), "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for blob in blobs:
                process.stdin.write(f"{blob.key}\n".encode())
                process.stdin.flush()
                head = process.stdout.readline().split()
                if len(head) == 3:
                    content = process.stdout.read(int(head[2]))
                    process.stdout.read(1)
                    yield blob, content
            process.stdin.close()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def capston(repository: Repository, out: Path) -> int:
    """images/NAME.jpg and labels/NAME.txt: of each photograph the most upright versions."""
    blobs = repository.files(CAPSTON_COMMIT, "Capston2-11")
    texts = {blob.path.stem: content.decode() for blob, content in repository.contents(_with(blobs, ".txt", "labels"))}
    versions: dict[str, list[tuple[float, Blob]]] = {}
    for blob in _with(blobs, ".jpg", "images"):
        if blob.path.stem in texts:
            versions.setdefault(blob.path.name.split(".rf.")[0], []).append((_aspect(texts[blob.path.stem]), blob))
    chosen = []
    for group in versions.values():
        upright = [item for item in group if item[0] >= MIN_ASPECT] or group
        # Any order that does not depend on the folder: the export's own splits share photographs.
        upright.sort(key=lambda item: hashlib.sha256(item[1].path.name.encode()).hexdigest())
        chosen += [blob for _, blob in upright[:VERSIONS]]
    for blob, content in repository.contents(chosen):
        write(out / "images" / blob.path.name, content)
        write(out / "labels" / f"{blob.path.stem}.txt", texts[blob.path.stem].encode())
    return len(chosen)


def _aspect(text: str) -> float:
    rows = [line.split() for line in text.splitlines()]
    sizes = [float(row[4]) / max(float(row[3]), 1e-9) for row in rows if len(row) == 5]
    return statistics.median(sizes) if sizes else MIN_ASPECT


def _with(blobs: list[Blob], suffix: str, folder: str) -> list[Blob]:
    return [blob for blob in blobs if blob.path.suffix == suffix and blob.path.parent.name == folder]


def siwr(frames: Repository, boxes: Repository, out: Path) -> int:
    """The list `name, n, then n rows: id left top width height` as YOLO labels of 720x576 frames."""
    width, height = 720.0, 576.0
    [(_, content)] = boxes.contents([blob for blob in boxes.files("HEAD", ".") if blob.path.name == "bboxes_gt.txt"])
    lines = [line.strip() for line in content.decode().splitlines() if line.strip()]
    texts: dict[str, str] = {}
    at = 0
    while at < len(lines):
        n = int(lines[at + 1])
        rows = [list(map(float, line.split()[1:5])) for line in lines[at + 2 : at + 2 + n]]
        texts[lines[at]] = "".join(
            f"0 {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} {w / width:.6f} {h / height:.6f}\n"
            for x, y, w, h in rows
        )
        at += 2 + n
    blobs = frames.files(frames.commit_with("data/frames"), "data/frames")
    chosen = [blob for blob in blobs if blob.path.name in texts]
    for blob, image in frames.contents(chosen):
        write(out / "images" / blob.path.name, image)
        write(out / "labels" / f"{blob.path.stem}.txt", texts[blob.path.name].encode())
    return len(chosen)


def penn_fudan(repository: Repository, out: Path) -> int:
    blobs = repository.files("HEAD", "data/PennFudanPed")
    kinds = ("PNGImages", "Annotation", "PedMasks")
    for blob, content in repository.contents([blob for blob in blobs if blob.path.parent.name in kinds]):
        write(out / blob.path.parent.name / blob.path.name, content)
    return len(_with(blobs, ".png", "PNGImages"))


def coco128(repository: Repository, out: Path) -> int:
    """Both halves (128 pictures each) in one folder; of each the outlines, where there are any, or else the boxes."""
    blobs = repository.files("HEAD", ".")
    outlines = {b.path.stem: b for b in blobs if b.path.suffix == ".txt" and "instance_segmentation" in b.path.parts}
    boxes = {b.path.stem: b for b in blobs if b.path.suffix == ".txt" and "object_detection" in b.path.parts}
    chosen = [b for b in blobs if b.path.suffix == ".jpg" and b.path.parts[0] == "images" and b.path.stem in boxes]
    for blob, content in repository.contents(chosen):
        write(out / "images" / blob.path.name, content)
    for blob, content in repository.contents([boxes[b.path.stem] for b in chosen if b.path.stem not in outlines]):
        write(out / "labels" / blob.path.name, content)
    for blob, content in repository.contents([outlines[b.path.stem] for b in chosen if b.path.stem in outlines]):
        # The outlines count classes from 1, the boxes from 0.
        rows = [line.split(" ", 1) for line in content.decode().splitlines() if line.strip()]
        text = "".join(f"{int(kind) - 1} {rest}\n" for kind, rest in rows)
        write(out / "labels" / blob.path.name, text.encode())
    return len(chosen)


def human_v2(repository: Repository, out: Path) -> int:
    """PART/images and PART/labels for the parts of `HUMAN_V2`; pictures with a second class are left out."""
    blobs = repository.files("HEAD", ".")
    texts = {b.path.stem: content.decode() for b, content in repository.contents(_with(blobs, ".txt", "labels"))}
    versions: dict[tuple[str, str], list[Blob]] = {}
    for blob in _with(blobs, ".jpg", "images"):
        name, rows = blob.path.name.split(".rf.")[0].removesuffix("_jpg"), texts.get(blob.path.stem, "").splitlines()
        part = next((part for part, (pattern, _) in HUMAN_V2.items() if re.fullmatch(pattern, name)), None)
        if part is None or any(row.split()[0] != "0" for row in rows if row.strip()):
            continue
        if part != "open_images" or _is_street(rows):
            versions.setdefault((part, name), []).append(blob)
    chosen: dict[Blob, str] = {}
    for (part, _), group in versions.items():
        # Any order that does not depend on the folder: the export's own splits share photographs.
        group.sort(key=lambda blob: hashlib.sha256(blob.path.name.encode()).hexdigest())
        chosen |= dict.fromkeys(group[: HUMAN_V2[part][1]], part)
    for blob, content in repository.contents(list(chosen)):
        write(out / chosen[blob] / "images" / blob.path.name, content)
        write(out / chosen[blob] / "labels" / f"{blob.path.stem}.txt", texts[blob.path.stem].encode())
    return len(chosen)


def _is_street(rows: list[str]) -> bool:
    areas = []
    for row in rows:
        values = [float(value) for value in row.split()[1:]]
        xs, ys = values[0::2], values[1::2]  # an outline; a box is centre and size
        areas.append(values[2] * values[3] if len(values) == 4 else (max(xs) - min(xs)) * (max(ys) - min(ys)))
    return len(areas) >= MIN_PEOPLE and max(areas) <= MAX_AREA


def coco(repository: Repository, out: Path) -> int:
    """images/NAME.jpg and labels/NAME.txt of both of its folders."""
    blobs = repository.files("HEAD", "coco")
    labels = {b.path.stem: b for b in blobs if b.path.suffix == ".txt" and "labels" in b.path.parts}
    chosen = [b for b in blobs if b.path.suffix == ".jpg" and b.path.stem in labels]
    for blob, content in repository.contents(chosen):
        write(out / "images" / blob.path.name, content)
    for blob, content in repository.contents([labels[b.path.stem] for b in chosen]):
        write(out / "labels" / blob.path.name, content)
    return len(chosen)


def sample_videos(repository: Repository, out: Path) -> int:
    """VIDEO-NUMBER.jpg, at FRAMES_PER_S; videos that cannot be decoded are left out."""
    n_written = 0
    for blob, content in repository.contents([b for b in repository.files("HEAD", ".") if b.path.suffix == ".mp4"]):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / blob.path.name
            file.write_bytes(content)
            video = cv2.VideoCapture(str(file))
            step = max(1, round(video.get(cv2.CAP_PROP_FPS) / FRAMES_PER_S))
            number = 0
            while video.grab():
                if number % step == 0:
                    _, frame = video.retrieve()
                    _, code = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 92])
                    write(out / f"{blob.path.stem}-{number:06d}.jpg", code.tobytes())
                    n_written += 1
                number += 1
    return n_written


def without_people(repository: Repository, out: Path) -> int:
    """train/ and test/, by content, so that a copy under another name is on the same side; copies are left out."""
    blobs = {b.key: b for b in repository.files("HEAD", "negative") if b.path.suffix in (".jpg", ".png")}
    for blob, content in repository.contents(list(blobs.values())):
        side = "test" if int(blob.key[:8], 16) % 3 == 0 else "train"
        write(out / side / f"{blob.path.parent.name}_{blob.path.name}", content)
    return len(blobs)


def clutter(repository: Repository, out: Path) -> int:
    """By content, so that copies are left out."""
    blobs = {b.key: b for b in repository.files("HEAD", "images") if b.path.suffix == ".jpg"}
    for blob, content in repository.contents(list(blobs.values())):
        write(out / blob.path.name, content)
    return len(blobs)


def arrange(out: Path, repositories: dict[str, Path]) -> dict[str, int]:
    """`repositories`: by the names of the options. Returns how many pictures each source has."""
    given = {name: Repository(folder) for name, folder in repositories.items()}
    single: dict[str, Callable[[Repository, Path], int]] = {
        "capston": capston,
        "penn_fudan": penn_fudan,
        "coco128": coco128,
        "human_v2": human_v2,
        "coco": coco,
        "without_people": without_people,
        "clutter": clutter,
        "sample_videos": sample_videos,
    }
    counts = {name: make(given[name], out / name) for name, make in single.items() if name in given}
    if "siwr_frames" in given and "siwr_boxes" in given:
        counts["siwr"] = siwr(given["siwr_frames"], given["siwr_boxes"], out / "siwr")
    return counts
