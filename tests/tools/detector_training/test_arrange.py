"""Public data sets, here as small git repositories, laid out for the readers."""

from __future__ import annotations

import subprocess

import cv2
import numpy as np
import pytest

from reid_training.errors import DataError
from tools.detector_training import arrange
from tools.detector_training.labels import read


def png(value=0, width=40, height=60):
    return cv2.imencode(".png", np.full((height, width, 3), value, np.uint8))[1].tobytes()


def jpg(value=0, width=40, height=60):
    return cv2.imencode(".jpg", np.full((height, width, 3), value, np.uint8))[1].tobytes()


def repository(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "data"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder


def test_capston_takes_upright_versions(tmp_path, monkeypatch):
    monkeypatch.setattr(arrange, "CAPSTON_COMMIT", "HEAD")
    files = {}
    for k, line in enumerate(["0 .5 .5 .2 .6", "0 .5 .5 .6 .2", "0 .5 .5 .2 .7", "0 .5 .5 .3 .6"]):
        files[f"Capston2-11/train/images/a_jpg.rf.{k}.jpg"] = jpg(k)
        files[f"Capston2-11/train/labels/a_jpg.rf.{k}.txt"] = line
    files["Capston2-11/valid/images/b_jpg.rf.0.jpg"] = jpg(9)
    files["Capston2-11/valid/labels/b_jpg.rf.0.txt"] = "0 .5 .5 .6 .2"  # there is no other version
    files["Capston2-11/data.yaml"] = "nc: 1"
    counts = arrange.arrange(tmp_path / "out", {"capston": repository(tmp_path / "repo", files)})
    assert counts == {"capston": 3}
    names = [one.path.name for one in read("yolo", tmp_path / "out/capston/images", tmp_path / "out/capston/labels")]
    assert len(names) == 3
    assert "a_jpg.rf.1.jpg" not in names
    assert "b_jpg.rf.0.jpg" in names


def test_siwr_becomes_yolo(tmp_path):
    frames = repository(tmp_path / "frames", {"data/frames/c6s1_000451.jpg": jpg(0, 720, 576)})
    boxes = repository(tmp_path / "boxes", {"bboxes_gt.txt": "c6s1_000451.jpg\n1\n-1 72.0 57.6 144.0 288.0\n"})
    assert arrange.arrange(tmp_path / "out", {"siwr_frames": frames, "siwr_boxes": boxes}) == {"siwr": 1}
    (one,) = read("yolo", tmp_path / "out/siwr/images", tmp_path / "out/siwr/labels")
    np.testing.assert_allclose(one.boxes, [[72, 57.6, 216, 345.6]], atol=0.01)


def test_data_removed_again_are_found_in_the_history(tmp_path):
    folder = repository(tmp_path / "frames", {"data/frames/a.jpg": jpg(), "other": "x"})
    for words in (["rm", "-q", "-r", "data"], ["-c", "user.name=a", "-c", "user.email=a@e.org", "commit", "-qm", "b"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    commit = arrange.Repository(folder).commit_with("data/frames")
    assert [blob.path.name for blob in arrange.Repository(folder).files(commit, "data/frames")] == ["a.jpg"]
    with pytest.raises(DataError, match="no commit has a folder"):
        arrange.Repository(folder).commit_with("absent")


def test_coco128_outlines_count_from_one(tmp_path):
    files = {
        "images/train2017/1.jpg": jpg(),
        "images/train2017/2.jpg": jpg(1),
        "object_detection/labels/train2017/1.txt": "0 .5 .5 .5 .5\n",
        "object_detection/labels/train2017/2.txt": "0 .5 .5 .5 .5\n",
        "instance_segmentation/labels/train2017/1.txt": "1 0 0 .5 0 .5 .5\n2 0 0 1 0 1 1\n",
    }
    arrange.arrange(tmp_path / "out", {"coco128": repository(tmp_path / "repo", files)})
    one, two = read("yolo", tmp_path / "out/coco128/images", tmp_path / "out/coco128/labels")
    np.testing.assert_allclose(one.boxes, [[0, 0, 20, 30]])
    np.testing.assert_allclose(two.boxes, [[10, 15, 30, 45]])


def test_penn_fudan_keeps_its_layout(tmp_path):
    line = "Bounding box for object 1 : (1, 1) - (20, 50)\n"
    files = {
        "data/PennFudanPed/PNGImages/P1.png": png(),
        "data/PennFudanPed/Annotation/P1.txt": line,
        "data/PennFudanPed/PedMasks/P1_mask.png": png(),
    }
    assert arrange.arrange(tmp_path / "out", {"penn_fudan": repository(tmp_path / "repo", files)}) == {"penn_fudan": 1}
    (one,) = read("penn_fudan", tmp_path / "out/penn_fudan/PNGImages", tmp_path / "out/penn_fudan/Annotation")
    assert one.mask is not None


def test_copies_without_people_are_on_one_side(tmp_path):
    files = {f"negative/{folder}/{k}.jpg": jpg(k) for folder in ("neg", "train_neg") for k in range(30)}
    arrange.arrange(tmp_path / "out", {"without_people": repository(tmp_path / "repo", files)})
    sides = [{path.name for path in (tmp_path / "out/without_people" / side).iterdir()} for side in ("train", "test")]
    assert len(sides[0]) + len(sides[1]) == 30
    assert min(map(len, sides)) > 3


def test_clutter_is_taken_once(tmp_path):
    files = {"images/a.jpg": jpg(1), "images/b.jpg": jpg(1), "images/c.jpg": jpg(2), "README.md": "x"}
    assert arrange.arrange(tmp_path / "out", {"clutter": repository(tmp_path / "repo", files)}) == {"clutter": 2}
    assert len(read("no_people", tmp_path / "out/clutter", tmp_path)) == 2


def test_no_repository_is_named(tmp_path):
    with pytest.raises(DataError, match=str(tmp_path / "absent")):
        arrange.arrange(tmp_path / "out", {"penn_fudan": tmp_path / "absent"})


def test_parts_of_human_v2(tmp_path):
    box, outline = "0 .5 .5 .1 .2\n", "0 .1 .1 .3 .1 .3 .4\n"
    labels = {
        "000000000036_jpg.rf.a": box,
        "000000000036_jpg.rf.b": box,  # another version: one is taken
        "train_all_data--11-_jpg.rf.a": box,
        "train_all_data--11-_jpg.rf.b": box,
        "train_all_data--11-_jpg.rf.c": box,  # of these, two
        "train_all_data--12-_jpg.rf.a": "1 .5 .5 .1 .2\n",  # a second class, without a use explains
        "000c383dd39fb933_jpg.rf.a": box * 2 + outline,
        "000c383dd39fb934_jpg.rf.a": box * 2,  # too few people
        "000c383dd39fb935_jpg.rf.a": box * 2 + "0 .5 .5 .6 .6\n",  # a portrait
        "img_7_jpg.rf.a": box,
        "-7-_jpg.rf.a": box,
        "DJI_1_jpg.rf.a": box,
    }
    files = {f"train/labels/{name}.txt": text for name, text in labels.items()}
    files |= {f"train/images/{name}.jpg": jpg(k) for k, name in enumerate(labels)}
    counts = arrange.arrange(tmp_path / "out", {"human_v2": repository(tmp_path / "repo", files)})
    assert counts == {"human_v2": 6}
    n_pictures = {}
    for part in arrange.HUMAN_V2:
        folder = tmp_path / "out/human_v2" / part
        n_pictures[part] = len(read("yolo", folder / "images", folder / "labels"))
    assert n_pictures == {"coco": 1, "crossings": 2, "open_images": 1, "street": 1, "above": 1}


def test_coco_takes_both_folders(tmp_path):
    files = {f"coco/images/{side}2017/{k}.jpg": jpg(k) for k, side in ((1, "train"), (4, "val"), (5, "val"))}
    files |= {f"coco/labels/train2017/{k}.txt": "0 .5 .5 .1 .2\n" for k in (1, 4)}
    assert arrange.arrange(tmp_path / "out", {"coco": repository(tmp_path / "c", files)}) == {"coco": 2}
    found = read("yolo", tmp_path / "out/coco/images", tmp_path / "out/coco/labels")
    assert [one.path.name for one in found] == ["1.jpg", "4.jpg"]


def test_of_videos_two_frames_a_second(tmp_path):
    file = tmp_path / "v.mp4"
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 8.0, (64, 48))
    for k in range(12):
        video.write(np.full((48, 64, 3), 20 * k, np.uint8))
    video.release()
    files = {"walk.mp4": file.read_bytes(), "empty.mp4": b"", "README.md": "x"}
    counts = arrange.arrange(tmp_path / "out", {"sample_videos": repository(tmp_path / "r", files)})
    assert counts == {"sample_videos": 3}
    names = sorted(path.name for path in (tmp_path / "out/sample_videos").iterdir())
    assert names == ["walk-000000.jpg", "walk-000004.jpg", "walk-000008.jpg"]
