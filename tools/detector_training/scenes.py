"""Training pictures made of labelled ones: pieces side by side (mosaic), people pasted, colours and sharpness changed.

Everything random about a scene comes from (seed, epoch, index): it does not matter which process makes it, or when.
References: mosaic: YOLOv4 (Bochkovskiy et al., 2020), https://arxiv.org/abs/2004.10934, section 3.3; pasting: Simple
Copy-Paste (Ghiasi et al., 2021), https://arxiv.org/abs/2012.07177.

Where we differ: the scale of a piece is set by one of its people, whose height is drawn, so that all sizes are learnt
equally well whatever the sources show; pasted people keep their whole box when others cover them, as in MOT's labels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from reid_training.errors import ConfigError, DataError
from reid_training.runs import replace_file
from tools.detector_training import labels
from tools.detector_training.config import ScenesConfig, SourceConfig
from tools.detector_training.labels import FloatArray, Picture
from tools.detector_training.loss import Truth
from tools.detector_training.posts import draw_posts

logger = logging.getLogger(__name__)

ByteArray = NDArray[np.uint8]
GREY = 114  # what surrounds a picture that does not fill its place; the tracker's letterbox has the same
GRIDS = ((1, 1), (1, 2), (2, 2), (3, 3))  # rows, columns
# People to paste: large enough to be sharp, upright, and whole as far as the labels tell.
CUT_MIN_PX, CUT_MIN_ASPECT, CUT_MIN_FILLED, CUT_MAX_OVERLAP = 90, 1.6, 0.3, 0.02
FILLED = 0.9  # side, of a picture that would fill its place exactly; smaller ones leave too much grey
MAX_COVERED = 0.75  # a person occluded by more than this is ignored


@dataclass(frozen=True, slots=True)
class Cut:
    """A person without surroundings."""

    image: ByteArray  # (h, w, 3)
    alpha: ByteArray  # (h, w) 255 = person


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture, its people and what must not be judged, xyxy."""

    image: ByteArray  # (H, W, 3) BGR
    boxes: FloatArray  # (N, 4)
    ignored: FloatArray  # (M, 4)
    weights: FloatArray  # (N,) in [0, 1], how certain each person is


class Stock:
    """Labelled pictures of all sources, decoded once and kept small."""

    def __init__(self, pictures: Sequence[Picture], sources: Sequence[SourceConfig], cache: Path, side: int) -> None:
        """sources: of each picture."""
        self.sources = list(sources)
        self.images: list[ByteArray] = []
        scales: list[float] = []
        pairs = zip(pictures, self.sources, strict=True)
        # A file for each source, so that one more leaves the others as they are.
        for _, group in itertools.groupby(pairs, key=lambda pair: pair[1]):
            images, their_scales = _cached([picture.path for picture, _ in group], cache, side)
            self.images += images
            scales += their_scales
        self.sizes = [image.shape[:2] for image in self.images]
        self.boxes = [picture.boxes * scale for picture, scale in zip(pictures, scales, strict=True)]
        self.ignored = [picture.ignored * scale for picture, scale in zip(pictures, scales, strict=True)]
        self.weights = [picture.weights_or_ones() for picture in pictures]
        for row, (picture, source) in enumerate(zip(pictures, self.sources, strict=True)):
            if not source.complete and not picture.taught:  # people around the labelled ones are missing
                height, width = self.sizes[row]
                self.ignored[row] = np.array([[0.0, 0.0, width, height]])

    def __len__(self) -> int:
        return len(self.sources)

    def image(self, row: int) -> ByteArray:
        return self.images[row]

    def chances(self) -> FloatArray:
        """How likely each picture is drawn."""
        weights = np.array([source.weight for source in self.sources], dtype=np.float64)
        if not weights.sum() > 0:
            raise ConfigError("no picture to train on: every source has weight 0 or is held out")
        return np.asarray(weights / weights.sum())


