"""Every format read, and every kind of bad line named."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from reid_training.errors import DataError
from tools.detector_training.labels import READERS, read


def picture(path, width=100, height=80):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((height, width, 3), np.uint8))
    return path


@pytest.fixture
def images(tmp_path):
    picture(tmp_path / "images" / "a.jpg")
    picture(tmp_path / "images" / "b.png")
    return tmp_path / "images"


def coco(tmp_path, **changes):
    table = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 100, "height": 80}, {"id": 8, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "Person"}, {"id": 2, "name": "car"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40], "segmentation": [[10, 20, 40, 20, 40, 60]]},
            {"image_id": 7, "category_id": 1, "bbox": [90, 0, 30, 40], "iscrowd": 1},
            {"image_id": 7, "category_id": 2, "bbox": [0, 0, 5, 5]},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 5, 0]},
        ],
    }
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(table | changes))
    return file


def test_coco(images, tmp_path):
    a, b = read("coco", images, coco(tmp_path))
    assert a.boxes.tolist() == [[10, 20, 40, 60]]
    assert a.ignored.tolist() == [[90, 0, 100, 40]]  # a crowd, cut to the picture
    assert a.outlines[0].tolist() == [[10, 20], [40, 20], [40, 60]]
    assert b.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": [{"id": 1, "name": "dog"}]}, "no category is called person"),
        ({"annotations": [{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3]}]}, "annotation 0: expected 4 numbers"),
        ({"annotations": [{"image_id": 9, "category_id": 1}]}, "annotation 0 belongs to no image"),
        ({"images": 3}, "no COCO labels"),
    ],
)
def test_coco_mistakes(images, tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read("coco", images, coco(tmp_path, **changes))


def test_yolo(images, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "a.txt").write_text("0 0.5 0.5 0.2 0.5\n\n1 0.1 0.1 0.1 0.1\n0 0.0 0.0 0.5 0.0 0.5 0.25 0.0 0.25\n")
    a, b = read("yolo", images, labels)
    np.testing.assert_allclose(a.boxes, [[40, 20, 60, 60], [0, 0, 50, 20]])
    assert a.outlines[0] is None
    np.testing.assert_allclose(a.outlines[1], [[0, 0], [50, 0], [50, 20], [0, 20]])
    assert len(b.boxes) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", r"a.txt:2: expected a class and 4 numbers"),
        ("0 0.5 0.5 0.2 x", r"a.txt:2: expected 5 numbers"),
        ("0 0.5 0.5 0.2 nan", r"a.txt:2: expected 5 numbers"),
        ("0 0.5 0.5 -0.2 0.1", r"a.txt:2: a box without area"),
        ("0 50 50 20 10", r"a.txt:2: expected shares"),
    ],
)
def test_yolo_mistakes(images, tmp_path, line, message):
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "a.txt").write_text(f"0 0.5 0.5 0.2 0.5\n{line}\n")
    with pytest.raises(DataError, match=message):
        read("yolo", images, labels)


def voc(tmp_path, body):
    labels = tmp_path / "voc"
    labels.mkdir()
    (labels / "a.xml").write_text(f"<annotation><filename>a.jpg</filename>{body}</annotation>")
    return labels


def voc_object(name, corners, extra=""):
    box = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


def test_voc(images, tmp_path):
    hard = voc_object("person", (50, 1, 60, 10), "<difficult>1</difficult>")
    (a,) = read("voc", images, voc(tmp_path, voc_object("person", (1, 1, 10, 20)) + voc_object("dog", "1234") + hard))
    assert a.boxes.tolist() == [[0, 0, 10, 20]]  # coordinates count from 1
    assert a.ignored.tolist() == [[49, 0, 60, 10]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (voc_object("person", (10, 1, 5, 20)), "object 0: a box without area"),
        (voc_object("person", ("x", 1, 5, 20)), "object 0: expected 4 numbers"),
        ("<object>", "no XML"),
    ],
)
def test_voc_mistakes(images, tmp_path, body, message):
    with pytest.raises(DataError, match=message):
        read("voc", images, voc(tmp_path, body))


def penn(tmp_path, line):
    picture(tmp_path / "PNGImages" / "Penn1.png")
    picture(tmp_path / "PedMasks" / "Penn1_mask.png")
    (tmp_path / "Annotation").mkdir()
    (tmp_path / "Annotation" / "Penn1.txt").write_text(f"# comment\n{line}\n")
    return tmp_path / "PNGImages", tmp_path / "Annotation"


def test_penn_fudan(tmp_path):
    line = 'Bounding box for object 1 "PASpersonWalking" (Xmin, Ymin) - (Xmax, Ymax) : (11, 21) - (30, 70)'
    (one,) = read("penn_fudan", *penn(tmp_path, line))
    assert one.boxes.tolist() == [[10, 20, 30, 70]]
    assert one.mask.name == "Penn1_mask.png"


def test_penn_fudan_mistakes(tmp_path):
    with pytest.raises(DataError, match=r"Penn1.txt:2: expected"):
        read("penn_fudan", *penn(tmp_path, "Bounding box for object 1 : (11, 21) - (30"))


def mot(tmp_path, text):
    sequence = tmp_path / "mot" / "A-01"
    picture(sequence / "img1" / "000001.jpg")
    picture(sequence / "img1" / "000002.jpg")
    (sequence / "seqinfo.ini").write_text("[Sequence]\nimWidth=100\nimHeight=80\nimDir=img1\nimExt=.jpg\n")
    (sequence / "gt").mkdir()
    (sequence / "gt" / "gt.txt").write_text(text)
    return tmp_path / "mot"


def test_mot_uses_consider_class_and_visibility(tmp_path):
    rows = [
        "1,1,11,11,20,40,1,1,1.0",  # counts
        "1,2,41,11,20,40,0,1,1.0",  # not considered
        "1,3,61,11,20,40,1,1,0.1",  # hidden
        "1,4,1,1,5,5,1,7,1.0",  # static person
        "1,5,1,1,9,9,1,3,1.0",  # a car
        "2,1,91,11,20,40,1,1,0.9",
    ]
    first, second = read("mot", mot(tmp_path, "\n".join(rows)), tmp_path)
    assert first.boxes.tolist() == [[10, 10, 30, 50]]
    assert first.ignored.tolist() == [[40, 10, 60, 50], [60, 10, 80, 50], [0, 0, 5, 5]]
    assert second.boxes.tolist() == [[90, 10, 100, 50]]


@pytest.mark.parametrize("line", ["1,1,11,11,20,40,1", "1,1,11,11,20,x,1,1,1.0"])
def test_mot_mistakes(tmp_path, line):
    with pytest.raises(DataError, match=r"gt.txt:1: expected 9"):
        read("mot", mot(tmp_path, line), tmp_path)


def test_pictures_without_people_have_no_boxes(images, tmp_path):
    assert [len(one.boxes) for one in read("no_people", images, tmp_path)] == [0, 0]


def test_what_is_not_there_is_named(images, tmp_path):
    with pytest.raises(DataError, match=f"unknown label format 'x'; there are: {', '.join(READERS)}"):
        read("x", images, tmp_path)
    with pytest.raises(DataError, match="no folder"):
        read("no_people", tmp_path / "absent", tmp_path)
    with pytest.raises(DataError, match="no labels"):
        read("yolo", images, tmp_path / "absent")
    (images / "c.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cannot read picture .*c\.jpg"):
        read("yolo", images, tmp_path)
