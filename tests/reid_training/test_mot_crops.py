"""Crops from MOT ground truth: which boxes, which pixels, which videos."""

from __future__ import annotations

import csv
import errno
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from reid_training.cli import main
from reid_training.data import csv_table, mot_crops
from reid_training.data.mot_crops import (
    CropRules,
    choose_sequences,
    cut_crops,
    find_sequences,
    other_names,
    read_truth,
    video_of,
    visible_share,
    with_margin,
)
from reid_training.errors import ConfigError, DataError
from tests.oracles.training_runs import mistake
from tracker.settings import to_toml

SIZE = (60, 80)  # height, width of the frames


def write_sequence(root, name, truth, n_frames=4, *, images=True):
    """Frames whose blue channel is the column, green the row, red the frame; stored without loss."""
    folder = root / name
    (folder / "gt").mkdir(parents=True)
    (folder / "gt" / "gt.txt").write_text("\n".join(truth) + "\n")
    (folder / "seqinfo.ini").write_text(f"[Sequence]\nname={name}\nimDir=img1\nimExt=.png\n")
    if images:
        (folder / "img1").mkdir()
        for frame in range(1, n_frames + 1):
            y, x = np.indices(SIZE)
            picture = np.stack([3 * x, 4 * y, np.full(SIZE, 10 * frame)], axis=2).astype(np.uint8)
            cv2.imwrite(str(folder / "img1" / f"{frame:06d}.png"), picture)
    return folder


TRUTH16 = [
    "1,1,11,11,20,40,1,1,1",
    "2,1,12,11,20,40,1,1,0.5",
    "3,1,13,11,20,40,1,1,0.49",  # hardly seen
    "1,2,41,11,20,40,0,1,1",  # not considered
    "1,3,41,11,20,40,1,7,1",  # a person who sits
    "2,4,61,1,30,70,1,1,1",  # beyond the picture
    "3,5,11,11,9,31,1,1,1",  # too low
    "4,4,61,11,15,40,1,1,1",
]


def rows_of(folder):
    with (folder / "people.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_counted_boxes_become_crops(tmp_path):
    write_sequence(tmp_path / "mot", "S", TRUTH16)
    n = cut_crops(find_sequences(tmp_path / "mot"), tmp_path / "out", CropRules())
    rows = rows_of(tmp_path / "out")
    assert n == len(rows)
    assert [(row["frame"], row["id"], row["camera"], row["visibility"]) for row in rows] == [
        ("1", "S_1", "S", "1.000"),
        ("2", "S_1", "S", "0.500"),
        ("2", "S_4", "S", "1.000"),
        ("4", "S_4", "S", "1.000"),
    ]
    assert rows[0]["image"] == "S/0001_000001.jpg"
    assert sorted(path.name for path in (tmp_path / "out" / "S").iterdir()) == sorted(r["image"][2:] for r in rows)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["S", "people.csv"]


def test_crop_has_the_pixels_of_its_box(tmp_path):
    """1-based left 12, top 11, 20 x 40: columns 11..30, rows 10..49, counted from 0."""
    write_sequence(tmp_path / "mot", "S", TRUTH16)
    cut_crops(find_sequences(tmp_path / "mot"), tmp_path / "out", CropRules())
    crop = cv2.imread(str(tmp_path / "out" / "S" / "0001_000002.jpg")).astype(int)
    y, x = np.indices((40, 20))
    expected = np.stack([3 * (x + 11), 4 * (y + 10), np.full((40, 20), 20)], axis=2)
    assert crop.shape == (40, 20, 3)
    assert np.abs(crop - expected).mean() < 2.5, "JPEG"
    beyond = cv2.imread(str(tmp_path / "out" / "S" / "0004_000002.jpg"))
    assert beyond.shape == (60, 20, 3), "clipped to the picture"


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (CropRules(min_visibility=0.0), {(1, 1), (1, 2), (1, 3), (4, 2), (4, 4)}),
        (CropRules(min_visibility=1.0), {(1, 1), (4, 2), (4, 4)}),
        (CropRules(min_height_px=1), {(1, 1), (1, 2), (4, 2), (5, 3), (4, 4)}),
        (CropRules(min_height_px=50), {(4, 2)}),
        (CropRules(every=2), {(1, 1)}),
        (CropRules(every=3), {(1, 1), (4, 4)}),
    ],
)
def test_crop_rules_select_boxes(tmp_path, rules, expected):
    write_sequence(tmp_path / "mot", "S", TRUTH16)
    cut_crops(find_sequences(tmp_path / "mot" / "S"), tmp_path / "out", rules)
    found = {(int(row["id"].split("_")[1]), int(row["frame"])) for row in rows_of(tmp_path / "out")}
    assert found == expected


