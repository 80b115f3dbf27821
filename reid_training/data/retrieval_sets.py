"""Four image sets of metric learning in their own folder layouts, with the class splits of the papers.

CUB-200-2011: The Caltech-UCSD Birds-200-2011 Dataset. Wah et al. Technical report, Caltech, 2011.
Cars196: 3D Object Representations for Fine-Grained Categorization. Krause et al. ICCV Workshops 2013.
SOP and the splits of all three: Deep Metric Learning via Lifted Structured Feature Embedding. Song et al. CVPR 2016:
    the first half of the classes of CUB and Cars to train, the second to test; SOP comes with its split.
In-Shop: DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich Annotations. Liu et al. CVPR 2016:
    comes with its split; queries and gallery are apart.

No image has a camera, so each counts as seen by one of its own: every test image asks for all the others. In In-Shop
the queries are camera 1 and the gallery is camera 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from reid_training.data.base import Dataset, IntArray, Samples
from reid_training.errors import DataError
from tracker.runtime.safe_paths import leaves_folder

QUERY, GALLERY = 1, 2  # cameras of In-Shop
SHOP_PARTS = ("train", "query", "gallery")


def read_cub(folder: Path) -> Dataset:
    """`folder` or CUB_200_2011 in it: images.txt, image_class_labels.txt and images/."""
    root = _root(folder, "CUB_200_2011", "images.txt")
    names, classes = (
        {row[0]: row[1] for row in read_words(root / file, 2)} for file in ("images.txt", "image_class_labels.txt")
    )
    if names.keys() != classes.keys():
        raise DataError(f"{root}: images.txt and image_class_labels.txt list different images")
    samples = _samples(root, [f"images/{name}" for name in names.values()], [classes[key] for key in names])
    return _halves("CUB-200-2011", "CUB-200-2011: research and education only", samples)


def read_cars(folder: Path) -> Dataset:
    """`folder` or cars196 in it: cars_annos.mat and the images that it names, car_ims/000001.jpg."""
    root = _root(folder, "cars196", "cars_annos.mat")
    file = root / "cars_annos.mat"
    try:
        rows = np.atleast_1d(loadmat(file, squeeze_me=True)["annotations"])
        names, classes = [str(name) for name in rows["relative_im_path"]], [str(int(one)) for one in rows["class"]]
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from None
    except Exception:  # scipy's reader raises whatever a damaged file leads it into
        raise DataError(f"{file} is not the table of Cars196, or it is damaged") from None
    return _halves("Cars196", "Cars196: research only", _samples(root, names, classes))


def read_sop(folder: Path) -> Dataset:
    """`folder` or Stanford_Online_Products in it: Ebay_train.txt, Ebay_test.txt and the folders that they name."""
    root = _root(folder, "Stanford_Online_Products", "Ebay_train.txt")
    parts = []
    for name in ("Ebay_train.txt", "Ebay_test.txt"):
        rows = read_words(root / name, 4, skip=1)  # image_id class_id super_class_id path
        parts.append(_samples(root, [row[3] for row in rows], [row[1] for row in rows]))
    return _whole("Stanford Online Products", "SOP: research only", *parts)


def read_inshop(folder: Path) -> Dataset:
    """`folder` or In-shop in it: Eval/list_eval_partition.txt (or above Eval/) and img/ (or Img/img/)."""
    table = "list_eval_partition.txt"
    root = next((r for r in (folder, folder / "In-shop") if (r / "Eval" / table).is_file()), None)
    file = root / "Eval" / table if root else _root(folder, "In-shop", table) / table
    root = root or file.parent
    rows = read_words(file, 3, skip=2)  # the number of rows, then: image_name item_id evaluation_status
    images = root / "Img" if (root / "Img").is_dir() else root
    wrong = next((row for row in rows if row[2] not in SHOP_PARTS or not row[1].startswith("id_")), None)
    if wrong is not None:
        raise DataError(f"{file}: rows are img/... id_00000001 {'|'.join(SHOP_PARTS)}, found {' '.join(wrong)!r}")
    found = {part: [row for row in rows if row[2] == part] for part in SHOP_PARTS}
    items = {part: [row[1].removeprefix("id_") for row in found[part]] for part in SHOP_PARTS}
    train, query, gallery = (_samples(images, [r[0] for r in found[part]], items[part]) for part in SHOP_PARTS)
    query = Samples(query.paths, query.pids, np.full(len(query), QUERY))
    gallery = Samples(gallery.paths, gallery.pids, np.full(len(gallery), GALLERY))
    return Dataset("In-Shop", "In-Shop: research only", train, query, gallery)


def _root(folder: Path, name: str, file: str) -> Path:
    for root in (folder, folder / name):
        if (root / file).is_file():
            return root
    raise DataError(f"no {file} in {folder} or {folder / name}")


def read_words(file: Path, n_columns: int, skip: int = 0) -> list[tuple[str, ...]]:
    """Rows of words between spaces; the last column may hold spaces."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()[skip:]
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{file} is not text in UTF-8") from None
    rows = []
    for number, line in enumerate(lines, skip + 1):
        words = line.split(None, n_columns - 1)
        if words and len(words) != n_columns:
            raise DataError(f"{file}, line {number}: {n_columns} columns expected, got {line[:80]!r}")
        if words:
            rows.append(tuple(word.strip() for word in words))
    return rows


def _samples(root: Path, names: Sequence[str], classes: Sequence[str]) -> Samples:
    """names: paths below `root`; classes: whole numbers from 1, as text."""
    if not names:
        raise DataError(f"{root}: no images listed")
    outside = next((name for name in names if leaves_folder(name)), None)
    if outside is not None:
        raise DataError(f"{root}: a table names a file outside it, {outside!r}")
    if not all(one.isdecimal() and len(one) <= 18 for one in classes):
        raise DataError(f"{root}: classes must be whole numbers")
    pids = np.array([int(one) for one in classes], dtype=np.int64)
    return Samples(tuple(root / name for name in names), pids, unknown_cameras(len(names)))


def unknown_cameras(n: int) -> IntArray:
    """-1, -2, ...: no two images are by the same camera."""
    return -1 - np.arange(n, dtype=np.int64)


def _halves(name: str, licence: str, samples: Samples) -> Dataset:
    classes = np.unique(samples.pids)
    is_test = np.isin(samples.pids, classes[len(classes) // 2 :])
    return _whole(name, licence, samples.take(np.flatnonzero(~is_test)), samples.take(np.flatnonzero(is_test)))


def _whole(name: str, licence: str, train: Samples, test: Samples) -> Dataset:
    """All test images are queries and gallery."""
    if len(np.intersect1d(train.pids, test.pids)):
        raise DataError(f"{name}: a class is in the training and in the test part")
    return Dataset(name, licence, train, test, test)