def _cached(paths: list[Path], cache: Path, side: int) -> tuple[list[ByteArray], list[float]]:
    """Pixels and scale of each picture, the pixels as views of one file that holds them one after another."""
    key = hashlib.sha256("\n".join([str(side), *(f"{p}:{p.stat().st_mtime_ns}" for p in paths)]).encode()).hexdigest()
    file, index = cache / f"{key[:16]}.bytes", cache / f"{key[:16]}.npy"
    if not index.exists():
        rows = []

        def write(stream: object) -> None:
            for path in tqdm(paths, desc="decoding", unit=" pictures", leave=False, disable=None):
                image = read_image(path)
                scale = min(1.0, side / max(image.shape[:2]))
                if scale < 1:
                    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
                    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
                rows.append((image.shape[0], image.shape[1], scale))
                stream.write(image.tobytes())  # type: ignore[attr-defined]

        replace_file(file, write)
        replace_file(index, lambda stream: np.save(stream, np.array(rows, dtype=np.float64)))
    table = np.load(index, allow_pickle=False)
    sizes = [(int(height), int(width)) for height, width in table[:, :2]]
    offsets = np.concatenate([[0], np.cumsum([height * width * 3 for height, width in sizes])])
    pixels: ByteArray = np.memmap(file, dtype=np.uint8, mode="r")
    images = [
        pixels[start : start + height * width * 3].reshape(height, width, 3)
        for start, (height, width) in zip(offsets, sizes, strict=False)
    ]
    return images, table[:, 2].tolist()


def read_image(path: Path, flags: int = cv2.IMREAD_COLOR) -> ByteArray:
    image = cv2.imread(str(path), flags)
    if image is None:
        raise DataError(f"cannot read picture {path}")
    return np.asarray(image, np.uint8)


def read_sources(sources: Mapping[str, SourceConfig], root: Path) -> dict[str, tuple[list[Picture], list[Picture]]]:
    """Pictures to train on and pictures held out, by name of the source."""
    found = {}
    for name, source in sources.items():
        pictures = labels.read(source.format, root / source.images, root / source.labels)
        held = [is_held_out(picture, source) for picture in pictures]
        found[name] = (
            [picture for picture, out in zip(pictures, held, strict=True) if not out],
            [picture for picture, out in zip(pictures, held, strict=True) if out],
        )
        train, out = found[name]
        n_boxes = sum(len(p.boxes) for p in train)
        logger.info("%s: %d pictures with %d people; %d pictures held out", name, len(train), n_boxes, len(out))
    return found


def is_held_out(picture: Picture, source: SourceConfig) -> bool:
    """By the name alone, so that it stays so when pictures are added; pictures of one group share their side."""
    match = re.match(source.group, picture.path.name) if source.group else None
    group = match.group(1) if match else picture.path.stem
    return int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) / 2**32 < source.held_out


def cut_people(pictures: Sequence[Picture], side: int) -> list[Cut]:
    """The people with a silhouette in the labels that stand free, no taller than `side`."""
    cuts = []
    for picture in pictures:
        drawn = picture.mask is not None or any(outline is not None for outline in picture.outlines)
        if not drawn:
            continue
        image = read_image(picture.path)
        mask = read_image(picture.mask, cv2.IMREAD_UNCHANGED) if picture.mask is not None else None
        for row, box in enumerate(picture.boxes):
            left, top, right, bottom = (round(value) for value in box)
            others = np.delete(picture.boxes, row, axis=0)
            touched = max((_share(box, other) for other in others), default=0.0)
            inside = left > 1 and top > 1 and right < image.shape[1] - 1 and bottom < image.shape[0] - 1
            tall = bottom - top >= max(CUT_MIN_PX, CUT_MIN_ASPECT * (right - left))
            if touched > CUT_MAX_OVERLAP or not inside or not tall:
                continue
            if mask is not None:
                alpha = np.where(mask == row + 1, 255, 0).astype(np.uint8)
            else:
                outline = picture.outlines[row]
                if outline is None:
                    continue
                alpha = np.zeros(image.shape[:2], np.uint8)
                cv2.fillPoly(alpha, [np.round(outline).astype(np.int32)], 255)
            alpha = alpha[top:bottom, left:right]
            if (alpha > 0).mean() < CUT_MIN_FILLED:
                continue
            crop = image[top:bottom, left:right]
            scale = min(1.0, side / (bottom - top))
            size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
            cuts.append(
                Cut(
                    np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), np.uint8),
                    np.asarray(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA), np.uint8),
                )
            )
    return cuts


