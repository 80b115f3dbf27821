"""Posts are drawn where no people are, and nowhere else than they say."""

from __future__ import annotations

import numpy as np
import pytest

from tools.detector_training.posts import MAX_POSTS, draw_posts

GREY = 114


@pytest.mark.parametrize("seed", range(20))
def test_posts_cover_no_person_and_repeat_with_the_seed(seed):
    people = np.array([[40.0, 30, 80, 150], [200, 10, 230, 90]])
    pictures = [np.full((192, 256, 3), GREY, np.uint8) for _ in range(2)]
    for picture in pictures:
        draw_posts(picture, people, (20.0, 400.0), np.random.default_rng(seed))
    assert np.array_equal(*pictures)
    for left, top, right, bottom in people.astype(int):
        assert (pictures[0][top + 1 : bottom - 1, left + 1 : right - 1] == GREY).all()


def test_posts_are_as_high_as_asked_for():
    """Of many thin pictures the rows that are drawn in each; posts may stand on one another."""
    most = 0
    for seed in range(60):
        picture = np.full((400, 400, 3), GREY, np.uint8)
        draw_posts(picture, np.zeros((0, 4)), (50.0, 60.0), np.random.default_rng(seed))
        n_rows = (picture != GREY).any(axis=(1, 2)).sum()
        most = max(most, n_rows)
        assert n_rows <= MAX_POSTS * 80
    assert most >= 100
