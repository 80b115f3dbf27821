"""Readers of CUB, Cars, SOP and In-Shop, on tiny folders of their layouts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from reid_training.data.retrieval_sets import GALLERY, QUERY, read_cars, read_cub, read_inshop, read_sop
from reid_training.errors import DataError


def names(samples):
    return [path.name for path in samples.paths]


def write_cub(root):
    root.mkdir(parents=True)
    rows = [(1, "001.A/a.jpg", 1), (2, "002.B/b b.jpg", 2), (3, "003.C/c.jpg", 3), (4, "004.D/d.jpg", 4)]
    (root / "images.txt").write_text("".join(f"{i} {name}\n" for i, name, _ in rows), encoding="utf-8")
    text = "".join(f"{i} {one}\n" for i, _, one in reversed(rows))
    (root / "image_class_labels.txt").write_text(text, encoding="utf-8")


def write_cars(root):
    root.mkdir(parents=True)
    fields = [("relative_im_path", object), ("bbox_x1", object), ("class", object), ("test", object)]
    rows = np.zeros((1, 6), dtype=fields)
    for i in range(6):
        rows[0, i] = (f"car_ims/{i + 1:06d}.jpg", 3, i // 2 + 1, i % 2)
    savemat(root / "cars_annos.mat", {"annotations": rows, "class_names": np.array(["x", "y"], dtype=object)})


def write_sop(root):
    root.mkdir(parents=True)
    head = "image_id class_id super_class_id path\n"
    train = head + "1 1 1 bicycle_final/1_0.JPG\n2 1 1 bicycle_final/1_1.JPG\n"
    (root / "Ebay_train.txt").write_text(train, encoding="utf-8")
    (root / "Ebay_test.txt").write_text(head + "3 2 1 bicycle_final/2_0.JPG\n", encoding="utf-8")


ITEMS = """4
image_name item_id evaluation_status
img/WOMEN/Dresses/id_00000002/02_1_front.jpg    id_00000002 train
img/WOMEN/Dresses/id_00000007/01_1_front.jpg    id_00000007 query
img/WOMEN/Dresses/id_00000007/01_2_side.jpg     id_00000007 gallery
img/MEN/Denim/id_00000080/01_2_side.jpg         id_00000080 gallery
"""


def write_inshop(root, text=ITEMS):
    (root / "Eval").mkdir(parents=True)
    (root / "Eval" / "list_eval_partition.txt").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("inside", ["", "CUB_200_2011"])
def test_cub_trains_on_the_first_half_of_the_classes(tmp_path, inside):
    write_cub(tmp_path / "data" / inside)
    data = read_cub(tmp_path / "data")
    assert (names(data.train), names(data.gallery)) == (["a.jpg", "b b.jpg"], ["c.jpg", "d.jpg"])
    assert (data.train.pids.tolist(), data.query.pids.tolist()) == ([1, 2], [3, 4])
    assert data.train.paths[0] == tmp_path / "data" / inside / "images" / "001.A" / "a.jpg"
    assert len(set(data.gallery.camids.tolist())) == 2


def test_cars_trains_on_the_first_half_whatever_its_own_split_says(tmp_path):
    write_cars(tmp_path / "cars196")
    data = read_cars(tmp_path)
    assert data.train.pids.tolist() == [1, 1]
    assert data.gallery.pids.tolist() == [2, 2, 3, 3]
    assert data.train.paths[0] == tmp_path / "cars196" / "car_ims" / "000001.jpg"


def test_sop_comes_with_its_split(tmp_path):
    write_sop(tmp_path / "Stanford_Online_Products")
    data = read_sop(tmp_path)
    assert (names(data.train), names(data.query)) == (["1_0.JPG", "1_1.JPG"], ["2_0.JPG"])
    assert (data.train.pids.tolist(), data.query.pids.tolist()) == ([1, 1], [2])


@pytest.mark.parametrize("images", ["", "Img"])
def test_inshop_has_queries_and_gallery_apart(tmp_path, images):
    write_inshop(tmp_path)
    (tmp_path / images / "img").mkdir(parents=True)
    data = read_inshop(tmp_path)
    assert [part.pids.tolist() for part in (data.train, data.query, data.gallery)] == [[2], [7], [7, 80]]
    assert set(data.query.camids.tolist()) == {QUERY}
    assert set(data.gallery.camids.tolist()) == {GALLERY}
    assert data.train.paths[0].parent == tmp_path / images / "img" / "WOMEN" / "Dresses" / "id_00000002"


@pytest.mark.parametrize("read", [read_cub, read_cars, read_sop, read_inshop])
def test_missing_set_names_the_file(tmp_path, read):
    with pytest.raises(DataError, match=r"no \w+\.(txt|mat) in "):
        read(tmp_path)


def test_damaged_tables_give_one_line(tmp_path):
    write_cars(tmp_path / "cars")
    (tmp_path / "cars" / "cars_annos.mat").write_bytes(b"MATLAB 5.0 and no more")
    with pytest.raises(DataError, match="not the table of Cars196"):
        read_cars(tmp_path / "cars")
    write_cub(tmp_path / "cub")
    (tmp_path / "cub" / "image_class_labels.txt").write_text("1 1\n2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"image_class_labels.txt, line 2: 2 columns expected, got '2'"):
        read_cub(tmp_path / "cub")
    write_inshop(tmp_path / "shop", ITEMS.replace("query", "both"))
    with pytest.raises(DataError, match="found 'img/WOMEN"):
        read_inshop(tmp_path / "shop")
    write_sop(tmp_path / "sop")
    outside = "image_id class_id super_class_id path\n3 2 1 ../../secret.jpg\n"
    (tmp_path / "sop" / "Ebay_test.txt").write_text(outside, encoding="utf-8")
    with pytest.raises(DataError, match="names a file outside it"):
        read_sop(tmp_path / "sop")


def test_class_in_both_parts_is_an_error(tmp_path):
    write_sop(tmp_path / "sop")
    both = "image_id class_id super_class_id path\n3 1 1 a/2_0.JPG\n"
    (tmp_path / "sop" / "Ebay_test.txt").write_text(both, encoding="utf-8")
    with pytest.raises(DataError, match="a class is in the training and in the test part"):
        read_sop(tmp_path / "sop")