def _share(box: FloatArray, other: FloatArray) -> float:
    """Of the box that the other one covers."""
    size = np.maximum(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0)
    return float(size.prod() / max((box[2:] - box[:2]).prod(), 1e-9))


@dataclass(frozen=True, slots=True)
class Plan:
    """Of one scene: its number in the epoch, and its size."""

    index: int
    height: int
    width: int


def plan_batches(config: ScenesConfig, n_batches: int, pixels: int, seed: int, epoch: int) -> list[list[Plan]]:
    """Scenes of one size per batch, about `pixels` in each."""
    rng = np.random.default_rng([seed, epoch])
    chances = np.array(config.chances) / sum(config.chances)
    batches: list[list[Plan]] = []
    first = 0
    for canvas in rng.choice(len(chances), size=n_batches, p=chances):
        height, width = config.heights[canvas], config.widths[canvas]
        n = max(1, round(pixels / (height * width)))
        batches.append([Plan(first + k, height, width) for k in range(n)])
        first += n
    return batches


class Scenes(Dataset[Scene]):
    """The scenes of one epoch."""

    def __init__(
        self, stock: Stock, cuts: Sequence[Cut], config: ScenesConfig, seed: int, epoch: int, *, plain: bool
    ) -> None:
        self.stock, self.cuts, self.seed, self.epoch = stock, cuts, seed, epoch
        self.config = dataclasses.replace(config, grids=(1.0, 0.0, 0.0, 0.0), paste=0.0) if plain else config
        self.chances = stock.chances()

    def __getitem__(self, plan: Plan) -> Scene:
        cv2.setNumThreads(0)  # the network needs the cores
        rng = np.random.default_rng([self.seed, self.epoch, plan.index])
        return compose(self.stock, self.chances, self.cuts, rng, self.config, plan.height, plan.width)


def compose(
    stock: Stock,
    chances: FloatArray,
    cuts: Sequence[Cut],
    rng: np.random.Generator,
    config: ScenesConfig,
    height: int,
    width: int,
) -> Scene:
    image = np.full((height, width, 3), GREY, np.uint8)
    boxes, ignored, weights = [np.zeros((0, 4))], [np.zeros((0, 4))], [np.zeros(0)]
    grid = GRIDS[rng.choice(len(GRIDS), p=np.array(config.grids) / sum(config.grids))]
    rows, columns = borders(grid[0], height, rng), borders(grid[1], width, rng)
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(columns):
            row = int(rng.choice(len(stock), p=chances))
            piece = cut_piece(stock, row, bottom - top, right - left, rng, config)
            image[top:bottom, left:right] = piece.image
            shift = np.array([left, top, left, top])
            boxes.append(piece.boxes + shift)
            ignored.append(piece.ignored + shift)
            weights.append(piece.weights)
    scene = Scene(image, np.concatenate(boxes), np.concatenate(ignored), np.concatenate(weights))
    if config.posts > 0 and rng.random() < config.posts:  # 0 draws no number: scenes of older settings stay
        draw_posts(scene.image, scene.boxes, config.person_px, rng)
    if len(cuts) and rng.random() < config.paste:
        scene = paste(scene, cuts, rng, config)
    if rng.random() < config.flip:
        scene = flip(scene)
    scene = drop_small(scene, config.min_px)
    image = degrade(recolour(scene.image, rng, config), rng, config)
    return Scene(image, scene.boxes, scene.ignored, scene.weights)


def borders(n: int, length: int, rng: np.random.Generator) -> list[int]:
    """0, length, and n - 1 places between, up to a quarter of a part away from equal parts."""
    part = length / n
    inner = [round(part * (k + rng.uniform(-0.25, 0.25))) for k in range(1, n)]
    return [0, *inner, length]


