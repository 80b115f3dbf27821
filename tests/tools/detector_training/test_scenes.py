"""Scenes: what is drawn is where its box says, and nothing depends on who makes it when."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from tests.synthetic.drawn_people import PERSON, SIZE, draw
from tools.detector_training import labels, scenes
from tools.detector_training.config import ScenesConfig, SourceConfig
from tools.detector_training.labels import Picture
from tools.detector_training.scenes import Cut, Plan, Scene, Scenes, Stock

PLAIN = ScenesConfig(
    grids=(1.0, 0.0, 0.0, 0.0), paste=0.0, person_px=(20.0, 60.0), brightness=0.0, contrast=0.0,
    saturation=0.0, hue=0.0, grey=0.0, blur=0.0, low_resolution=0.0, noise=0.0, jpeg=0.0,
    motion_blur=0.0, video=0.0, night=0.0, min_px=2.0, max_zoom=2.0,
)  # fmt: skip
SOURCE = SourceConfig(format="yolo", images="")


def stock_of(tmp_path, boxes, source=SOURCE, *, ignored=None):
    """One drawn picture."""
    rng = np.random.default_rng(0)
    path = tmp_path / "one.png"
    cv2.imwrite(str(path), draw(rng, boxes))
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    picture = Picture(path, array, np.array(ignored or [], dtype=np.float64).reshape(-1, 4))
    return Stock([picture], [source], tmp_path / "cache", 128)


def coloured(image):
    """Bounding box of the person's colour."""
    ys, xs = np.nonzero((image[..., 2] > 140) & (image[..., 0] < 100))
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=np.float64)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("widen", [1.0, 1.6])
def test_a_persons_box_is_where_its_pixels_are(tmp_path, seed, widen):
    stock = stock_of(tmp_path, [(40, 30, 64, 80)], dataclasses.replace(SOURCE, widen=widen))
    scene = scenes.cut_piece(stock, 0, 64, 96, np.random.default_rng(seed), PLAIN)
    if len(scene.boxes):
        np.testing.assert_allclose(scene.boxes[0], coloured(scene.image), atol=1.6)


@pytest.mark.parametrize("seed", range(10))
def test_composed_boxes_lie_in_the_picture(tmp_path, seed):
    stock = stock_of(tmp_path, [(40, 30, 64, 80), (5, 5, 30, 60)], ignored=[(80, 10, 128, 90)])
    cut = Cut(np.full((60, 30, 3), 90, np.uint8), np.full((60, 30), 255, np.uint8))
    config = ScenesConfig(paste=1.0)
    scene = scenes.compose(stock, stock.chances(), [cut], np.random.default_rng(seed), config, 64, 96)
    assert scene.image.shape == (64, 96, 3)
    assert scene.weights.shape == (len(scene.boxes),)
    for boxes in (scene.boxes, scene.ignored):
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= [96, 64]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (np.minimum(*(scene.boxes[:, 2:] - scene.boxes[:, :2]).T) >= config.min_px).all()


def test_scenes_depend_on_their_number_alone(tmp_path):
    stock = stock_of(tmp_path, [(40, 30, 64, 80)])

    def made(order, epoch=0):
        them = Scenes(stock, [], ScenesConfig(), 0, epoch, plain=False)
        return {index: them[Plan(index, 64, 96)].image for index in order}

    first, second = made([0, 1, 2, 3]), made([3, 1, 0, 2])
    assert all((first[index] == second[index]).all() for index in range(4))
    assert (made([0], epoch=1)[0] != first[0]).any()
    assert (first[0] != first[1]).any()


def test_sources_with_missing_people_are_ignored_as_a_whole(tmp_path):
    stock = stock_of(tmp_path, [(40, 30, 64, 80)], dataclasses.replace(SOURCE, complete=False))
    assert stock.ignored[0].tolist() == [[0, 0, SIZE[1], SIZE[0]]]


def test_the_cache_is_made_once_and_holds_the_pixels(tmp_path):
    stock = stock_of(tmp_path, [(40, 30, 64, 80)])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    picture = Picture(tmp_path / "one.png", np.zeros((0, 4)))
    again = Stock([picture], [SOURCE], tmp_path / "cache", 128)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == before
    np.testing.assert_array_equal(stock.image(0), cv2.imread(str(tmp_path / "one.png")))
    np.testing.assert_array_equal(again.image(0), stock.image(0))
    smaller = Stock([picture], [SOURCE], tmp_path / "cache", 64)
    assert smaller.image(0).shape == (48, 64, 3)


def test_groups_stay_on_one_side_and_the_share_is_right():
    source = SourceConfig(format="yolo", images="", held_out=0.3, group=r"(.*)\d\.jpg")
    names = [f"v{k:03d}.jpg" for k in range(2000)]
    held = [scenes.is_held_out(Picture(labels.Path(name), np.zeros((0, 4))), source) for name in names]
    assert all(len(set(held[k : k + 10])) == 1 for k in range(0, 2000, 10))
    assert 0.2 < np.mean(held) < 0.4


def test_flipping_twice_changes_nothing():
    rng = np.random.default_rng(0)
    image, boxes = draw(rng, [(10, 10, 30, 50)]), np.array([[10.0, 10, 30, 50]])
    scene = Scene(image, boxes, np.array([[0.0, 0, 5, 5]]), np.ones(1))
    once = scenes.flip(scene)
    np.testing.assert_allclose(once.boxes[0], coloured(once.image))
    twice = scenes.flip(once)
    np.testing.assert_array_equal(twice.image, scene.image)
    np.testing.assert_array_equal(twice.boxes, scene.boxes)


