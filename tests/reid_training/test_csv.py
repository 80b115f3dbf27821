"""A user's own table of crops: accepted content, and one clear line for each error."""

from __future__ import annotations

import csv
import shutil

import cv2
import numpy as np
import pytest

from reid_training.cli import main
from reid_training.data import csv_table, market1501
from reid_training.data.base import check_rankable, ranking_cameras, split_identities
from reid_training.errors import DataError
from reid_training.evaluate import rank_held_out
from tests.oracles.training_runs import mistake


@pytest.fixture
def table(tmp_path):
    """Writes people.csv and an image for every name in it; returns the path."""

    def write(text: str, images: tuple[str, ...] = ("a.png", "b.png", "c.png", "d.png")):
        for index, name in enumerate(images):
            cv2.imwrite(str(tmp_path / name), np.full((8, 4, 3), 40 * index, np.uint8))
        path = tmp_path / "people.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def names_of(samples) -> list[str]:
    return [path.name for path in samples.paths]


GOOD = "image,id,camera\na.png,anna,door\nb.png,anna,hall\nc.png,bert,door\nd.png,bert,door\n"


def test_table_without_split_queries_each_first_image(table):
    data = csv_table.read(table(GOOD))
    assert names_of(data.train) == names_of(data.gallery) == ["a.png", "b.png", "c.png", "d.png"]
    assert sorted(names_of(data.query)) == ["a.png", "b.png", "c.png"]
    assert data.train.pids.tolist() == [1, 1, 2, 2]
    assert data.train.camids.tolist() == [1, 2, 1, 1]
    assert data.name == "people.csv"


def test_split_column_defines_the_parts(table):
    text = "ID,Split,image,note\n7,train,a.png,x\n7,train,b.png,\n8,query,c.png,\n8,gallery,d.png,\n"
    data = csv_table.read(table(text))
    assert [names_of(part) for part in (data.train, data.query, data.gallery)] == [
        ["a.png", "b.png"],
        ["c.png"],
        ["d.png"],
    ]
    assert data.query.pids.tolist() == data.gallery.pids.tolist() == [2]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\n\n"),
        GOOD.replace(",", " , "),
        GOOD.replace("anna", '"anna"').rstrip("\n"),
    ],
)
def test_tables_from_other_programs_read_the_same(table, text):
    data = csv_table.read(table(text))
    assert data.train.pids.tolist() == [1, 1, 2, 2]
    assert data.train.camids.tolist() == [1, 2, 1, 1]


def test_ids_are_numbered_in_sorted_order(table):
    lines = ["a.png,zoe,1", "b.png,Ünal 2,1", "c.png,007,1", "d.png,7,1"]
    found = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        data = csv_table.read(table("image,id,camera\n" + "\n".join(lines[i] for i in order)))
        found.append(dict(zip(names_of(data.train), data.train.pids.tolist(), strict=True)))
    assert found[0] == found[1] == {"c.png": 1, "d.png": 2, "a.png": 3, "b.png": 4}


def test_paths_are_relative_to_the_table(table, tmp_path):
    (tmp_path / "sub").mkdir()
    cv2.imwrite(str(tmp_path / "sub" / "e, f.png"), np.zeros((8, 4, 3), np.uint8))
    data = csv_table.read(table('image,id\n"sub/e, f.png",1\nsub/../a.png,1\n'))
    assert data.train.paths == (tmp_path / "sub" / "e, f.png", tmp_path / "sub" / ".." / "a.png")


@pytest.mark.parametrize("outside", ["{here}/a.png", "../{name}/a.png", "sub/../../{name}/a.png", "..\\\\a.png"])
def test_paths_outside_the_folder_are_refused(table, tmp_path, outside):
    """Also if the file exists, and if the path leads back inside."""
    name = outside.format(here=tmp_path, name=tmp_path.name)
    with pytest.raises(DataError, match=r"people.csv, line 3: .* leads out of the folder of the table") as caught:
        csv_table.read(table(f"image,id\na.png,1\n{name},1\n"))
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["image,id\na.png,1\nb.png,1\nc.png,2\n", "image,id,camera\na.png,1,\nb.png,1,\nc.png,2, \n"]
)
def test_without_cameras_every_image_is_by_a_camera_of_its_own(table, text):
    data = csv_table.read(table(text))
    assert (data.train.camids < 0).all()
    assert len(set(data.train.camids.tolist())) == 3, "unknown cameras are not the same camera"
    check_rankable(data)


