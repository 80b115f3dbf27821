"""Data sets in their own folder layouts, told apart by what lies in the folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reid_training.data import market1501, msmt17, retrieval_sets
from reid_training.data.base import Dataset, Samples, unlabelled_samples
from reid_training.errors import DataError


@dataclass(frozen=True, slots=True)
class Layout:
    """One of `marks` lies in the folder itself, or in one of `roots` in it: what an archive unpacks to."""

    names: str
    has: str  # for messages
    marks: tuple[str, ...]
    roots: tuple[str, ...]
    read: Callable[[Path], Dataset]

    def is_in(self, folder: Path) -> bool:
        return any((folder / root / mark).exists() for root in ("", *self.roots) for mark in self.marks)


MARKET_ROOTS = (*market1501.ROOTS, *market1501.CUHK03_BOXES)
MARKET_HAS = "bounding_box_train, query and bounding_box_test"
MSMT17_HAS = "list_train.txt, _val, _query and _gallery, and train and test or mask_train_v2 and mask_test_v2"
SHOP = ("list_eval_partition.txt", "Eval/list_eval_partition.txt")
# The registry of folders. A new data set is one reader and one line here.
LAYOUTS = (
    Layout("Market-1501, DukeMTMC-reID, CUHK03-NP", MARKET_HAS, ("bounding_box_train",), MARKET_ROOTS, market1501.read),
    Layout("MSMT17", MSMT17_HAS, ("list_train.txt",), msmt17.NAMES, msmt17.read),
    Layout("CUB-200-2011", "images.txt", ("image_class_labels.txt",), ("CUB_200_2011",), retrieval_sets.read_cub),
    Layout("Cars196", "cars_annos.mat", ("cars_annos.mat",), ("cars196",), retrieval_sets.read_cars),
    Layout("SOP", "Ebay_train.txt", ("Ebay_train.txt",), ("Stanford_Online_Products",), retrieval_sets.read_sop),
    Layout("In-Shop", "Eval/list_eval_partition.txt", SHOP, ("In-shop",), retrieval_sets.read_inshop),
)


def read_unlabelled(folders: Sequence[Path]) -> Samples:
    """All images in the folders and below, whoever they show."""
    paths: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"no folder {folder}")
        found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in market1501.SUFFIXES)
        if not found:
            raise DataError(f"{folder}: no images ({', '.join(sorted(market1501.SUFFIXES))})")
        paths += found
    return unlabelled_samples(paths)


def read(folder: Path) -> Dataset:
    """The data set in the folder. Raises DataError where it is none of LAYOUTS."""
    if not folder.is_dir():
        raise DataError(f"no folder {folder}")
    for layout in LAYOUTS:
        if layout.is_in(folder):
            return layout.read(folder)
    known = "; ".join(f"{layout.has} ({layout.names})" for layout in LAYOUTS)
    raise DataError(f"{folder} holds none of: {known}; people.csv (`reid crops`). Or give a table image,id,camera")