def test_pasted_people_hide_those_behind():
    behind = np.array([[40.0, 20, 60, 50]])
    scene = Scene(np.zeros((64, 96, 3), np.uint8), behind, np.zeros((0, 4)), np.array([0.5]))
    cut = Cut(np.full((100, 90, 3), 200, np.uint8), np.full((100, 90), 255, np.uint8))
    config = dataclasses.replace(PLAIN, max_pasted=1, person_px=(58.0, 60.0))
    kept = hidden = 0
    for seed in range(40):
        pasted = scenes.paste(scene, [cut], np.random.default_rng(seed), config)
        area = pasted.image[20:50, 40:60].any(-1).mean()  # of the person behind, what the pasted one covers
        if len(pasted.ignored):
            hidden += 1
            assert area > 0.7
            np.testing.assert_array_equal(pasted.ignored, behind)
            assert pasted.weights.tolist() == [1.0]
        else:
            kept += 1
            assert area < 0.8
            np.testing.assert_array_equal(pasted.boxes[0], behind[0])  # the whole box, whatever is hidden of it
    assert kept
    assert hidden


def test_people_are_cut_out_by_mask_and_by_outline(tmp_path):
    path, mask = tmp_path / "a.png", tmp_path / "a_mask.png"
    image = np.zeros((200, 200, 3), np.uint8)
    image[20:140, 30:70] = PERSON
    cv2.imwrite(str(path), image)
    cv2.imwrite(str(mask), np.where(image[..., 2] > 0, 1, 0).astype(np.uint8))
    boxes = np.array([[30.0, 20, 70, 140]])
    outline = np.array([[30.0, 20], [70, 20], [70, 140], [30, 140]])
    for picture in (Picture(path, boxes, mask=mask), Picture(path, boxes, outlines=(outline,))):
        (cut,) = scenes.cut_people([picture], 60)
        assert cut.image.shape == (60, 20, 3)
        assert (cut.alpha > 200).mean() > 0.9
        assert (cut.image == PERSON).all(-1).mean() > 0.9
    crowded = Picture(path, np.concatenate([boxes, boxes + 5]), outlines=(outline, None))
    assert scenes.cut_people([crowded], 60) == []
    assert scenes.cut_people([Picture(path, boxes)], 60) == []


def test_colours_and_faults_keep_shape_and_type():
    rng = np.random.default_rng(0)
    often = ("grey", "blur", "low_resolution", "noise", "jpeg", "motion_blur", "video", "night")
    config = ScenesConfig(**dict.fromkeys(often, 0.5))
    image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for _ in range(30):
        changed = scenes.degrade(scenes.recolour(image, rng, config), rng, config)
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
    grey = scenes.recolour(image, rng, ScenesConfig(grey=1.0)).astype(int)
    assert np.ptp(grey, axis=2).max() <= 2


def test_small_people_become_ignored():
    boxes = np.array([[0.0, 0, 4, 40], [10, 10, 30, 50]])
    scene = Scene(np.zeros((64, 96, 3), np.uint8), boxes, np.zeros((0, 4)), np.array([0.5, 1.0]))
    left = scenes.drop_small(scene, 8.0)
    assert left.boxes.tolist() == [[10, 10, 30, 50]]
    assert left.ignored.tolist() == [[0, 0, 4, 40]]
    assert left.weights.tolist() == [1.0]


def test_batches_are_padded():
    items = [
        Scene(np.zeros((4, 6, 3), np.uint8), np.ones((n, 4)), np.ones((m, 4)), np.full(n, 0.5))
        for n, m in ((0, 1), (3, 0))
    ]
    images, truth = scenes.collate(items)
    assert images.shape == (2, 4, 6, 3)
    assert truth.is_person.tolist() == [[False] * 3, [True] * 3]
    assert truth.people.sum((1, 2)).tolist() == [0, 12]
    assert truth.ignored.shape == (2, 1, 4)
    assert truth.weights.tolist() == [[0.0] * 3, [0.5] * 3]


def test_batches_have_one_size_and_about_as_many_pixels():
    config = ScenesConfig(heights=(64, 128), widths=(96, 128), chances=(1.0, 1.0))
    batches = scenes.plan_batches(config, 40, 4 * 64 * 96, 0, 3)
    assert {(len(batch), *{(plan.height, plan.width) for plan in batch}) for batch in batches} == {
        (4, (64, 96)),
        (2, (128, 128)),
    }
    numbers = [plan.index for batch in batches for plan in batch]
    assert numbers == list(range(len(numbers)))
    assert batches == scenes.plan_batches(config, 40, 4 * 64 * 96, 0, 3)
    assert batches != scenes.plan_batches(config, 40, 4 * 64 * 96, 0, 4)


def test_a_streak_keeps_brightness_and_direction():
    flat = scenes.streak(9, 0.0)
    assert flat.sum() == pytest.approx(1.0)
    assert np.nonzero(flat)[0].tolist() == [4] * 9
    assert np.nonzero(scenes.streak(9, np.pi / 2))[1].tolist() == [4] * 9


def test_people_of_a_taught_picture_keep_their_weights(tmp_path):
    path = tmp_path / "one.png"
    boxes = [(10, 20, 30, 70), (60, 20, 80, 70)]
    cv2.imwrite(str(path), draw(np.random.default_rng(0), boxes))
    picture = Picture(path, np.array(boxes, float), weights=np.array([0.25, 1.0]), taught=True)
    stock = Stock([picture], [dataclasses.replace(SOURCE, complete=False)], tmp_path / "cache", 128)
    assert len(stock.ignored[0]) == 0
    both = 0
    for seed in range(20):
        scene = scenes.cut_piece(stock, 0, 64, 96, np.random.default_rng(seed), PLAIN)
        if len(scene.boxes) == 2:
            both += 1
            assert scene.weights.tolist() == [0.25, 1.0]
        assert len(scene.weights) == len(scene.boxes)
    assert both
