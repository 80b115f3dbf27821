"""Augmentation: every transform against one image and one pixel at a time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from reid_training.config import AugmentConfig, RunConfig, from_dict
from reid_training.data import transforms
from reid_training.data.transforms import (
    augment,
    blur_motion,
    change_colour,
    erase,
    lower_resolution,
    move_window,
    normalise,
    occlude,
    to_tensor,
    turn_hue,
)
from reid_training.errors import ConfigError
from tracker.settings import from_table, to_dict

OFF = AugmentConfig(flip=0, zoom=0, shift=0, brightness=0, contrast=0, saturation=0, erase=0)
NEW = ("hue", "box_jitter", "occlude", "motion_blur", "low_resolution", "figures", "pad", "grid", "rotate", "grey")
STRONG = {**dict.fromkeys(NEW, 1.0), "hue": 0.1, "box_jitter": 0.1, "grey": 0.5}


@pytest.fixture
def crops():
    return np.random.default_rng(0).integers(0, 256, (6, 32, 16, 3), dtype=np.uint8)


@pytest.fixture
def images(crops):
    return to_tensor(crops)


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---------------------------------------------------------------- off means off


@pytest.mark.parametrize("config", [AugmentConfig(), OFF])
def test_earlier_configs_give_the_same_batches_to_the_bit(crops, config):
    """Such a config draws and applies only flip, zoom, shift, three colour changes and erasing."""
    assert all(getattr(config, name) == 0 for name in NEW)
    mine, theirs = rng_of(7), rng_of(7)
    for _ in range(3):
        n = len(crops)
        # Drawn here in the order in which it was always drawn.
        sides = np.where(theirs.random(n) < config.flip, -1.0, 1.0)
        zoom = theirs.uniform(1.0 - config.zoom, 1.0 + config.zoom / 2, (n, 2))
        shift = theirs.uniform(-2.0 * config.shift, 2.0 * config.shift, (n, 2))
        theta = np.zeros((n, 2, 3), np.float32)
        theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = zoom[:, 0] * sides, zoom[:, 1], shift
        batch = to_tensor(crops)
        grid = torch.nn.functional.affine_grid(torch.from_numpy(theta), list(batch.shape), align_corners=False)
        batch = torch.nn.functional.grid_sample(batch, grid, padding_mode="border", align_corners=False)
        light, contrast, saturation = (
            torch.from_numpy(theirs.uniform(1.0 - s, 1.0 + s, (n, 1, 1, 1)).astype(np.float32))
            for s in (config.brightness, config.contrast, config.saturation)
        )
        batch = batch * light
        mean = batch.mean((1, 2, 3), keepdim=True)
        batch = mean + (batch - mean) * contrast
        grey = (batch * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        batch = (grey + (batch - grey) * saturation).clamp(0.0, 1.0)
        expected = erase(normalise(batch), theirs, config)
        assert torch.equal(augment(crops, mine, config), expected)
    assert mine.random() == theirs.random(), "as many random numbers were drawn"


@pytest.mark.parametrize("change", [occlude, blur_motion, lower_resolution])
def test_disabled_transform_draws_and_changes_nothing(images, change):
    rng = rng_of(1)
    assert torch.equal(change(images, rng, OFF), images)
    assert rng.random() == rng_of(1).random()


@pytest.mark.parametrize("name", NEW)
def test_transforms_repeat_with_the_seed_and_keep_stored_pixels(crops, name):
    before = crops.copy()
    config = dataclasses.replace(OFF, **{name: STRONG[name]})
    first, again, other = (augment(crops, rng_of(seed), config) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.allclose(first, normalise(to_tensor(crops)), atol=0.05), "it does something"
    assert first.shape == (6, 3, 32, 16)
    assert first.dtype == torch.float32
    assert torch.isfinite(first).all()
    assert np.array_equal(crops, before)


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("n", [1, 2])
def test_small_batches_are_transformed(name, n):
    crops = np.full((n, 16, 16, 3), 200, np.uint8)
    assert augment(crops, rng_of(0), dataclasses.replace(OFF, **{name: STRONG[name]})).shape == (n, 3, 16, 16)


@pytest.mark.parametrize("name", ["occlude", "motion_blur", "low_resolution"])
def test_probability_is_the_share_of_changed_images(name):
    crops = rng_of(0).integers(0, 256, (400, 16, 16, 3), dtype=np.uint8)
    config = dataclasses.replace(OFF, **{name: 0.3})
    change = {"occlude": occlude, "motion_blur": blur_motion, "low_resolution": lower_resolution}[name]
    images = to_tensor(crops)
    changed = (change(images, rng_of(3), config) != images).flatten(1).any(1).float().mean()
    assert abs(float(changed) - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 400)


# ---------------------------------------------------------------- box jitter


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """One look-up; pixel centres are at 0.5, 1.5, ...; the edge is repeated outside."""
    height, width = image.shape[:2]
    y, x = min(max(y - 0.5, 0.0), height - 1.0), min(max(x - 0.5, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * image[top, left] + dx * image[top, right]
    lower = (1 - dx) * image[bottom, left] + dx * image[bottom, right]
    return (1 - dy) * upper + dy * lower


def test_box_jitter_moves_each_edge_by_its_own_error(crops):
    config = dataclasses.replace(OFF, box_jitter=0.1)
    moved = move_window(to_tensor(crops), rng_of(5), config).numpy()
    draws = rng_of(5)
    for shape in ((6,), (6, 2), (6, 2)):  # flip, zoom and shift draw as ever
        draws.random(shape)
    errors = np.clip(draws.standard_normal((6, 2, 2)), -2, 2) * 0.1  # image, (x, y), (near, far)
    errors[:, 1] /= 2  # the crop is twice as high as wide: the same pixels
    for i, ((left, right), (top, bottom)) in enumerate(errors):
        box = (16 * left, 32 * top, 16 * (1 + right), 32 * (1 + bottom))
        for row, column in [(0, 0), (31, 15), (7, 3), (16, 8), (30, 1)]:
            x = box[0] + (column + 0.5) / 16 * (box[2] - box[0])
            y = box[1] + (row + 0.5) / 32 * (box[3] - box[1])
            expected = bilinear(crops[i] / 255.0, y, x)
            np.testing.assert_allclose(moved[i, :, row, column], expected, atol=2e-4)


def test_box_jitter_flip_zoom_and_shift_are_one_resampling(crops):
    """The window of zoom and shift lies inside the jittered box: the same as one after the other, in coordinates."""
    config = AugmentConfig(1.0, 0.1, 0.05, 0, 0, 0, 0, box_jitter=0.1)
    moved = move_window(to_tensor(crops), rng_of(5), config).numpy()
    draws = rng_of(5)
    draws.random(6)
    zoom, shift = draws.uniform(0.9, 1.05, (6, 2)), draws.uniform(-0.1, 0.1, (6, 2))
    errors = np.clip(draws.standard_normal((6, 2, 2)), -2, 2) * [[0.1], [0.05]]
    for i in range(6):
        for row, column in [(0, 0), (31, 15), (7, 3), (16, 8)]:
            inner = np.array([-(2 * (column + 0.5) / 16 - 1), 2 * (row + 0.5) / 32 - 1])  # flipped, -1 .. 1
            share = ((inner * zoom[i] + shift[i]) + 1) / 2  # of the box, 0 .. 1
            x, y = (errors[i, :, 0] + share * (1 + errors[i, :, 1] - errors[i, :, 0])) * (16, 32)
            np.testing.assert_allclose(moved[i, :, row, column], bilinear(crops[i] / 255.0, y, x), atol=2e-4)


# ---------------------------------------------------------------- occlusion


@pytest.mark.parametrize("seed", range(5))
def test_occlusion_pastes_a_part_of_another_crop(seed):
    """Image i is grey i; its columns and rows are coded in the other channels, so each pixel tells where it was."""
    n, height, width = 8, 40, 20
    images = torch.zeros(n, 3, height, width)
    images[:, 0] = torch.arange(n)[:, None, None]
    images[:, 1] = torch.arange(height)[None, :, None]
    images[:, 2] = torch.arange(width)[None, None, :]
    config = dataclasses.replace(OFF, occlude=1.0, occlude_depth=(0.2, 0.5))
    out = occlude(images, rng_of(seed), config).numpy().astype(int)
    kinds = set()
    for i in range(n):
        covered = out[i, 0] != i
        rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
        assert covered[rows[0] :, columns[0] : columns[-1] + 1].all(), "one rectangle, down to the lower edge"
        assert covered.sum() == len(rows) * len(columns)
        others = np.unique(out[i, 0][covered])
        assert len(others) == 1, "from one other image"
        own = ~covered
        assert np.array_equal(out[i, 1][own], np.indices((height, width))[0][own])
        # The other crop is moved as a whole: down, and to one side.
        offsets = np.unique((np.indices((height, width)) - out[i, 1:])[:, covered], axis=1)
        assert offsets.shape == (2, 1)
        down, right = offsets[:, 0]
        assert down >= 0
        if len(columns) == width:
            kinds.add("below")
            assert right == 0
            assert 0.2 * height - 1 <= len(rows) <= 0.5 * height + 1
        else:
            kinds.add("left" if columns[0] == 0 else "right")
            assert (right < 0) == (columns[0] == 0)
            assert 0.2 * width - 1 <= len(columns) <= 0.5 * width + 1
            assert len(rows) >= 0.7 * height - 1
    assert len(kinds) >= 2


def test_occlusion_needs_another_person(images):
    assert torch.equal(occlude(images[:1], rng_of(0), dataclasses.replace(OFF, occlude=1.0)), images[:1])


# ---------------------------------------------------------------- motion blur and resolution


@pytest.mark.parametrize("seed", range(3))
def test_motion_blur_is_the_mean_along_a_line(images, seed):
    config = dataclasses.replace(OFF, motion_blur=1.0, motion_blur_length=(0.1, 0.6))
    blurred = blur_motion(images, rng_of(seed), config).numpy()
    draws = rng_of(seed)
    draws.random(6)
    lengths, sideways = draws.uniform(0.1, 0.6, 6) * 16, draws.random(6) < 0.5
    for i in range(6):
        reach = max(1, round((lengths[i] - 1) / 2))
        for row in range(32):
            for column in range(0, 16, 3):
                line = []
                for step in range(-reach, reach + 1):
                    y, x = (row, column + step) if sideways[i] else (row + step, column)
                    line.append(images[i, :, min(max(y, 0), 31), min(max(x, 0), 15)].numpy())
                np.testing.assert_allclose(blurred[i, :, row, column], np.mean(line, axis=0), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_low_resolution_averages_areas_and_enlarges(crops, seed):
    config = dataclasses.replace(OFF, low_resolution=1.0, low_resolution_scale=(0.2, 0.9))
    coarse = lower_resolution(to_tensor(crops), rng_of(seed), config).numpy()
    draws = rng_of(seed)
    draws.random(6)
    for i, scale in enumerate(draws.uniform(0.2, 0.9, 6)):
        height, width = max(1, round(32 * scale)), max(1, round(16 * scale))
        few = np.empty((height, width, 3))
        for y in range(height):
            for x in range(width):
                ys = slice(32 * y // height, -(-32 * (y + 1) // height))  # every pixel that the area touches
                xs = slice(16 * x // width, -(-16 * (x + 1) // width))
                few[y, x] = crops[i, ys, xs].mean((0, 1)) / 255.0
        for row, column in [(0, 0), (31, 15), (9, 4), (17, 12)]:
            expected = bilinear(few, (row + 0.5) * height / 32, (column + 0.5) * width / 16)
            np.testing.assert_allclose(coarse[i, :, row, column], expected, atol=1e-5)


# ---------------------------------------------------------------- hue


def test_hue_turns_the_colour_angle_of_every_pixel(images):
    turns = np.array([0.0, 0.1, -0.1, 0.25, 0.5, -0.37])
    turned = turn_hue(images, turns)
    for i, turn in enumerate(turns):
        for row, column in [(0, 0), (5, 9), (31, 15)]:
            red, green, blue = (float(v) for v in images[i, :, row, column])
            bright = 0.299 * red + 0.587 * green + 0.114 * blue
            colour = complex(0.492 * (blue - bright), 0.877 * (red - bright))
            colour *= complex(math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn))
            new_blue, new_red = bright + colour.real / 0.492, bright + colour.imag / 0.877
            new_green = (bright - 0.299 * new_red - 0.114 * new_blue) / 0.587
            np.testing.assert_allclose(turned[i, :, row, column], [new_red, new_green, new_blue], atol=1e-5)
    torch.testing.assert_close(turn_hue(turned, -turns), images, atol=1e-5, rtol=0)


def test_hue_leaves_greys_and_the_range(images):
    grey = images[:, :1].expand(-1, 3, -1, -1)
    config = dataclasses.replace(OFF, hue=0.5)
    torch.testing.assert_close(change_colour(grey.clone(), rng_of(0), config), grey, atol=1e-5, rtol=0)
    changed = change_colour(images, rng_of(0), config)
    assert 0.0 <= float(changed.min()) <= float(changed.max()) <= 1.0


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("occlude", 1.5, r"must be in \[0, 1\]"),
        ("motion_blur", -0.1, r"must be in \[0, 1\]"),
        ("low_resolution", 2.0, r"must be in \[0, 1\]"),
        ("hue", 0.6, r"must be in \[0, 0.5\]"),
        ("box_jitter", 0.3, r"must be in \[0, 0.2\]"),
        ("box_jitter", float("nan"), r"must be in"),
        ("occlude_depth", [0.5, 0.1], "the smaller first"),
        ("motion_blur_length", [0.0, 0.1], "must be in"),
        ("low_resolution_scale", [0.5], "must be a list of 2"),
        ("low_resolution_scale", [0.5, 1.2], "must be in"),
    ],
)
def test_strengths_out_of_range_are_refused(name, value, reason):
    with pytest.raises(ConfigError, match=f"augment.{name}.*{reason}"):
        from_table(AugmentConfig, {name: value}, "augment")


def test_earlier_checkpoint_config_has_new_transforms_off():
    plain = to_dict(RunConfig())
    for name in (*NEW, "occlude_depth", "motion_blur_length", "low_resolution_scale"):
        del plain["augment"][name]
    assert from_dict(plain) == RunConfig()


def test_yuv_brightness_row_equals_saturation_grey():
    np.testing.assert_allclose(transforms.YUV[0], transforms.GREY)
    np.testing.assert_allclose(transforms.YUV @ np.ones(3), [1, 0, 0], atol=1e-12)


# ---------------------------------------------------------------- things in front, turns, sizes


def only(**settings):
    return dataclasses.replace(OFF, **settings)


def test_rotation_keeps_distances_in_pixels():
    """A spot goes round the centre of a picture that is not square, at the same distance, by up to 10 degrees."""
    y, x = np.mgrid[:64, :32]
    spot = np.exp(-((x - 23.5) ** 2 + (y - 15.5) ** 2) / 8.0)  # 8 right of the centre and 16 above it
    images = torch.from_numpy(np.broadcast_to(spot, (40, 3, 64, 32)).copy()).float()
    turned = move_window(images, rng_of(0), only(rotate=1.0)).numpy()[:, 0]
    mass = turned.sum((1, 2))
    dx, dy = (turned * (x - 15.5)).sum((1, 2)) / mass, (turned * (y - 31.5)).sum((1, 2)) / mass
    np.testing.assert_allclose(np.hypot(dx, dy), math.hypot(8, 16), atol=0.3)
    degrees = np.rad2deg(np.arctan2(dy, dx) - math.atan2(-16, 8))
    assert np.abs(degrees).max() < 10.5
    assert degrees.min() < -5 < 5 < degrees.max()


def test_grid_mask_is_two_families_of_lines_pixel_by_pixel():
    height, width = 24, 12
    mask, rng = transforms.grid_mask(height, width, rng_of(3)), rng_of(3)
    angle, spacing, line = rng.uniform(0, math.pi / 2), rng.uniform(0.12, 0.35), rng.uniform(0.01, 0.03)
    below, right = rng.uniform(0.0, height, (2, 1, 1)).ravel()
    for row in range(height):
        for column in range(width):
            y, x = row + below, column + right
            along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
            is_line = any(place % (spacing * height) < max(1.0, line * height) for place in (along, across))
            assert mask[row, column] == is_line


@pytest.mark.parametrize("name", ["figures", "grid", "pad"])
def test_painted_things_have_few_colours_and_leave_the_rest(images, name):
    covered = transforms.draw_over(images, rng_of(0), only(**{name: 1.0}))
    for before, after in zip(images, covered, strict=True):
        changed = (before != after).any(0)
        assert 0.0 < float(changed.float().mean()) < 0.9
        assert len(torch.unique(after[:, changed].T, dim=0)) <= 5
    assert torch.equal(images, to_tensor(np.random.default_rng(0).integers(0, 256, (6, 32, 16, 3), dtype=np.uint8)))


def test_bars_lie_along_the_edges_alone():
    for seed in range(20):
        mask = transforms.bars_mask(40, 20, rng_of(seed))
        assert not mask[6:34, 3:17].any()  # 15 % of each side is the most


def test_grey_pictures_have_no_colours(images):
    grey = change_colour(images, rng_of(0), only(grey=1.0))
    torch.testing.assert_close(grey[:, 0], grey[:, 1])
    torch.testing.assert_close(grey[:, 0], (images * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1))


def test_each_batch_has_one_of_the_sizes(crops):
    config, rng = only(sizes=(1.0, 0.5, 1.5)), rng_of(0)
    found = {tuple(augment(crops, rng, config).shape[2:]) for _ in range(30)}
    assert found == {(32, 16), (16, 16), (48, 32)}  # multiples of 16