def test_margin_grows_the_box_inside_the_picture():
    assert with_margin(np.array([10.0, 10, 30, 50]), 0.1, 80, 60).tolist() == [8, 6, 32, 54]
    assert with_margin(np.array([0.0, 10, 30, 50]), 0.5, 80, 60).tolist() == [0, 0, 45, 60]


# ---------------------------------------------------------------- occlusion from boxes


@pytest.mark.parametrize("seed", range(40))
def test_visible_share_agrees_with_counting_pixels(seed):
    rng = np.random.default_rng(seed)
    corners = rng.integers(-10, 50, (8, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 40, (8, 2))], axis=1).astype(float)
    box, others = boxes[0], boxes[1 : 1 + seed % 8]
    n_seen = n_all = 0
    for y in range(int(box[1]), int(box[3])):
        for x in range(int(box[0]), int(box[2])):
            n_all += 1
            hidden = any(o[3] > box[3] and o[0] <= x < o[2] and o[1] <= y < o[3] for o in others)
            n_seen += 0 <= x < 45 and 0 <= y < 35 and not hidden
    assert visible_share(box, others, 45, 35) == pytest.approx(n_seen / n_all)


def test_mot15_visibility_comes_from_the_boxes(tmp_path):
    """Person 2 stands nearer and covers 60 % of person 1 in frame 1, and no one in frame 2."""
    truth = [
        "1,1,11,11,20,40,1,-4.1,-7.3,0",
        "1,2,19,11,20,45,1,-1,-1,-1",
        "2,1,11,11,20,40,1,-1,-1,-1",
        "2,2,41,11,20,45,0,-1,-1,-1",  # seventh value 0: does not count
    ]
    write_sequence(tmp_path / "mot", "S", truth)
    cut_crops(find_sequences(tmp_path / "mot"), tmp_path / "out", CropRules())
    rows = rows_of(tmp_path / "out")
    assert [(row["id"], row["frame"], row["visibility"]) for row in rows] == [
        ("S_2", "1", "1.000"),
        ("S_1", "2", "1.000"),
    ]
    shutil.rmtree(tmp_path / "out")
    cut_crops(find_sequences(tmp_path / "mot"), tmp_path / "out", CropRules(min_visibility=0.3))
    assert ("S_1", "1", "0.400") in [(row["id"], row["frame"], row["visibility"]) for row in rows_of(tmp_path / "out")]


def test_reflection_occludes_no_box(tmp_path):
    truth = ["1,1,11,11,20,40,1,1,-1", "1,2,11,11,20,45,1,12,-1"]
    write_sequence(tmp_path / "mot", "S", truth)
    cut_crops(find_sequences(tmp_path / "mot"), tmp_path / "out", CropRules())
    assert [row["visibility"] for row in rows_of(tmp_path / "out")] == ["1.000"]


# ---------------------------------------------------------------- one video under several names


@pytest.mark.parametrize(
    "names",
    [
        ("MOT16-09", "MOT17-09", "MOT17-09-DPM", "MOT17-09-SDP", "ADL-Rundle-6"),
        ("MOT16-02", "MOT17-02-FRCNN", "Venice-2"),
        ("MOT16-05", "MOT17-05", "ETH-Pedcross2"),
        ("MOT16-10", "MOT17-10-FRCNN", "ADL-Rundle-8"),
    ],
)
def test_names_of_one_video(names):
    assert len({video_of(name) for name in names}) == 1
    assert set(other_names(names[0])) == {names[1][:8], names[-1]}
    assert set(other_names(names[-1])) == {names[0], names[1][:8]}


def test_different_videos_are_not_joined():
    names = ["MOT16-02", "MOT16-04", "MOT17-05", "MOT20-02", "TUD-Campus", "ADL-Rundle-3", "Venice-1"]
    assert len({video_of(name) for name in names}) == len(names)
    assert other_names("TUD-Campus") == []
    assert other_names("PETS09-S2L1") == ["vtest.avi"]
    assert other_names("MOT16-04") == ["MOT17-04"]


@pytest.fixture
def many(tmp_path):
    """Four names of two videos, one other, and one without images, at two depths."""
    for name in ("a/MOT16-09", "a/MOT17-09-DPM", "a/MOT17-09-SDP", "b/c/ADL-Rundle-6", "b/MOT16-04", "b/TUD-Campus"):
        write_sequence(tmp_path / "mot", name, ["1,1,11,11,20,40,1,1,1"], 1)
    write_sequence(tmp_path / "mot", "b/PETS09-S2L1", ["1,1,11,11,20,40,1,1,1"], images=False)
    return tmp_path / "mot"


def chosen_of(folder, names=(), excluded=()):
    return [sequence.name for sequence in choose_sequences(find_sequences(folder), names, excluded)]