def test_one_missing_camera_is_named(table):
    data = csv_table.read(table(GOOD.replace("c.png,bert,door", "c.png,bert,")))
    with pytest.raises(DataError, match=r"1 of 4 query images have none, the first is .*c\.png"):
        check_rankable(data)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1: no column image and no column id"),
        ("image,camera\na.png,1\n", "line 1: no column id; "),
        ("a.png,anna,door\nb.png,anna,hall\n", "line 1: no column image and no column id"),
        ("image;id;camera\na.png;1;1\n", "found 'image;id;camera'"),
        ("image,id,id\na.png,1,1\n", "the column id is there twice"),
        ("image,id,camera\n", "no images; the table has a header and nothing below it"),
        ("image,id,camera\na.png,1,1\nz.png,1,1\n", "line 3: no file .*z.png"),
        ("image,id,camera\n\na.png,1,1\n.,1,1\n", "line 4: no file"),
        ("image,id,camera\na.png,1\n", "line 2: 2 fields, but the header has 3"),
        ("image,id,camera\na.png,1,1,1\n", "line 2: 4 fields, but the header has 3"),
        ("image,id,camera\na.png, ,1\n", "line 2: id is empty"),
        ("image,id,camera\n,1,1\n", "line 2: image is empty"),
        ("image,id,split\na.png,1,val\n", "line 2: split must be train, query, gallery, got 'val'"),
        ("image,id,split\na.png,1,train\nb.png,1,query\n", "line 3: '1' is in train and in query or gallery"),
        ("image,id\na.png,1\nb.png,1\na.png,2\n", "line 4: .*a.png shows '2', but in line 2 '1'"),
        ('image,id\na.png,"1\nb.png,1\n', "line 3: unexpected end of data"),
        (b"image,id\n\xff\xfe.png,1\n", "is not a table in UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n", "is not a table in UTF-8 text"),
    ],
)
def test_mistakes_name_the_file_and_the_line(table, text, reason):
    with pytest.raises(DataError, match=rf"people\.csv.*{reason}") as caught:
        csv_table.read(table(text))
    assert "\n" not in str(caught.value)


def test_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*none\.csv: No such file"):
        csv_table.read(tmp_path / "none.csv")


# ---------------------------------------------------------------- ranking where cameras say nothing


def test_cameras_count_if_a_person_is_seen_by_two(table):
    samples = csv_table.read(table(GOOD)).train
    assert np.array_equal(ranking_cameras(samples), samples.camids)


def test_one_video_every_image_is_a_query(table):
    samples = csv_table.read(table(GOOD.replace("hall", "door"))).train
    assert len(set(ranking_cameras(samples).tolist())) == 4
    embeddings = np.array([[1, 0], [0.9, 0.436], [0, 1], [0.95, 0.312]], np.float32)
    # a -> d (wrong), b (right); b -> d, a; c -> b, d (right); d -> a, b, c (right, third): by hand
    scores = rank_held_out(embeddings, samples)
    assert scores.n_queries == 4
    assert scores.rank1 == 0.0
    assert scores.mean_ap == pytest.approx((1 / 2 + 1 / 2 + 1 / 2 + 1 / 3) / 4)


# ---------------------------------------------------------------- the commands


def write_table(path, market, columns):
    """The drawn Market folder as a table with these columns; a link beside the table leads to it."""
    link = path.parent / "images"
    link.symlink_to(market)
    data = market1501.read(link)
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(columns)
        for split in ("train", "query", "gallery"):
            samples = getattr(data, split)
            for image, pid, camid in zip(samples.paths, samples.pids, samples.camids, strict=True):
                known = {"image": image.relative_to(path.parent), "id": f"person {pid}", "camera": f"camera {camid}"}
                known["split"] = split
                if pid > 0 and (split == "train" or "split" in columns):
                    rows.writerow([known[name] for name in columns])
    return path


def run(*argv) -> int:
    return main([str(argument) for argument in argv])


