"""Random changes of a whole batch at once, on pixels that were decoded once. Every random number is an argument."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone knows
from torch import Tensor

from reid_training.config import AugmentConfig
from reid_training.data.base import ByteArray

# ImageNet's statistics: any fixed numbers would do, these are the ones that other people's tools expect.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
PIXEL_SCALE = 1.0 / 255.0
GREY = (0.299, 0.587, 0.114)


def normalise(images: Tensor) -> Tensor:
    """RGB in [0, 1], (B, 3, H, W), to what the network takes: (value - mean) / std."""
    mean, std = images.new_tensor(MEAN), images.new_tensor(STD)
    return (images - mean[:, None, None]) / std[:, None, None]


def to_tensor(images: ByteArray) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [0, 1]; the memory stays channels-last, as the network wants it."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() * PIXEL_SCALE


def augment(images: ByteArray, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    """uint8 (B, H, W, 3) to network input (B, 3, H, W): flip, zoom, shift, colour, erase."""
    batch = move_window(to_tensor(images), rng, config)
    batch = normalise(change_colour(batch, rng, config))
    return erase(batch, rng, config)


def move_window(images: Tensor, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    """Flip, enlarge-and-crop and shift as one bilinear look-up; beyond the edge the edge's colour goes on."""
    n = len(images)
    sides = np.where(rng.random(n) < config.flip, -1.0, 1.0)
    zoom = rng.uniform(1.0 - config.zoom, 1.0 + config.zoom / 2, (n, 2))
    shift = rng.uniform(-2.0 * config.shift, 2.0 * config.shift, (n, 2))  # the look-up counts from -1 to 1
    theta = np.zeros((n, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 1, 1] = zoom[:, 0] * sides, zoom[:, 1]
    theta[:, :, 2] = shift
    grid = F.affine_grid(torch.from_numpy(theta), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def change_colour(images: Tensor, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    """Brightness, contrast about the image's mean, saturation about its grey; stays in [0, 1]."""

    def factors(spread: float) -> Tensor:
        values = rng.uniform(1.0 - spread, 1.0 + spread, (len(images), 1, 1, 1))
        return torch.from_numpy(values.astype(np.float32))

    images = images * factors(config.brightness)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * factors(config.contrast)
    grey = (images * images.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)
    images = grey + (images - grey) * factors(config.saturation)
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