def test_every_video_is_used_once(many):
    assert chosen_of(many) == ["MOT16-04", "MOT17-09-DPM", "TUD-Campus"]
    assert chosen_of(many / "b") == ["ADL-Rundle-6", "MOT16-04", "TUD-Campus"]


def test_named_sequences_are_used_only(many):
    assert chosen_of(many, ["TUD-Campus", "MOT16-09"]) == ["MOT16-09", "TUD-Campus"]


@pytest.mark.parametrize("name", ["MOT16-09", "MOT17-09", "MOT17-09-FRCNN", "ADL-Rundle-6"])
def test_excluded_video_is_skipped_under_all_its_names(many, name):
    assert chosen_of(many, (), [name]) == ["MOT16-04", "TUD-Campus"]


@pytest.mark.parametrize(
    ("names", "excluded", "reason"),
    [
        (["MOT16-9"], [], "no sequence MOT16-9; found: ADL-Rundle-6, MOT16-04"),
        (["PETS09-S2L1"], [], "PETS09-S2L1: no images beside"),
        (["MOT16-09"], ["ADL-Rundle-6"], "no sequence is left"),
    ],
)
def test_no_usable_sequence_is_an_error(many, names, excluded, reason):
    with pytest.raises(DataError, match=reason):
        chosen_of(many, names, excluded)


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,1,11,11,20", "5 columns; MOT16 has 9, MOT15 has 10"),
        ("1,1,11,11,20,40,1,1", "8 columns"),
        ("1,1,11,x,20,40,1,1,1", "not numbers separated by commas"),
        ("1;1;11;11;20;40;1;1;1", "not numbers separated by commas"),
        ("1,1,11,nan,20,40,1,1,1", "not finite"),
        ("0,1,11,11,20,40,1,1,1", "frame .* must be whole numbers, got 0 and 1"),
        ("1.5,1,11,11,20,40,1,1,1", "must be whole numbers"),
        ("1,1,11,11,20,40,1,1,7", "visibility must be in"),
    ],
)
def test_bad_ground_truth_is_named_by_its_line(tmp_path, line, reason):
    path = tmp_path / "gt.txt"
    path.write_text(f"1,1,11,11,20,40,1,1,1\n\n{line}\n")
    with pytest.raises(DataError, match=rf"gt\.txt, line 3: .*{reason}"):
        read_truth(path)


def test_ground_truth_with_blanks_and_boxes_without_area(tmp_path, caplog):
    path = tmp_path / "gt.txt"
    path.write_text("\ufeff2 1 11 11 20 40 1 1 1\n1\t1\t11\t11\t20\t40\t1\t1\t1\n1,2,11,11,0,40,1,1,1\n")
    truth = read_truth(path)
    np.testing.assert_array_equal(truth.frames, [1, 2])
    np.testing.assert_array_equal(truth.boxes, [[10, 10, 30, 50]] * 2)
    assert caplog.messages == [f"{path}: left out 1 of 3 boxes: they have no area"]


@pytest.mark.parametrize(("content", "reason"), [(b"", "no boxes"), (b"\xff\xfe\x00", "is not a text file")])
def test_empty_or_binary_ground_truth(tmp_path, content, reason):
    (tmp_path / "gt.txt").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_truth(tmp_path / "gt.txt")


@pytest.mark.parametrize("bad", [{"min_visibility": 1.5}, {"every": 0}, {"min_height_px": 0}, {"margin": -0.1}])
def test_rules_out_of_range(bad):
    with pytest.raises(ConfigError, match="must be"):
        CropRules(**bad)


def crops(*argv) -> int:
    return main(["crops", *(str(argument) for argument in argv)])