def cut_piece(stock: Stock, row: int, height: int, width: int, rng: np.random.Generator, config: ScenesConfig) -> Scene:
    """A part of a picture, zoomed so that one of its people gets the height that was drawn."""
    image, boxes, ignored, source = stock.image(row), stock.boxes[row], stock.ignored[row], stock.sources[row]
    low, high = np.log(config.person_px)
    wanted = float(np.exp(rng.uniform(low, min(high, max(low, np.log(height * config.beyond))))))
    stretch = float(np.exp(rng.uniform(0.0, np.log(source.widen)))) * (1 + rng.uniform(-1, 1) * config.stretch)
    if len(boxes):
        anchor = boxes[rng.integers(len(boxes))]
        zoom = wanted / (anchor[3] - anchor[1])
        centre = (anchor[:2] + anchor[2:]) / 2
    else:
        zoom = float(np.exp(rng.uniform(np.log(0.4), np.log(1.5))))
        centre = rng.uniform(0, 1, 2) * [image.shape[1], image.shape[0]]
    # Not so small that the piece is mostly grey, and not larger than there is something to be seen.
    fits = height / image.shape[0], width / (image.shape[1] * stretch)
    zoom = float(np.clip(zoom, FILLED * np.sqrt(fits[0] * fits[1]), config.max_zoom))
    scale = np.array([zoom * stretch, zoom])
    place = rng.uniform(0.15, 0.85, 2) * [width, height]  # of the centre, in the piece
    size = np.array([image.shape[1], image.shape[0]]) * scale
    # As far as the picture is large enough it fills the piece.
    room = np.array([width, height]) - size
    shift = np.where(room < 0, np.clip(place - centre * scale, room, 0), rng.uniform(0, 1, 2) * np.maximum(room, 0))
    matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    if zoom < 0.5:  # warpAffine takes one pixel of four and leaves the rest out: noise where there was texture
        half = np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
        exact = np.array([image.shape[1] / half.shape[1], image.shape[0] / half.shape[0]])
        image, matrix = half, matrix * np.array([exact[0], exact[1], 1.0])
    piece = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=(GREY, GREY, GREY))
    moved = np.concatenate([boxes[:, :2] * scale + shift, boxes[:, 2:] * scale + shift], axis=1)
    moved_ignored = np.concatenate([ignored[:, :2] * scale + shift, ignored[:, 2:] * scale + shift], axis=1)
    edges = np.array([width, height, width, height])
    kept = np.clip(moved, 0, edges)
    area = np.maximum((moved[:, 2:] - moved[:, :2]).prod(1), 1e-9)
    visible = (kept[:, 2:] - kept[:, :2]).prod(1) / area
    outside = np.clip(moved_ignored, 0, edges)
    hardly = kept[(visible > 0) & (visible < config.min_visible)]
    outside = outside[(outside[:, 2:] > outside[:, :2]).all(1)]
    seen = visible >= config.min_visible
    everywhere = np.concatenate([outside, hardly])
    return Scene(np.asarray(piece, np.uint8), kept[seen], everywhere, stock.weights[row][seen])


