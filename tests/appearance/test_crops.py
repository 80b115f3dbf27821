"""Crops against a plain loop, also at and beyond the edge of the image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tracker.appearance.crops import crop_batch

MEAN, STD, SCALE = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0), 1 / 255


@pytest.fixture
def image():
    return np.random.default_rng(5).integers(0, 256, (120, 160, 3)).astype(np.uint8)


@pytest.mark.parametrize("rgb", [True, False])
def test_crops_agree_with_one_pixel_at_a_time(image, rgb):
    boxes = np.array([[10, 20, 50, 100], [0.4, 0.6, 30.5, 70.2], [100, 30, 160, 120]])
    crops, seen = crop_batch(image, boxes, (32, 16), MEAN, STD, SCALE, rgb)
    assert crops.shape == (3, 3, 32, 16)
    assert crops.dtype == np.float32
    assert seen.all()
    for crop, (x1, y1, x2, y2) in zip(crops, np.rint(boxes).astype(int), strict=True):
        small = cv2.resize(image[y1:y2, x1:x2], (16, 32), interpolation=cv2.INTER_LINEAR)
        for channel in range(3):
            plane = small[:, :, 2 - channel if rgb else channel].astype(float)
            np.testing.assert_allclose(crop[channel], (plane * SCALE - MEAN[channel]) / STD[channel], atol=1e-5)


def test_crop_is_clipped_at_the_image(image):
    inside, _ = crop_batch(image, np.array([[0, 0, 40, 60.0]]), (32, 16), MEAN, STD, SCALE, True)
    beyond, seen = crop_batch(image, np.array([[-1e9, -20, 40, 60.0]]), (32, 16), MEAN, STD, SCALE, True)
    np.testing.assert_array_equal(inside, beyond)
    assert seen.all()


@pytest.mark.parametrize(
    "box", [[200, 10, 220, 50], [-30, 10, 1, 50], [10, 10, 11, 90], [50, 50, 20, 90], [np.nan, 1, 2, 3]]
)
def test_empty_box_gives_zeros_and_is_marked(image, box):
    crops, seen = crop_batch(image, np.array([[10, 10, 50, 90], box]), (32, 16), MEAN, STD, SCALE, True)
    np.testing.assert_array_equal(seen, [True, False])
    assert (crops[1] == 0).all()
    assert (crops[0] != 0).any()


def test_no_boxes_and_other_memory_layouts(image):
    crops, seen = crop_batch(image, np.zeros((0, 4)), (32, 16), MEAN, STD, SCALE, True)
    assert (crops.shape, seen.shape) == ((0, 3, 32, 16), (0,))
    box = np.array([[10, 10, 50, 90.0]])
    strided = np.asfortranarray(image)
    np.testing.assert_array_equal(
        crop_batch(image, box, (32, 16), MEAN, STD, SCALE, True)[0],
        crop_batch(strided, box, (32, 16), MEAN, STD, SCALE, True)[0],
    )
