"""MSMT17 in its own two folder layouts: V1 with train and test, V2, whose faces are blurred, with mask_train_v2, ...

Person Transfer GAN to Bridge Domain Gap for Person Re-Identification. Longhui Wei, Shiliang Zhang, Wen Gao, Qi Tian.
CVPR 2018, https://arxiv.org/abs/1711.08565.
Four lists hold the images: a line "0000/0000_000_01_0303morning_0008_0.jpg 0" is a path below the folder of the part,
whose third number is the camera (01), and the person (0). Both parts count their people from 0. The training part is
list_train and list_val together, as in the paper: the same 1,041 people.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reid_training.data.base import Dataset, Samples
from reid_training.data.retrieval_sets import read_words
from reid_training.errors import DataError
from tracker.runtime.safe_paths import leaves_folder

LICENCE = "MSMT17: research only, on request"
NAMES = ("MSMT17_V1", "MSMT17_V2", "MSMT17")  # folders that the archives unpack to
FOLDERS = (("train", "test"), ("mask_train_v2", "mask_test_v2"))


def read(folder: Path) -> Dataset:
    root = next(
        (one for one in (folder, *(folder / name for name in NAMES)) if (one / "list_train.txt").is_file()), None
    )
    if root is None:
        raise DataError(f"{folder} is not MSMT17: it has no list_train.txt")
    parts = next(((a, b) for a, b in FOLDERS if (root / a).is_dir() and (root / b).is_dir()), None)
    if parts is None:
        raise DataError(f"{root} is not MSMT17: it has neither train and test (V1) nor mask_train_v2 and mask_test_v2")
    train = _samples(root, parts[0], ("list_train.txt", "list_val.txt"), 1)
    n_people = int(train.pids.max())
    query, gallery = (
        _samples(root, parts[1], (name,), 1 + n_people) for name in ("list_query.txt", "list_gallery.txt")
    )
    return Dataset("MSMT17", LICENCE, train, query, gallery)


def _samples(root: Path, part: str, lists: tuple[str, ...], first: int) -> Samples:
    """first: the number that the person 0 gets; 0 and below have a meaning elsewhere."""
    paths, labels = [], []
    for name in lists:
        for path, person in read_words(root / name, 2):
            words = path.rpartition("/")[2].split("_")
            if len(words) < 3 or not all(word.isdecimal() and len(word) <= 9 for word in (words[2], person)):
                raise DataError(
                    f"{root / name}: lines are like 0000/0000_000_01_0303morning_0008_0.jpg 0, found {path} {person}"
                )
            if leaves_folder(path):
                raise DataError(f"{root / name}: names a file outside {part}, {path!r}")
            paths.append(root / part / path)
            labels.append((int(person) + first, int(words[2])))
    if not paths:
        raise DataError(f"{root / lists[0]}: no images listed")
    table = np.array(labels, dtype=np.int64)  # (N, 2)
    return Samples(tuple(paths), table[:, 0], table[:, 1])