def paste(scene: Scene, cuts: Sequence[Cut], rng: np.random.Generator, config: ScenesConfig) -> Scene:
    """People in front of the scene. Beside a person who is there already, the new one is about as large."""
    image = scene.image.copy()
    height, width = image.shape[:2]
    boxes = list(scene.boxes)
    hidden = [np.zeros((height, width), bool) for _ in boxes]  # of each box, what pasted people cover
    for _ in range(int(rng.integers(1, config.max_pasted + 1))):
        cut = cuts[int(rng.integers(len(cuts)))]
        if boxes and rng.random() < 0.5:
            near = boxes[rng.integers(len(boxes))]
            h = (near[3] - near[1]) * rng.uniform(0.8, 1.25)
            middle = (near[:2] + near[2:]) / 2 + rng.uniform(-1, 1, 2) * [0.5 * h, 0.15 * h]
        else:
            low, high = np.log(config.person_px)
            h = np.exp(rng.uniform(low, min(high, np.log(height))))
            middle = rng.uniform(0, 1, 2) * [width, height]
        zoom = min(h / cut.image.shape[0], config.max_zoom)
        size = (max(2, round(cut.image.shape[1] * zoom)), max(4, round(cut.image.shape[0] * zoom)))
        x, y = round(middle[0] - size[0] / 2), round(middle[1] - size[1] / 2)
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + size[0], width), min(y + size[1], height)
        if (right - left) * (bottom - top) < 0.6 * size[0] * size[1]:
            continue
        person, alpha = cv2.resize(cut.image, size, interpolation=cv2.INTER_AREA), cv2.resize(cut.alpha, size)
        if rng.random() < 0.5:
            person, alpha = person[:, ::-1], alpha[:, ::-1]
        person = np.clip(person * rng.uniform(0.6, 1.3), 0, 255)
        inner = (slice(top - y, bottom - y), slice(left - x, right - x))
        share = alpha[inner][..., None] / 255.0
        part = image[top:bottom, left:right]
        image[top:bottom, left:right] = (part * (1 - share) + person[inner] * share).astype(np.uint8)
        for seen in hidden:
            seen[top:bottom, left:right] |= alpha[inner] > 127
        boxes.append(np.array([left, top, right, bottom], dtype=np.float64))
        hidden.append(np.zeros((height, width), bool))
    covered = np.array([_covered(box, seen) for box, seen in zip(boxes, hidden, strict=True)])
    everyone = np.array(boxes).reshape(-1, 4)
    # The boxes of the covered are of their whole bodies, in labels as in MOT's.
    keep = covered <= MAX_COVERED
    weights = np.concatenate([scene.weights, np.ones(len(everyone) - len(scene.weights))])
    return Scene(image, everyone[keep], np.concatenate([scene.ignored, everyone[~keep]]), weights[keep])


def _covered(box: FloatArray, hidden: NDArray[np.bool_]) -> float:
    left, top, right, bottom = (int(value) for value in box)
    inside = hidden[top : max(bottom, top + 1), left : max(right, left + 1)]
    return float(inside.mean()) if inside.size else 0.0


def flip(scene: Scene) -> Scene:
    width = scene.image.shape[1]

    def mirrored(boxes: FloatArray) -> FloatArray:
        return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)

    image = np.ascontiguousarray(scene.image[:, ::-1])
    return Scene(image, mirrored(scene.boxes), mirrored(scene.ignored), scene.weights)


def drop_small(scene: Scene, min_px: float) -> Scene:
    """People too small to be learnt are ignored."""
    small = np.minimum(scene.boxes[:, 2] - scene.boxes[:, 0], scene.boxes[:, 3] - scene.boxes[:, 1]) < min_px
    ignored = np.concatenate([scene.ignored, scene.boxes[small]])
    return Scene(scene.image, scene.boxes[~small], ignored, scene.weights[~small])


def recolour(image: ByteArray, rng: np.random.Generator, config: ScenesConfig) -> ByteArray:
    """Brightness, contrast and gamma by a table; saturation and hue by a matrix; now and then grey."""
    gain = 1 + rng.uniform(-1, 1) * config.contrast
    offset = rng.uniform(-1, 1) * config.brightness * 128
    gamma = np.exp(rng.uniform(-1, 1) * 0.3)
    values = 255 * (np.arange(256) / 255) ** gamma
    table = np.clip((values - 128) * gain + 128 + offset, 0, 255).astype(np.uint8)
    image = np.asarray(cv2.LUT(image, table), np.uint8)
    grey = rng.random() < config.grey
    saturation = 0.0 if grey else 1 + rng.uniform(-1, 1) * config.saturation
    turn = 2 * np.pi * rng.uniform(-1, 1) * config.hue
    # In YIQ saturation is a length and hue an angle, so that both are one 3x3 matrix on RGB.
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    c, s = saturation * np.cos(turn), saturation * np.sin(turn)
    rgb = np.linalg.inv(to_yiq) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ to_yiq
    return np.asarray(cv2.transform(image, rgb[::-1, ::-1].copy()), np.uint8)