def test_existing_output_is_not_overwritten(capsys, many, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    assert "not empty; nothing was written" in mistake(capsys, "crops", many, "--out", tmp_path / "out")
    assert "not empty" in mistake(capsys, "crops", many, "--out", tmp_path / "out" / "mine.txt")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_no_sequence_below_the_folder(capsys, tmp_path):
    assert "no folder" in mistake(capsys, "crops", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert "no MOT sequence" in mistake(capsys, "crops", tmp_path, "--out", tmp_path / "out")


def test_missing_frame_is_found_before_anything_is_written(capsys, many, tmp_path):
    (many / "b" / "TUD-Campus" / "img1" / "000001.png").unlink()
    (many / "b" / "TUD-Campus" / "img1" / "000002.png").touch()
    assert "has boxes in frame 1, but there is no image" in mistake(capsys, "crops", many, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_frame_is_named_and_leaves_no_table(capsys, many, tmp_path):
    (many / "b" / "TUD-Campus" / "img1" / "000001.png").write_bytes(b"\x89PNG")
    assert "000001.png is not an image" in mistake(capsys, "crops", many, "--out", tmp_path / "out")
    assert not (tmp_path / "out" / "people.csv").exists(), "a table is there only when it is whole"


def test_full_disk_is_reported(capsys, many, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "out: No space left on device" in mistake(capsys, "crops", many, "--out", tmp_path / "out", status=1)
    assert list((tmp_path / "out").iterdir()) == []


def test_rules_matching_no_box_leave_an_empty_folder(capsys, many, tmp_path):
    assert "at least 500 px high" in mistake(capsys, "crops", many, "--out", tmp_path / "out", "--min-height", 500)
    assert list((tmp_path / "out").iterdir()) == []


def test_malformed_seqinfo_is_named(capsys, many, tmp_path):
    (many / "b" / "TUD-Campus" / "seqinfo.ini").write_text("no section\n")
    assert "seqinfo.ini is not an ini file" in mistake(capsys, "crops", many, "--out", tmp_path / "out")


# ---------------------------------------------------------------- the command


def test_command_reports_sequences_and_their_videos(capsys, many, tmp_path):
    assert crops(many, "--out", tmp_path / "out", "--exclude", "MOT16-04") == 0
    out = capsys.readouterr().out
    assert "MOT16-04: excluded" in out
    assert "MOT16-09: left out, the same video as MOT17-09-DPM" in out
    assert "PETS09-S2L1: left out, no images" in out
    assert "MOT17-09-DPM: 1 crops of 1 people from 1 frames" in out
    assert "MOT17-09-DPM = MOT16-09 = ADL-Rundle-6" in out
    assert len(csv_table.read(tmp_path / "out" / "people.csv").train) == 2


def test_one_frame_is_in_memory_at_a_time(many, tmp_path, monkeypatch):
    """Every picture is read when the one before has become files."""
    events = []
    real = mot_crops.decode
    monkeypatch.setattr(
        mot_crops, "decode", lambda path: (events.append(len(list(tmp_path.glob("out/*/*.jpg")))), real(path))[1]
    )
    cut_crops(choose_sequences(find_sequences(many), [], []), tmp_path / "out", CropRules())
    assert events == [0, 1, 2]


@pytest.mark.slow
def test_crops_folder_trains_a_network(tmp_path, tiny, capsys):
    """One camera sees each person once: validation compares images of one video."""
    truth = [f"{f},{p},{1 + 9 * p},{5 + p},{8 + p},40,1,1,1" for f in range(1, 7) for p in range(1, 8)]
    write_sequence(tmp_path / "mot", "S", truth, 6)
    assert crops(tmp_path / "mot", "--out", tmp_path / "out") == 0
    config = tmp_path / "tiny.toml"
    config.write_text(to_toml(tiny))
    argv = ["--config", config, "--data", tmp_path / "out", "--out", tmp_path / "run"]
    assert main(["train", *(str(a) for a in argv)]) == 0
    assert "held_out_map" in (tmp_path / "run" / "metrics.csv").read_text()


@pytest.mark.data
def test_mot16_09_as_published(data_root, tmp_path):
    """5,257 boxes of 25 pedestrians; counted here from the text, without the reader."""
    folder = data_root / "mot16" / "train" / "MOT16-09"
    if not (folder / "img1").is_dir():
        pytest.skip(f"no {folder}")
    truth = read_truth(folder / "gt" / "gt.txt")
    assert int(truth.counts.sum()) == 5257
    assert len(np.unique(truth.pids[truth.counts])) == 25
    n = cut_crops(find_sequences(folder), tmp_path / "out", CropRules(every=50, min_visibility=0.6, min_height_px=100))
    wanted = 0
    for line in (folder / "gt" / "gt.txt").read_text().splitlines():
        frame, _, _, top, _, height, consider, kind, seen = (float(field) for field in line.split(","))
        inside = round(min(top - 1 + height, 1080)) - round(max(top - 1, 0))
        wanted += frame % 50 == 1 and consider == 1 and kind == 1 and seen >= 0.6 and inside >= 100
    assert n == wanted > 40


@pytest.mark.data
def test_occlusion_from_boxes_agrees_with_the_published_visibility(data_root):
    """Against the visibility column of MOT16."""
    path = data_root / "mot16" / "train" / "MOT16-09" / "gt" / "gt.txt"
    if not path.is_file():
        pytest.skip(f"no {path}")
    truth = read_truth(path)
    rows = np.flatnonzero(truth.counts)[::10]
    ours = []
    for row in rows:
        others = np.flatnonzero((truth.frames == truth.frames[row]) & truth.solid)
        ours.append(visible_share(truth.boxes[row], truth.boxes[others[others != row]], 1920, 1080))
    assert np.corrcoef(ours, truth.visibility[rows])[0, 1] > 0.99
    assert np.abs(np.array(ours) - truth.visibility[rows]).mean() < 0.01
