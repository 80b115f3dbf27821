"""Data sets made in Python: arrays of pictures, and data sets of torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from reid_training.data.base import ByteArray, Dataset, IntArray, Samples, undivided, unlabelled_samples
from reid_training.data.retrieval_sets import unknown_cameras
from reid_training.errors import DataError

LICENCE = "not stated: that of the user's own images"


@dataclass(frozen=True, slots=True)
class Item:
    """One picture, read when it is needed: `source[row]` is it, or begins with it."""

    source: Any
    row: int

    def read(self) -> ByteArray:
        """RGB (H, W, 3)."""
        found = self.source[self.row]
        return as_picture(found[0] if isinstance(found, tuple | list) else found, str(self))

    def __str__(self) -> str:
        return f"picture {self.row} of {type(self.source).__name__}"


def as_dataset(data: Any) -> Dataset:
    """A `Dataset` as it is; (images, labels[, cameras]) by `from_arrays`, a data set of torch by `from_torch`."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, tuple) and len(data) in (2, 3):
        return from_arrays(*data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return from_torch(data)
    raise DataError(
        "the data must be a Dataset, (images, labels[, cameras]), or a torch.utils.data.Dataset with a length that "
        f"gives (image, label[, camera]); got a {type(data).__name__}"
    )


def as_crops(images: Any) -> Samples:
    """Unlabelled pictures: `Samples` as they are, or any sequence of pictures as `as_picture` takes them."""
    if isinstance(images, Samples):
        return images
    return unlabelled_samples([Item(images, row) for row in range(len(images))])


def from_arrays(
    images: Any, labels: Any, cameras: Any = None, *, name: str = "arrays", licence: str = LICENCE
) -> Dataset:
    """A set of pictures in memory, or in a memory map.

    images (N, H, W, 3) uint8 RGB, or a sequence of pictures as `as_picture` takes them; labels and cameras (N,) are
    numbers or texts. Without cameras no two images are by the same one. All images are for training, and queries and
    gallery. Raises DataError where they do not fit together.
    """
    if len(images) != len(labels) or (cameras is not None and len(cameras) != len(images)):
        n_cameras = "" if cameras is None else f" and {len(cameras)} cameras"
        raise DataError(f"{name}: {len(images)} images, but {len(labels)} labels{n_cameras}")
    pids = _numbered(labels, f"{name}: labels")
    camids = unknown_cameras(len(pids)) if cameras is None else _numbered(cameras, f"{name}: cameras")
    pictures = tuple(Item(images, row) for row in range(len(pids)))
    return undivided(name, licence, Samples(pictures, pids, camids))


def from_torch(data: Any, *, name: str = "", licence: str = LICENCE) -> Dataset:
    """The set that a torch.utils.data.Dataset is, which gives (image, label) or (image, label, camera).

    It must give the same for the same row; random changes belong into the run's `[augment]`. Pictures are read when
    they are needed. Labels: `data.targets`, as the data sets of torchvision have it, where it gives no cameras; else
    every picture is read once here.
    """
    name = name or type(data).__name__
    if len(data) == 0:
        raise DataError(f"{name}: no images")
    first = _checked(data[0], name)
    targets = getattr(data, "targets", None)
    if len(first) == 2 and targets is not None and len(targets) == len(data):
        return from_arrays(data, targets, name=name, licence=licence)
    rows = [_checked(data[row], name)[1:] for row in range(len(data))]
    return from_arrays(data, *zip(*rows, strict=True), name=name, licence=licence)


def as_picture(image: Any, where: str) -> ByteArray:
    """One picture of any kind as RGB (H, W, 3) uint8.

    image: such an array, a PIL image, or a tensor (3, H, W), uint8 or in [0, 1]. where: for messages. Raises DataError
    for anything else.
    """
    if hasattr(image, "convert"):  # PIL's; palettes, grey and transparency become RGB
        image = image.convert("RGB")
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if isinstance(image, Tensor) and array.ndim == 3:
        array = array.transpose(1, 2, 0)
        if np.issubdtype(array.dtype, np.floating) and array.size and 0.0 <= array.min() <= array.max() <= 1.0:
            array = np.rint(255.0 * array).astype(np.uint8)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise DataError(
            f"{where}: a picture must be an array (H, W, 3) uint8, RGB, a PIL image, or a tensor (3, H, W), uint8 or "
            f"in [0, 1]; got {type(image).__name__} {array.shape} {array.dtype}"
        )
    return np.ascontiguousarray(array)


def _checked(row: Any, name: str) -> Sequence[Any]:
    if not isinstance(row, tuple | list) or len(row) not in (2, 3):
        what = f"{len(row)} values" if isinstance(row, tuple | list) else f"a {type(row).__name__}"
        raise DataError(f"{name}: must give (image, label) or (image, label, camera) for each row, gives {what}")
    return row


def _numbered(values: Iterable[Any], where: str) -> IntArray:
    """Every different value as its place in their order, from 1; 0 and -1 have a meaning in Market-1501."""
    array = np.asarray([value.item() if isinstance(value, Tensor) and value.ndim == 0 else value for value in values])
    if array.ndim != 1 or array.dtype.kind not in "biufUS":
        raise DataError(f"{where} must be one number or text for each image, got {array.shape} {array.dtype}")
    return np.unique(array, return_inverse=True)[1].astype(np.int64) + 1