def degrade(image: ByteArray, rng: np.random.Generator, config: ScenesConfig) -> ByteArray:
    """What cheap cameras do: night, blur, motion, few pixels, noise, compression."""
    height, width = image.shape[:2]
    if rng.random() < config.night:
        image = darken(image, rng)
    if rng.random() < config.low_resolution:
        factor = rng.uniform(0.5, 0.9)
        small = cv2.resize(image, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)
        image = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    if rng.random() < config.blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.5)), np.uint8)
    if rng.random() < config.motion_blur:
        image = np.asarray(cv2.filter2D(image, -1, streak(int(rng.integers(3, 10)), rng.uniform(0, np.pi))), np.uint8)
    if rng.random() < config.noise:
        noise = rng.normal(0.0, rng.uniform(2.0, 12.0), (height, width, 1 if rng.random() < 0.5 else 3))
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < config.jpeg:
        _, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 80))])
        image = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    if rng.random() < config.video:
        image = compress(image, rng)
    return image


def darken(image: ByteArray, rng: np.random.Generator) -> ByteArray:
    """A night: few photons and their noise, amplified; half of the cameras then show infrared, without colours."""
    light = image.astype(np.float32)
    if rng.random() < 0.5:
        light[:] = light @ np.array([0.2, 0.4, 0.4], np.float32)[:, None]
    photons = light * rng.uniform(0.15, 0.6)
    sigma = rng.uniform(0.3, 1.0)
    photons += rng.standard_normal((*photons.shape[:2], 1), np.float32) * np.sqrt(photons + 4) * sigma
    return np.asarray(np.clip(photons * rng.uniform(1.0, 2.5), 0, 255), np.uint8)


def streak(length: int, angle: float) -> NDArray[np.float32]:
    """Kernel of a motion over `length` pixels."""
    kernel = np.zeros((length, length), np.float32)
    middle, half = (length - 1) / 2, (length - 1) / 2 * np.array([np.cos(angle), np.sin(angle)])
    ends = [tuple(int(v) for v in np.rint(middle + sign * half)) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    return np.asarray(kernel / kernel.sum(), np.float32)


def compress(image: ByteArray, rng: np.random.Generator) -> ByteArray:
    """As a video codec with few bits: JPEG of poor quality at a size that puts its blocks at 8 to 16 pixels."""
    height, width = image.shape[:2]
    factor = rng.uniform(0.5, 1.0)
    small = cv2.resize(image, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)
    _, coded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(12, 40))])
    decoded = cv2.medianBlur(
        np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8), 3
    )  # codecs filter the borders of blocks
    return np.asarray(cv2.resize(decoded, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def collate(scenes: Sequence[Scene]) -> tuple[Tensor, Truth]:
    """A batch: pictures (B, H, W, 3) uint8, and their labels padded to the same number."""
    images = torch.stack([torch.from_numpy(scene.image) for scene in scenes])
    people, is_person = _padded([scene.boxes for scene in scenes])
    ignored, _ = _padded([scene.ignored for scene in scenes])
    weights = torch.zeros(is_person.shape)
    weights[is_person] = torch.from_numpy(np.concatenate([scene.weights for scene in scenes])).float()
    return images, Truth(people, is_person, ignored, weights)


def _padded(rows: Sequence[FloatArray]) -> tuple[Tensor, Tensor]:
    """(B, n, 4), of which the second (B, n) tells the boxes from the padding."""
    n = max(map(len, rows))
    boxes, real = torch.zeros(len(rows), n, 4), torch.zeros(len(rows), n, dtype=torch.bool)
    for k, row in enumerate(rows):
        boxes[k, : len(row)] = torch.from_numpy(row)
        real[k, : len(row)] = True
    return boxes, real
