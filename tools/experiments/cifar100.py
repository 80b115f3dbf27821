"""CIFAR-100 for few-shot tasks: all 600 pictures of each class, the superclasses, and the classes of CIFAR-FS.

Learning Multiple Layers of Features from Tiny Images. Alex Krizhevsky. 2009: the pictures and the superclasses.
Meta-learning with differentiable closed-form solvers. Bertinetto, Henriques, Torr, Vedaldi. ICLR 2019,
https://arxiv.org/abs/1805.08136: CIFAR-FS, 64 classes to train, 16 to validate, 20 to test. Its lists are taken as the
package torchmeta has them (github.com/tristandeleu/pytorch-meta). The user has the pictures in a folder for each class:
https://github.com/cyizhuo/CIFAR-100-dataset; none of it is here.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from reid_training.data.base import ByteArray
from reid_training.errors import DataError

SIDE_PX = 32
PARTS = ("train", "test")  # of the folder; few-shot tasks use the pictures of both
SUPERCLASSES = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
CLASSES = tuple(sorted(name for members in SUPERCLASSES.values() for name in members))
FS_VALIDATION = (
    *("beaver", "otter", "flatfish", "shark", "lamp", "television", "beetle", "butterfly", "sea", "camel", "cattle"),
    *("crab", "crocodile", "maple_tree", "motorcycle", "tractor"),
)
FS_TEST = (
    *("whale", "poppy", "rose", "sweet_pepper", "telephone", "bed", "table", "wardrobe", "leopard", "plain"),
    *("chimpanzee", "fox", "snail", "worm", "baby", "man", "woman", "bicycle", "pickup_truck", "rocket"),
)
FS_TRAIN = tuple(name for name in CLASSES if name not in FS_VALIDATION + FS_TEST)


def read(folder: Path) -> ByteArray:
    """Pictures by class, in the order of CLASSES: (100, n, 3, SIDE_PX, SIDE_PX), RGB; n is 600 for the whole set."""
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; CIFAR-100 is read from PARTS/CLASS/*.png, as github.com/cyizhuo has it")
    by_class = []
    for name in CLASSES:
        files = [file for part in PARTS for file in sorted((folder / part / name).glob("*.png"))]
        by_class.append([_picture(file) for file in files])
    counts = {len(pictures) for pictures in by_class}
    if len(counts) != 1 or counts == {0}:
        raise DataError(f"{folder}: every class needs as many pictures, there are {min(counts)} to {max(counts)}")
    return np.ascontiguousarray(np.array(by_class, np.uint8).transpose(0, 1, 4, 2, 3))


def _picture(file: Path) -> ByteArray:
    """(SIDE_PX, SIDE_PX, 3)."""
    pixels = cv2.imread(str(file))
    if pixels is None or pixels.shape[:2] != (SIDE_PX, SIDE_PX):
        raise DataError(f"{file} is not a picture of {SIDE_PX}x{SIDE_PX} pixels")
    return np.asarray(pixels, np.uint8)[..., ::-1]
