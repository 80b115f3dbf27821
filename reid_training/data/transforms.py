"""Augmentation of a whole batch on the device. Every random number is an argument."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone knows
from torch import Tensor

from reid_training.config import NET_STEP, AugmentConfig
from reid_training.data.base import ByteArray

FloatArray = npt.NDArray[np.float64]

# ImageNet's statistics: any fixed numbers would do, these are the ones that other people's tools expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
PIXEL_SCALE = 1.0 / 255.0
GREY = (0.299, 0.587, 0.114)
# Brightness and the two colour differences of YUV (ITU-R BT.601): hue is the angle in the plane of the last two.
YUV = np.array(
    [GREY, 0.492 * (np.array([0.0, 0.0, 1.0]) - GREY), 0.877 * (np.array([1.0, 0.0, 0.0]) - GREY)]
)  # (3, 3) from RGB
MOST_TURN = 10.0  # degrees of a rotated box
MOST_FIGURES = 5  # of a picture
FIGURE_SIDE = (0.05, 0.3)  # of the crop's height
MOST_PAD = 0.15  # of the crop's side, along each edge
GRID_SPACING, GRID_LINE = (0.12, 0.35), (0.01, 0.03)  # between lines and their width, of the crop's height
MOST_JITTER = 2.0  # standard deviations: an edge that errs by more belongs to another box


def normalise(images: Tensor) -> Tensor:
    """RGB in [0, 1], (B, 3, H, W), to what the network takes: (value - mean) / std."""
    mean, std = images.new_tensor(MEAN), images.new_tensor(STD)
    return (images - mean[:, None, None]) / std[:, None, None]


def network_input(images: Tensor) -> Tensor:
    """Images (B, H, W, 3) uint8, normalised, (B, 3, H, W); maps of frozen layers (B, C, h, w) as they are; float32."""
    return normalise(to_tensor(images)) if images.dtype == torch.uint8 else images.float()


def to_tensor(images: ByteArray | Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [0, 1]; the memory stays channels-last, as the network wants it."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() * PIXEL_SCALE


def augment(images: ByteArray | Tensor, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    """uint8 (B, H, W, 3) to network input (B, 3, H, W), in the order in which the world does it.

    The box is misplaced, someone stands in front, the camera smears and has few pixels, the light changes. What is
    switched off draws no random number: a config from before it existed still gives the same batches. A tensor is
    changed on its own device.
    """
    batch = move_window(to_tensor(images), rng, config)
    batch = occlude(batch, rng, config)
    batch = draw_over(batch, rng, config)
    batch = blur_motion(batch, rng, config)
    batch = lower_resolution(batch, rng, config)
    batch = normalise(change_colour(batch, rng, config))
    return resize(erase(batch, rng, config), rng, config)


def move_window(images: Tensor, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    """Flip, enlarge-and-crop, shift and box jitter as one bilinear look-up; the edge is repeated beyond it."""
    n = len(images)
    sides = np.where(rng.random(n) < config.flip, -1.0, 1.0)
    zoom = rng.uniform(1.0 - config.zoom, 1.0 + config.zoom / 2, (n, 2))
    shift = rng.uniform(-2.0 * config.shift, 2.0 * config.shift, (n, 2))  # the look-up counts from -1 to 1
    theta = np.zeros((n, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 1, 1] = zoom[:, 0] * sides, zoom[:, 1]
    theta[:, :, 2] = shift
    if config.box_jitter > 0:
        deviations = np.clip(rng.standard_normal((n, 2, 2)), -MOST_JITTER, MOST_JITTER)
        sides_px = np.array([images.shape[3], images.shape[2]])
        edges = config.box_jitter * deviations * (sides_px.min() / sides_px)[:, None]  # (n, x and y, near and far)
        half, centre = 1.0 + edges[:, :, 1] - edges[:, :, 0], edges.sum(2)  # of the new box, from -1 to 1
        theta *= half[:, :, None]
        theta[:, :, 2] += centre
    if config.rotate > 0:
        turns = np.where(rng.random(n) < config.rotate, np.deg2rad(rng.uniform(-MOST_TURN, MOST_TURN, n)), 0.0)
        cos, sin, aspect = np.cos(turns), np.sin(turns), images.shape[2] / images.shape[3]
        # In pixels a rotation, in the look-up's units, where both sides are 2, of the picture's shape.
        rotation = np.stack([np.stack([cos, -sin * aspect], 1), np.stack([sin / aspect, cos], 1)], 1)
        theta[:, :, :2] = rotation @ theta[:, :, :2]
    grid = F.affine_grid(images.new_tensor(theta), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def occlude(images: Tensor, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    """Someone stands in front of some people: another crop of the batch, moved down or aside, covers a part.

    Covered from below: the other's head and shoulders. From a side: half of another body, a little lower, because
    the occluder stands nearer to the camera.
    """
    n, _, height, width = images.shape
    if config.occlude == 0 or n < 2:
        return images
    hit = rng.random(n) < config.occlude
    others = (np.arange(n) + rng.integers(1, n, n)) % n  # anyone but oneself
    depth = rng.uniform(*config.occlude_depth, n)
    sides = rng.integers(-1, 2, n)  # left, below, right
    lower = rng.uniform(0.0, 0.3, n)
    downs = np.rint(np.where(sides == 0, 1.0 - depth, lower) * height).astype(int)
    rights = np.rint(sides * (1.0 - depth) * width).astype(int)
    covered = images.clone()
    for i in np.flatnonzero(hit):
        down, right = downs[i], rights[i]
        part = images[others[i], :, : height - down, max(0, -right) : width - max(0, right)]
        covered[i, :, down:, max(0, right) : width + min(0, right)] = part
    return covered


def draw_over(images: Tensor, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    """Things between camera and person, each of one random colour: a grid, figures, bars along the edges."""
    covered = images
    for chance, draw in ((config.grid, grid_mask), (config.figures, figures_mask), (config.pad, bars_mask)):
        if chance == 0:
            continue
        covered = covered.clone() if covered is images else covered
        for i in np.flatnonzero(rng.random(len(images)) < chance):
            colours, mask = (
                rng.random((MOST_FIGURES + 1, 3)),
                draw(images.shape[2], images.shape[3], rng),
            )  # 0: nothing there
            painted = torch.from_numpy(mask).to(images.device)
            values = images.new_tensor(colours)[painted.long()].permute(2, 0, 1)
            covered[i] = torch.where(painted > 0, values, covered[i])
    return covered


def grid_mask(height: int, width: int, rng: np.random.Generator) -> ByteArray:
    """(height, width), 1 where lines of a turned square grid are."""
    angle, spacing, line = rng.uniform(0.0, np.pi / 2), rng.uniform(*GRID_SPACING), rng.uniform(*GRID_LINE)
    y, x = np.mgrid[:height, :width] + rng.uniform(0.0, height, (2, 1, 1))
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    lines = [place % (spacing * height) < max(1.0, line * height) for place in (along, across)]
    return np.asarray(lines[0] | lines[1], np.uint8)


def figures_mask(height: int, width: int, rng: np.random.Generator) -> ByteArray:
    """(height, width), k where the k-th of up to MOST_FIGURES lines, rectangles and ellipses is."""
    mask = np.zeros((height, width), np.uint8)
    for number in range(1, int(rng.integers(1, MOST_FIGURES, endpoint=True)) + 1):
        kind, x, y = int(rng.integers(3)), int(rng.integers(width)), int(rng.integers(height))
        sides = np.maximum(1, rng.uniform(*FIGURE_SIDE, 2) * height).astype(int)
        turn = float(rng.uniform(0.0, 180.0))
        if kind == 0:
            end = (int(x + sides[0] * np.cos(np.deg2rad(turn))), int(y + sides[0] * np.sin(np.deg2rad(turn))))
            cv2.line(mask, (x, y), end, number, max(1, height // 64))
        elif kind == 1:
            cv2.rectangle(mask, (x, y), (x + int(sides[0]) // 2, y + int(sides[1]) // 2), number, -1)
        else:
            cv2.ellipse(mask, (x, y), (int(sides[0]) // 2, int(sides[1]) // 2), turn, 0, 360, number, -1)
    return mask


def bars_mask(height: int, width: int, rng: np.random.Generator) -> ByteArray:
    """(height, width), 1 where bars of up to MOST_PAD of the side lie along the four edges."""
    mask = np.ones((height, width), np.uint8)
    top, bottom, left, right = rng.uniform(0.0, MOST_PAD, 4) * np.array([height, height, width, width])
    mask[int(top) : height - int(bottom), int(left) : width - int(right)] = 0
    return mask


def resize(images: Tensor, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    """The whole batch at one of the sizes, for a network that has to work at several."""
    if not config.sizes:
        return images
    factor = config.sizes[int(rng.integers(len(config.sizes)))]
    height, width = (max(1, round(side * factor / NET_STEP)) * NET_STEP for side in images.shape[2:])
    return F.interpolate(images, (height, width), mode="bilinear", align_corners=False)


def blur_motion(images: Tensor, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    """The mean along a line of pixels, sideways or up and down, in some images: a camera that pans, a quick step."""
    if config.motion_blur == 0:
        return images
    n, _, _, width = images.shape
    hit = rng.random(n) < config.motion_blur
    lengths = rng.uniform(*config.motion_blur_length, n) * width
    reaches = np.clip(np.rint((lengths - 1.0) / 2.0), 1, None).astype(int)  # pixels to either side
    sideways = rng.random(n) < 0.5
    blurred = images.clone()
    for i in np.flatnonzero(hit):
        reach = int(reaches[i])
        pad, line = (
            ((reach, reach, 0, 0), (1, 2 * reach + 1)) if sideways[i] else ((0, 0, reach, reach), (2 * reach + 1, 1))
        )
        blurred[i : i + 1] = F.avg_pool2d(F.pad(images[i : i + 1], pad, mode="replicate"), line, stride=1)
    return blurred


def lower_resolution(images: Tensor, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    """Some people are far away: few pixels (means of areas, as a sensor takes them), enlarged as at run time."""
    if config.low_resolution == 0:
        return images
    n, _, height, width = images.shape
    hit = rng.random(n) < config.low_resolution
    scales = rng.uniform(*config.low_resolution_scale, n)
    coarse = images.clone()
    for i in np.flatnonzero(hit):
        small = (max(1, round(height * scales[i])), max(1, round(width * scales[i])))
        few = F.interpolate(images[i : i + 1], small, mode="area")
        coarse[i : i + 1] = F.interpolate(few, (height, width), mode="bilinear", align_corners=False)
    return coarse


def turn_hue(images: Tensor, turns: FloatArray) -> Tensor:
    """Every colour goes round the colour circle by turns (B,); brightness and greys stay. Not clipped."""
    angles = 2.0 * np.pi * turns
    rotation = np.zeros((len(turns), 3, 3))
    rotation[:, 0, 0] = 1.0
    rotation[:, 1, 1] = rotation[:, 2, 2] = np.cos(angles)
    rotation[:, 2, 1] = np.sin(angles)
    rotation[:, 1, 2] = -rotation[:, 2, 1]
    matrices = np.linalg.inv(YUV) @ rotation @ YUV  # (B, 3, 3)
    return torch.einsum("bij,bjhw->bihw", images.new_tensor(matrices), images)


def change_colour(images: Tensor, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    """Brightness, contrast about the image's mean, saturation about its grey, hue; stays in [0, 1]."""

    def factors(spread: float) -> Tensor:
        values = rng.uniform(1.0 - spread, 1.0 + spread, (len(images), 1, 1, 1))
        return images.new_tensor(values)

    images = images * factors(config.brightness)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * factors(config.contrast)
    grey = (images * images.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)
    images = grey + (images - grey) * factors(config.saturation)
    if config.hue > 0:
        images = turn_hue(images, rng.uniform(-config.hue, config.hue, len(images)))
    if config.grey > 0:
        hit = torch.from_numpy(rng.random(len(images)) < config.grey).to(images.device)
        grey = (images * images.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)
        images = torch.where(hit[:, None, None, None], grey, images)
    return images.clamp_(0.0, 1.0)


def erase(images: Tensor, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    """A random rectangle of some normalised images becomes 0, which is the mean colour. In place.

    Random Erasing Data Augmentation. Zhong et al. AAAI 2020, https://arxiv.org/abs/1708.04896
    """
    n, _, height, width = images.shape
    hit = rng.random(n) < config.erase
    area = rng.uniform(*config.erase_area, n) * height * width
    aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3), n))  # height / width; section 3 of the paper
    heights = np.clip(np.sqrt(area * aspect), 1, height).astype(int)
    widths = np.clip(np.sqrt(area / aspect), 1, width).astype(int)
    tops = (rng.random(n) * (height - heights + 1)).astype(int)
    lefts = (rng.random(n) * (width - widths + 1)).astype(int)
    for i in np.flatnonzero(hit):
        images[i, :, tops[i] : tops[i] + heights[i], lefts[i] : lefts[i] + widths[i]] = 0.0
    return images
