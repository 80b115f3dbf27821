"""Generated scenes with ground truth: people who walk, cross and pass behind a wall, and a simulated detector.

    python -m tests.synthetic.mot OUT_FOLDER [--seed 0] [--people 14] [--frames 400]

`make_scene` gives arrays and draws nothing; `write_sequence` writes a MOT16 folder and a video. Everything follows
from the seed. The detector adds jitter of 3 % of the height, bursts of misses and false positives; occluded people get
low scores, and most of them are missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Scene:
    """One generated scene; lists have one entry per frame."""

    width: int
    height: int
    fps: float
    boxes: list[Array]  # (P, 4) xyxy, continuous pixels from 0, of the people in the frame
    ids: list[Array]  # (P,) from 1
    visibility: list[Array]  # (P,) share of the box that is not covered
    detections: list[Array]  # (N, 5) xyxy, score in [0, 1]
    detection_ids: list[Array]  # (N,) the person's ID, -1 for a false positive
    wall: Array  # (4,) xyxy of the static occluder, in front of all people
    seed: int


def make_scene(
    seed: int,
    *,
    n_people: int = 14,
    n_frames: int = 400,
    width: int = 640,
    height: int = 480,
    fps: float = 25.0,
    jitter: float = 0.03,
    burst_start: float = 0.02,
    false_positives: float = 0.1,
    occluded_miss: float = 0.9,
) -> Scene:
    """People walk straight, turn back at the sides, nearer ones (feet lower) larger and in front.

    jitter: standard deviation of box edges as a share of the height; burst_start: chance per person and frame that
    3 to 12 frames are missed; false_positives: mean per frame; occluded_miss: chance to miss a person of whom less
    than half is visible.
    """
    rng = np.random.default_rng(seed)
    feet = rng.uniform(0.45, 0.95, n_people) * height
    tall = 0.15 * height + 0.25 * (feet - 0.45 * height)
    wide = tall * rng.uniform(0.36, 0.44, n_people)
    x = rng.uniform(0.05, 0.95, n_people) * width
    speed = rng.choice([-1.0, 1.0], n_people) * rng.uniform(0.15, 0.4, n_people) * tall / fps * 3
    wall = np.array([0.47 * width, 0.25 * height, 0.47 * width + 0.07 * width, 0.98 * height])
    burst = np.zeros(n_people, dtype=int)
    people = np.arange(1, n_people + 1)
    boxes, ids, visibility, detections, detection_ids = [], [], [], [], []
    for _ in range(n_frames):
        x = x + speed
        turn = ((x < wide / 2) & (speed < 0)) | ((x > width - wide / 2) & (speed > 0))
        speed = np.where(turn, -speed, speed)
        truth = np.stack([x - wide / 2, feet - tall, x + wide / 2, feet], axis=1)
        visible = _visibility(truth, wall)

        burst = np.where(burst > 0, burst - 1, 0)
        starts = (burst == 0) & (rng.random(n_people) < burst_start)
        burst[starts] = rng.integers(3, 13, int(starts.sum()))
        missed = (burst > 0) | ((visible < 0.5) & (rng.random(n_people) < occluded_miss)) | (visible < 0.05)
        noisy = truth + rng.normal(0.0, jitter, truth.shape) * tall[:, None]
        score = np.clip(np.where(visible < 0.5, 0.15, 0.45) + 0.5 * visible * rng.uniform(0.7, 1.0, n_people), 0, 1)
        false = _false_boxes(rng, rng.poisson(false_positives), width, height)

        seen = np.concatenate([np.column_stack([noisy, score])[~missed], false])
        owner = np.concatenate([people[~missed], np.full(len(false), -1)])
        order = rng.permutation(len(seen))
        boxes.append(truth)
        ids.append(people.copy())
        visibility.append(visible)
        detections.append(seen[order])
        detection_ids.append(owner[order])
    return Scene(width, height, fps, boxes, ids, visibility, detections, detection_ids, wall, seed)


def _visibility(boxes: Array, wall: Array) -> Array:
    """(P,) by sampling an 8 x 16 grid of each box against the wall and all people whose feet are lower."""
    u, v = np.meshgrid((np.arange(8) + 0.5) / 8, (np.arange(16) + 0.5) / 16)
    size = boxes[:, 2:] - boxes[:, :2]
    px = boxes[:, 0, None] + size[:, 0, None] * u.ravel()
    py = boxes[:, 1, None] + size[:, 1, None] * v.ravel()
    free = np.ones(px.shape, dtype=bool)
    for person in range(len(boxes)):
        for cover in [wall, *boxes[boxes[:, 3] > boxes[person, 3]]]:
            inside = (px[person] >= cover[0]) & (px[person] < cover[2])
            free[person] &= ~(inside & (py[person] >= cover[1]) & (py[person] < cover[3]))
    share: Array = free.mean(axis=1)
    return share


def _false_boxes(rng: np.random.Generator, n: int, width: int, height: int) -> Array:
    tall = rng.uniform(0.15, 0.3, n) * height
    left, top = rng.uniform(0, 0.9, n) * width, rng.uniform(0.2, 0.7, n) * height
    return np.stack([left, top, left + 0.4 * tall, top + tall, rng.uniform(0.1, 0.7, n)], axis=1)


def draw(scene: Scene) -> Iterator[NDArray[np.uint8]]:
    """The frames, (H, W, 3) uint8 BGR: people in depth order, then the wall."""
    rng = np.random.default_rng([scene.seed, 1])
    background = cv2.resize(rng.uniform(90, 150, (24, 32, 3)), (scene.width, scene.height)) + rng.normal(
        0, 6, (scene.height, scene.width, 3)
    )
    sprites = {int(i): _sprite(rng) for i in np.unique(np.concatenate(scene.ids))}
    phase = {i: rng.uniform(0, 2 * np.pi) for i in sprites}
    for t, (boxes, ids) in enumerate(zip(scene.boxes, scene.ids, strict=True)):
        image = background + rng.normal(0, 4, background.shape)
        for row in np.argsort(boxes[:, 3], kind="stable"):
            person = int(ids[row])
            light = 1 + 0.12 * np.sin(2 * np.pi * t / 150 + phase[person])
            _paste(image, sprites[person] * light, boxes[row])
        x1, y1, x2, y2 = np.rint(scene.wall).astype(int)
        image[y1:y2, x1:x2] = (70, 80, 90)
        yield np.clip(image, 0, 255).astype(np.uint8)


def _sprite(rng: np.random.Generator) -> Array:
    """(64, 26, 3) colour blocks of one identity: head, coat in two stripes, trousers, with its own texture."""
    sprite = np.zeros((64, 26, 3))
    sprite[:10] = rng.uniform(60, 200, 3)
    sprite[10:34] = rng.uniform(0, 255, 3)
    sprite[10:34, 8:18] = rng.uniform(0, 255, 3)
    sprite[34:] = rng.uniform(0, 255, 3)
    return sprite + rng.normal(0, 12, sprite.shape)


def _paste(image: Array, sprite: Array, box: Array) -> None:
    x1, y1, x2, y2 = (int(v) for v in np.rint(box))
    cut = (slice(max(y1, 0), min(y2, image.shape[0])), slice(max(x1, 0), min(x2, image.shape[1])))
    if cut[0].start >= cut[0].stop or cut[1].start >= cut[1].stop:
        return
    scaled = cv2.resize(sprite, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
    image[cut] = scaled[cut[0].start - y1 : cut[0].stop - y1, cut[1].start - x1 : cut[1].stop - x1]


def write_sequence(scene: Scene, folder: Path, *, images: bool = True, video: Path | None = None) -> None:
    """A MOT16 sequence folder (pixels and frames from 1), and the same frames as a video."""
    for name in ("gt", "det", *(["img1"] if images else [])):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={folder.name}\nimDir=img1\nframeRate={scene.fps:g}\nseqLength={len(scene.boxes)}\n"
        f"imWidth={scene.width}\nimHeight={scene.height}\nimExt=.jpg\n"
    )
    with (folder / "gt" / "gt.txt").open("w") as gt, (folder / "det" / "det.txt").open("w") as det:
        for t, (boxes, ids) in enumerate(zip(scene.boxes, scene.ids, strict=True), start=1):
            for box, person, share in zip(boxes, ids, scene.visibility[t - 1], strict=True):
                gt.write(f"{t},{person},{_ltwh(box)},1,1,{share:.3f}\n")
            for row in scene.detections[t - 1]:
                det.write(f"{t},-1,{_ltwh(row)},{row[4]:.4f},-1,-1,-1\n")
    if not images and video is None:
        return
    writer = None
    if video is not None:
        codec = cv2.VideoWriter.fourcc(*("MJPG" if video.suffix == ".avi" else "mp4v"))
        writer = cv2.VideoWriter(str(video), codec, scene.fps, (scene.width, scene.height))
        if not writer.isOpened():
            raise OSError(f"{video}: cannot be written as a video")
    try:
        for t, image in enumerate(draw(scene), start=1):
            if images and not cv2.imwrite(str(folder / "img1" / f"{t:06d}.jpg"), image):
                raise OSError(f"{folder / 'img1'}: frame {t} cannot be written")
            if writer is not None:
                writer.write(image)
    finally:
        if writer is not None:
            writer.release()


def _ltwh(box: Array) -> str:
    return f"{box[0] + 1:.2f},{box[1] + 1:.2f},{box[2] - box[0]:.2f},{box[3] - box[1]:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a generated MOT sequence with known truth.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--people", type=int, default=14)
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--video", type=Path, help="the frames as a video too (.avi or .mp4)")
    args = parser.parse_args()
    write_sequence(make_scene(args.seed, n_people=args.people, n_frames=args.frames), args.folder, video=args.video)
    print(f"{args.folder}: {args.frames} frames, {args.people} people, seed {args.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