@pytest.mark.slow
def test_train_evaluate_and_export_take_a_table(market, config, tmp_path, capsys):
    table = write_table(tmp_path / "people.csv", market, ["image", "id", "camera", "split"])
    out = tmp_path / "run"
    assert run("train", "--config", config, "--data", table, "--out", out) == 0
    assert run("export", out, "--out", tmp_path / "net.onnx", "--data", table) == 0
    capsys.readouterr()
    assert run("evaluate", tmp_path / "net.onnx", "--data", table) == 0
    assert "people.csv, single query: 24 queries, 24 gallery images" in capsys.readouterr().out


@pytest.mark.slow
def test_run_without_cameras_exports_and_is_evaluated(market, config, tmp_path, capsys):
    table = write_table(tmp_path / "people.csv", market, ["image", "id"])
    out = tmp_path / "run"
    assert run("train", "--config", config, "--data", table, "--out", out) == 0
    assert "held_out_map" in (out / "metrics.csv").read_text().splitlines()[0]
    assert run("export", out, "--out", tmp_path / "net.onnx", "--data", table) == 0
    capsys.readouterr()
    assert run("evaluate", tmp_path / "net.onnx", "--data", table) == 0
    assert "no camera is known" in capsys.readouterr().out


def test_crops_of_one_video_cannot_search_another_camera(market, config, tmp_path, capsys):
    table = write_table(tmp_path / "people.csv", market, ["image", "id"])
    header, *lines = table.read_text().splitlines()
    table.write_text("\n".join([f"{header},camera", *(f"{line},hall" for line in lines)]))
    assert run("train", "--config", config, "--data", table, "--out", tmp_path / "run") == 0
    capsys.readouterr()
    line = mistake(capsys, "evaluate", tmp_path / "run", "--data", table)
    assert "no query has an image of the same person by another camera" in line


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,id\na.png,1\nb.png,1\nc.png,1\n", "all 3 images show one identity; at least 2 are needed"),
        ("image,id\na.png,1\nb.png,2\nc.png,3\n", "every identity has one image; at least one identity needs 2"),
        ("image,id,split\na.png,1,query\nb.png,1,gallery\n", "no images"),
        ("image,camera\na.png,1\n", "no column id"),
    ],
)
def test_unusable_training_tables_are_refused(capsys, table, config, tmp_path, text, reason):
    line = mistake(capsys, "train", "--config", config, "--data", table(text), "--out", tmp_path / "run")
    assert "people.csv" in line
    assert reason in line


def test_held_out_people_with_one_image_each_are_not_validated(market, config, tmp_path):
    """The run continues without their score instead of failing at the first validation."""
    (tmp_path / "images").symlink_to(market)
    samples = market1501.read(tmp_path / "images").train
    held = split_identities(samples, 0.25, 0)[1]
    rows = ["image,id"]
    for path, pid in zip(samples.paths, samples.pids, strict=True):
        if pid not in held.pids or path == held.paths[np.flatnonzero(held.pids == pid)[0]]:
            rows.append(
                f"{path.relative_to(tmp_path)},{pid:02d}"
            )  # two digits: the order of text is the order of numbers
    (tmp_path / "people.csv").write_text("\n".join(rows))
    assert run("train", "--config", config, "--data", tmp_path / "people.csv", "--out", tmp_path / "run") == 0
    assert "held_out_map" not in (tmp_path / "run" / "metrics.csv").read_text()


def test_damaged_image_of_a_table_is_named(capsys, market, config, tmp_path):
    copy = shutil.copytree(market, tmp_path / "data")
    table = write_table(tmp_path / "people.csv", copy, ["image", "id", "camera"])
    bad = sorted((tmp_path / "images" / "bounding_box_train").iterdir())[4]
    bad.write_bytes(bad.read_bytes()[:20])
    line = mistake(capsys, "train", "--config", config, "--data", table, "--out", tmp_path / "run")
    assert f"{bad} is not an image, or it is damaged" in line


def test_sampler_across_cameras_trains_with_cameras_and_needs_them(market, config, tmp_path, capsys):
    options = ["--config", config, "--set", "data.sampler=camera", "--set", "schedule.epochs=1"]
    assert run("train", "--data", market, "--out", tmp_path / "run", *options) == 0
    table = write_table(tmp_path / "people.csv", market, ["image", "id"])
    capsys.readouterr()
    assert run("train", "--data", table, "--out", tmp_path / "other", *options) == 2
    assert (
        "reid: data.sampler = camera needs images of two known cameras or more; pk needs none"
        in capsys.readouterr().err
    )
