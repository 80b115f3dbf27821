"""Data sets in their own folders are told apart by what lies in them; folders of a few drawn people."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest

from reid_training.cli import main, read_data
from reid_training.data.synthetic import draw_person
from reid_training.errors import DataError
from tests.oracles.training_runs import mistake
from tests.reid_training.test_retrieval_sets import write_cars, write_cub, write_sop

PEOPLE = {"bounding_box_train": (1, 2, 3), "query": (4, 5), "bounding_box_test": (4, 5, 0)}
NAMES = {  # person, camera, shot -> name
    "Market-1501": "{:04d}_c{}s1_{:06d}_00.jpg",
    "DukeMTMC-reID": "{:04d}_c{}_f{:07d}.jpg",
    "CUHK03-NP": "{:04d}_c{}_{}.png",
}


def write(path, person, camera, shot):
    path.parent.mkdir(parents=True, exist_ok=True)
    pose = np.random.default_rng([person, camera, shot])
    picture = draw_person(np.random.default_rng(person), pose, 1.0, (64, 32))
    assert cv2.imwrite(str(path), picture)


def write_like_market(root, pattern):
    for folder, people in PEOPLE.items():
        for person in people:
            for camera in (1, 2):
                for shot in (5,) if folder == "query" else (6, 7):
                    write(root / folder / pattern.format(person, camera, shot), person, camera, shot)
    return root


def write_msmt17(root, folders):
    """Three people to train on and two to test, both counted from 0; cameras 3 and 12."""
    lists = {"train": (0, 1, 2), "val": (0,), "query": (0, 1), "gallery": (0, 1)}
    for name, people in lists.items():
        part = folders[name in ("query", "gallery")]
        lines = []
        for person in people:
            for shot, camera in enumerate((3, 12)):
                image = f"{person:04d}/{person:04d}_{shot:03d}_{camera:02d}_0303{name}_0008_0.jpg"
                write(root / part / image, person + 10 * (part == folders[1]), camera, shot)
                lines.append(f"{image} {person}\n")
        (root / f"list_{name}.txt").write_text("".join(lines))
    return root


def counts(samples):
    return len(samples), sorted(set(samples.pids.tolist())), sorted(set(samples.camids.tolist()))


@pytest.mark.parametrize("name", NAMES)
def test_layout_of_market_is_told_by_the_names_of_images(name, tmp_path):
    data = read_data(write_like_market(tmp_path / "set", NAMES[name]))
    assert data.name == name
    assert data.licence.startswith(name.split("-")[0])
    assert counts(data.train) == (12, [1, 2, 3], [1, 2])
    assert counts(data.query) == (4, [4, 5], [1, 2])
    assert counts(data.gallery) == (12, [0, 4, 5], [1, 2])


def test_names_of_no_known_set_give_the_folder_s_name(tmp_path):
    data = read_data(write_like_market(tmp_path / "Ours", "{:04d}_c{}_at{}.jpg"))
    assert (data.name, data.licence) == ("Ours", "not stated: that of the images")
    assert counts(data.train) == (12, [1, 2, 3], [1, 2])


@pytest.mark.parametrize("root", ["Market-1501-v15.09.15", "DukeMTMC-reID"])
def test_folder_above_an_unpacked_archive_is_read(root, tmp_path):
    write_like_market(tmp_path / root, NAMES["Market-1501"])
    assert len(read_data(tmp_path).train) == 12


def test_cuhk03_asks_which_boxes(tmp_path):
    for boxes in ("detected", "labeled"):
        write_like_market(tmp_path / boxes, NAMES["CUHK03-NP"])
    with pytest.raises(DataError, match=r"is CUHK03-NP, .* give .*/detected or .*/labeled"):
        read_data(tmp_path)
    assert read_data(tmp_path / "labeled").name == "CUHK03-NP"


@pytest.mark.parametrize(("root", "folders"), [
    ("MSMT17_V1", ("train", "test")), ("MSMT17_V2", ("mask_train_v2", "mask_test_v2")), (".", ("train", "test")),
])  # fmt: skip
def test_msmt17_of_both_layouts(root, folders, tmp_path):
    write_msmt17(tmp_path / root, folders)
    data = read_data(tmp_path)
    assert data.name == "MSMT17"
    assert counts(data.train) == (8, [1, 2, 3], [3, 12]), "val is a part of the training"
    assert counts(data.query) == (4, [4, 5], [3, 12]), "other people than in train, though both count from 0"
    assert counts(data.gallery) == (4, [4, 5], [3, 12])
    assert all(path.is_file() for part in (data.train, data.query, data.gallery) for path in part.paths)
    assert read_data(tmp_path / root).train.paths == data.train.paths


MISTAKES = {
    "no list": (lambda root: (root / "list_query.txt").unlink(), "cannot read .*list_query.txt"),
    "no parts": (lambda root: shutil.rmtree(root / "test"), "neither train and test .V1. nor mask_train_v2"),
    "no person": (lambda root: (root / "list_val.txt").write_text("a_b_01.jpg\n"), "list_val.txt, line 1: 2 columns"),
    "no camera": (lambda root: (root / "list_val.txt").write_text("a_b_c.jpg 1\n"), "lines are like 0000/0000_000_01"),
    "outside": (lambda root: (root / "list_val.txt").write_text("../a_b_01_c.jpg 1\n"), "a file outside train"),
    "empty": (lambda root: (root / "list_query.txt").write_text(""), "list_query.txt: no images listed"),
}


@pytest.mark.parametrize(("spoil", "said"), MISTAKES.values(), ids=MISTAKES)
def test_damaged_msmt17_is_named(spoil, said, tmp_path):
    spoil(write_msmt17(tmp_path / "m", ("train", "test")))
    with pytest.raises(DataError, match=said) as error:
        read_data(tmp_path / "m")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "name"),
    [(write_cub, "CUB-200-2011"), (write_cars, "Cars196"), (write_sop, "Stanford Online Products")],
)
def test_sets_without_cameras_are_found_too(make, name, tmp_path):
    make(tmp_path / "x")
    assert read_data(tmp_path / "x").name == name


def test_in_shop_is_found(tmp_path):
    from tests.reid_training.test_retrieval_sets import ITEMS

    (tmp_path / "Eval").mkdir()
    (tmp_path / "Eval" / "list_eval_partition.txt").write_text(ITEMS)
    assert read_data(tmp_path).name == "In-Shop"


@pytest.mark.slow
def test_train_and_evaluate_on_msmt17(tmp_path, config, capsys):
    write_msmt17(tmp_path / "MSMT17_V2", ("mask_train_v2", "mask_test_v2"))
    options = ["--config", config, "--set", "schedule.epochs=1", "--set", "data.val_fraction=0"]
    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "run"), *options]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path)]) == 0
    assert "MSMT17, single query: 4 queries, 4 gallery images" in capsys.readouterr().out


def test_folder_of_none_of_them_says_what_each_has(capsys, tmp_path):
    line = mistake(capsys, "evaluate", "fast", "--data", tmp_path)
    for name in (
        "Market-1501",
        "DukeMTMC-reID",
        "CUHK03-NP",
        "MSMT17",
        "CUB",
        "Cars196",
        "SOP",
        "In-Shop",
        "people.csv",
    ):
        assert name in line
