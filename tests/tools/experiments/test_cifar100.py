"""The reader of CIFAR-100 on a few generated pictures: classes, colours, errors of the data."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from reid_training.errors import DataError
from tools.experiments import cifar100


@pytest.fixture
def folder(tmp_path):
    """Two pictures to train and one to test of each class; the red of a class is its number, its blue is 200."""
    for number, name in enumerate(cifar100.CLASSES):
        for part, n in (("train", 2), ("test", 1)):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                bgr = np.full((32, 32, 3), (200, 10 * i, number), np.uint8)
                cv2.imwrite(str(tmp_path / part / name / f"{i}.png"), bgr)
    return tmp_path


def test_pictures_are_by_class_in_rgb(folder):
    pictures = cifar100.read(folder)
    assert pictures.shape == (100, 3, 3, 32, 32)
    assert pictures.flags.c_contiguous
    assert pictures[:, 1, :, 5, 7].tolist() == [[number, 10, 200] for number in range(100)]
    assert pictures[0, :, 1, 0, 0].tolist() == [0, 10, 0], "the pictures of train, then of test"


def test_twenty_superclasses_of_five():
    assert [len(members) for members in cifar100.SUPERCLASSES.values()] == [5] * 20
    assert len(set(cifar100.CLASSES)) == 100


@pytest.mark.parametrize(("change", "said"), [("gone", "there are 2 to 3"), ("text", "is not a picture of 32x32")])
def test_damaged_folder_is_named(folder, change, said):
    file = folder / "test" / "wolf" / "0.png"
    if change == "gone":
        file.unlink()
    else:
        file.write_text("no picture")
    with pytest.raises(DataError, match=said):
        cifar100.read(folder)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*cifar100; CIFAR-100 is read from"):
        cifar100.read(tmp_path / "cifar100")
