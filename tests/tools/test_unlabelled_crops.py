"""Crops of photographs with boxes: which people, how large, and how many versions of a photograph."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from reid_training.errors import DataError
from tools.unlabelled_crops import Source, cut, main, photograph

SIZE = (200, 160)  # height, width


def write(folder, name, boxes):
    """A picture whose pixels tell their place, and its labels; boxes are xyxy in pixels."""
    height, width = SIZE
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(folder / "images" / name), np.dstack([x, y, np.full_like(x, 128)]))
    shares = [((a + c) / 2 / width, (b + d) / 2 / height, (c - a) / width, (d - b) / height) for a, b, c, d in boxes]
    lines = [" ".join(["0", *(f"{value:.6f}" for value in share)]) for share in shares]
    (folder / "labels" / Path(name).with_suffix(".txt")).write_text("\n".join(lines) + "\n")


def source(folder):
    return Source(folder.name, folder / "images", folder / "labels")


def table_of(out):
    with (out / "sources.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_upright_large_people_are_cut_out_with_a_margin(tmp_path):
    person, wide, small, at_the_edge = (40, 20, 80, 120), (10, 100, 100, 180), (5, 5, 15, 35), (120, 90, 160, 200)
    write(tmp_path / "street", "a.png", [person, wide, small, at_the_edge])
    assert cut([source(tmp_path / "street")], tmp_path / "out", 2, "") == {"street": 2}
    rows = table_of(tmp_path / "out")
    boxes = [tuple(int(row[key]) for key in ("x1", "y1", "x2", "y2")) for row in rows]
    assert boxes == [(38, 15, 82, 125), (118, 84, 160, 200)]  # 5 % of 40, 100, 40 and 110 pixels, inside the picture
    crop = cv2.imread(str(tmp_path / "out" / rows[0]["crop"]))
    assert crop.shape == (110, 44, 3)
    assert abs(int(crop[50, 20, 0]) - 58) <= 3  # x, and JPEG's error
    assert {row["picture"] for row in rows} == {"a.png"}


def test_versions_of_a_photograph_are_limited_over_all_sources(tmp_path):
    names = ("000000012345.png", "other_jpg.rf.aa.png", "other_jpg.rf.bb.png", "other_jpg.rf.cc.png")
    for name in names:
        write(tmp_path / "one", name, [(40, 20, 80, 120)])
    write(tmp_path / "two", "000000012345_jpg.rf.dd.png", [(40, 20, 80, 120)])
    cut([source(tmp_path / "one"), source(tmp_path / "two")], tmp_path / "out", 1, "")
    pictures = [photograph(Path(row["picture"])) for row in table_of(tmp_path / "out")]
    assert sorted(pictures) == ["000000012345", "other"]


def test_names_may_be_skipped_and_nothing_is_overwritten(tmp_path):
    for name in ("fisheye_1.png", "street_1.png"):
        write(tmp_path / "set", name, [(40, 20, 80, 120)])
    cut([source(tmp_path / "set")], tmp_path / "out", 2, "fisheye_")
    assert [row["picture"] for row in table_of(tmp_path / "out")] == ["street_1.png"]
    with pytest.raises(DataError, match="has files already"):
        cut([source(tmp_path / "set")], tmp_path / "out", 2, "")


def test_command_prints_a_line_for_each_source(tmp_path, monkeypatch, capsys):
    write(tmp_path / "set", "a.png", [(40, 20, 80, 120)])
    words = ["--source", "set", str(tmp_path / "set/images"), str(tmp_path / "set/labels"), "--out"]
    monkeypatch.setattr(sys, "argv", ["unlabelled_crops", *words, str(tmp_path / "out")])
    assert main() == 0
    assert capsys.readouterr().out.splitlines()[0] == "set: 1 crops"
    assert main() == 2
    assert "give another --out" in capsys.readouterr().err
