"""Inputs that once gave a traceback and now give one line."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from reid_training.config import RunConfig, read_toml
from reid_training.data.base import unpack
from reid_training.data.market1501 import read_folder
from reid_training.embedders import read_preparation
from reid_training.errors import ConfigError as ReidConfigError
from reid_training.errors import DataError, ModelError
from reid_training.runs import load_method, save_checkpoint
from tests.fuzz.__main__ import TARGETS, check
from tools.detector_training.labels import read_coco
from tracker.commands.many.plan import Record, Video
from tracker.commands.report.cli import read_counts
from tracker.commands.report.table import read_table
from tracker.commands.track import main
from tracker.config import TrackerConfig
from tracker.errors import ConfigError as TrackerConfigError
from tracker.errors import SourceError
from tracker.eval.mot_files import MotFileError, read_tracks
from tracker.eval.sequences import length_of
from tracker.eval.submission import submission_text
from tracker.eval.tune import load_space
from tracker.settings import override, pairs

pytestmark = pytest.mark.robustness

CSV = b"frame,time_s,id,x1,y1,x2,y2,score,class,source\n"
DEEP = b"[" * 100_000

FINDINGS = {
    "frames that fill the memory": ("results", b"1000000000000,1,1,1,9,9,1\n"),
    "a box with an infinite edge": ("results", b"1,1,1e308,1,1e308,9,1\n"),
    "detections with an infinite edge": ("detections", b"1,-1,1e308,1,1e308,9,1\n"),
    "a person's number above all numbers": ("reid-truth", b"1,1e300,1,1,9,9,1,1,1\n"),
    "an identity above all numbers": ("table-csv", CSV + b"1,0,1e300,1,2,3,4,0.9,0,detected\n"),
    "half a frame": ("table-csv", CSV + b"1.5,0,1,1,2,3,4,0.9,0,detected\n"),
    "a field that is too long": ("table-csv", CSV + b"1" * 200_000 + b"\n"),
    "a number above all floats": ("table-jsonl", b'{"frame":1,"time_s":0,"tracks":[{"id":1' + b"0" * 400 + b"}]}\n"),
    "a frame nested too deep": ("table-jsonl", DEEP),
    "counts with a field missing": ("counts", b"kind,name,direction\nline,gate\n"),
    "counts with a field too many": ("counts", b"kind,name,direction\nline,gate,in,out\n"),
    "counts with a field too long": ("counts", b"kind,name,direction\n" + b"1" * 200_000),
    "a record nested too deep": ("record", b'{"a":' + DEEP),
    "settings nested too deep": ("config", b"a=" + DEEP),
    "settings with a number too long": ("config", b"default_fps=" + b"9" * 5000),
    "a run's settings nested too deep": ("reid-config", b"a=" + DEEP),
    "a run's settings that are no text": ("reid-config", b"\xff\xfe"),
    "a sequence without an end": ("seqinfo", b"[Sequence]\nframeRate=25\nseqLength=1e300\nimWidth=9\nimHeight=9\n"),
    "a sequence without time": ("seqinfo", b"[Sequence]\nframeRate=1e-300\nseqLength=9\nimWidth=9\nimHeight=9\n"),
    "a folder's name too long": ("seqinfo", TARGETS["seqinfo"].seeds()[0].replace(b"img1", b"a" * 5000)),
    "a checkpoint of nothing": ("checkpoint-body", b""),
    "a checkpoint packed in another way": ("checkpoint-body", b"PK\x03\x04" + b"\xff" * 40),
    "metadata that is no text": ("model", TARGETS["model"].seeds()[0].replace(b"person", b"per\x90on")),
    "a frame number too long": ("options", b"start " + b"9" * 5000),
    "a time too long": ("options", b"start " + b"9" * 400 + b"s"),
    "hours too long": ("options", b"end " + b"9" * 400 + b":00:00"),
}


@pytest.mark.parametrize("what", FINDINGS)
def test_malformed_input_is_refused_in_one_line(what):
    target, data = FINDINGS[what]
    assert check(TARGETS[target], data) is False


def test_box_outside_every_picture_is_accepted():
    """All boxes left out once ended in a traceback."""
    assert check(TARGETS["detections"], b"1,-1,-900,20,30,60,0.9\n")


def test_malformed_class_names_are_ignored():
    """A set as a key, and digits of other scripts: the network then has no class names."""
    metadata = TARGETS["metadata"]
    card = metadata.seeds()[0].split(b"\nnames ")[0]
    for names in (b"{[]: 1}", b"{'\xc2\xb2': 'a'}", b"{'" + b"9" * 5000 + b"': 'a'}", b"((((((("):
        assert check(metadata, card + b"\nnames " + names)


def test_video_removed_after_planning_is_an_error(tmp_path):
    video = Video(tmp_path / "gone.avi", tmp_path / "t.txt")
    with pytest.raises(SourceError, match=r"gone\.avi: cannot be read: No such file"):
        Record(tmp_path, []).asked(video)


def test_classes_in_other_scripts(tmp_path, capsys):
    """ "²" is a digit and no number."""
    assert main([str(tmp_path / "none.avi"), "--out", str(tmp_path / "t.txt"), "--classes", "²,9" + "9" * 5000]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_frames_far_apart_take_no_memory(tmp_path):
    """Ten million frames with two boxes: one empty frame stands for all between."""
    (tmp_path / "t.txt").write_text("1,1,1,1,9,9,1\n100000,1,1,1,9,9,1\n")
    tracks = read_tracks(tmp_path / "t.txt")
    assert [len(tracks[0]), len(tracks[50]), len(tracks[-1])] == [1, 0, 1]
    assert tracks[1] is tracks[-2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "x" * 300 + ".txt"], "File name too long"),
        (["--out", "t.txt", "--threads", "9" * 20], "--threads must be at least 1 and at most 1024"),
        (["--out", "t.txt", "--checkpoint-every", "nan"], "--checkpoint-every takes seconds"),
        (["--out", "t.txt", "--fps", "1e-9"], "the frame rate must be a positive number, 0.001 to 10000"),
        (["--out", "t.txt", "--source", "9" * 20], "no such file or folder"),
    ],
)
def test_extreme_options_are_refused_in_one_line(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    source = [] if "--source" in words else ["video.avi"]
    assert main([*source, *words, "--headless"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def words_of(error) -> str:
    """The message of what `pytest.raises` caught, one line of text."""
    text = str(error.value)
    assert text.isprintable()
    return text


LONG = "0x" + "f" * 4000  # more decimal digits than Python writes in a message


@pytest.mark.parametrize("text", [f"default_fps = {LONG}", f"[lifecycle]\nlost_s = [{LONG}]", f"seed = {LONG}"])
def test_very_long_hexadecimal_number_is_refused(tmp_path, text):
    file = tmp_path / "settings.toml"
    file.write_text(text)
    for read in (TrackerConfig.load, lambda path: load_space(str(path), TrackerConfig())):
        with pytest.raises(TrackerConfigError) as error:
            read(file)
        words_of(error)
    with pytest.raises(ReidConfigError) as error:
        read_toml(str(file))
    words_of(error)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (f"net.width={LONG}", "net.width must be a number"),
        ("net.channels=" + "[" * 3000, "net.channels must be a list, got"),
        ("seed.a=1", "unknown setting seed.a"),
        ("schedule.learning_rate=inf", "schedule.learning_rate must be > 0, got inf"),
        ("net.width=1" + "0" * 400, "must be a number below"),
    ],
)
def test_malformed_settings_are_refused(setting, said):
    with pytest.raises(ReidConfigError, match=said) as error:
        override(RunConfig(), pairs([setting]))
    words_of(error)


@pytest.mark.parametrize("text", ["seqLength=inf", "seqLength=nan", "seqLength=-1", "seqLength=1.5", "a\nb"])
def test_sequence_of_endless_length_is_refused(tmp_path, text):
    (tmp_path / "seqinfo.ini").write_text(f"[Sequence]\n{text}\n")
    with pytest.raises(MotFileError, match=r"seqinfo\.ini: ") as error:
        length_of(tmp_path)
    words_of(error)


def test_line_numbers_are_those_of_an_editor(tmp_path):
    """Not at a form feed or U+2028, where `str.splitlines` does, too: one row became two, or half of one."""
    results = tmp_path / "t.txt"
    results.write_bytes(b"1,1,\x1e5,1,1,1\x1e\n2,1,1,1,1,1\n")
    assert submission_text(results) == "1,1,5,1,1,1,1,-1,-1,-1\n2,1,1,1,1,1,1,-1,-1,-1\n"
    results.write_bytes(b"1,1,5,1,1,0.2\x1e1,2,50,20,3,2\n")
    with pytest.raises(MotFileError, match=r"t\.txt:1: '0\.2\\x1e1' is not a number"):
        read_tracks(results)
    counts = tmp_path / "counts.csv"
    counts.write_text("time_s,kind,name,direction\n0.5,line,a\u2028b,in\n", encoding="utf-8")
    assert read_counts(counts) == {("line", "a\u2028b", "in"): [0.5]}
    table = tmp_path / "t.jsonl"
    table.write_text('{"frame": 1, "time_s": 0, "tracks": [], "note": "a\u2028b"}\n', encoding="utf-8")
    assert len(read_table(table)) == 0


def test_archive_that_cannot_be_unpacked_is_an_error(tmp_path):
    """One with a password; one in which a name is a file and a folder."""
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a", "text")
    data = bytearray(archive.read_bytes())
    for start, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(start) + at] |= 1
    archive.write_bytes(data)
    with pytest.raises(DataError, match=r"is damaged, or packed in a way that is not read here: .*password"):
        unpack(archive, tmp_path / "out")
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a", "text")
        packed.writestr("a/b", "text")
    with pytest.raises(DataError, match="cannot be unpacked to"):
        unpack(archive, tmp_path / "again")


def test_huge_person_number_is_refused(tmp_path):
    (tmp_path / ("9" * 40 + "_c1.png")).touch()
    with pytest.raises(DataError, match="is not named like 0002_c1s1_000451_03"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_classes": "3"}, "its n_classes is not what"),
        ({"n_classes": -1}, "its n_classes is not what"),
        ({"n_classes": 10**12}, "its n_classes is not what"),
        ({"ema": []}, "its ema is not what"),
        ({"history": None}, "its history is not what"),
        ({"config": {"net": {"channels": [8, 10**14]}}}, "holds a network that cannot be made"),
    ],
)
def test_handmade_checkpoint_is_refused(tmp_path, change, said):
    state = {"config": {}, "n_classes": 3, "method": {}, "ema": {}, "optimiser": {}, "history": []}
    save_checkpoint(tmp_path / "last.pt", state | change)
    with pytest.raises(ModelError, match=said) as error:
        load_method(tmp_path)
    words_of(error)


@pytest.mark.parametrize(
    "change",
    [
        {"input_height": "0"}, {"input_width": "99999999"}, {"mean": "1,2"}, {"mean": "nan,0,0"}, {"std": "1,0,1"},
        {"pixel_scale": "-1"}, {"std": "1,1e300,1"}, {"pixel_scale": "inf"}, {"input_height": "9" * 5000},
    ],
)  # fmt: skip
def test_malformed_preparation_metadata_is_refused(change):
    """Before, each of them ended in a traceback of OpenCV or NumPy, or in embeddings that are not finite."""
    good = {"input_height": "8", "input_width": "4", "pixel_scale": "0.004", "mean": "0,0,0", "std": "1,1,1"}
    assert read_preparation(good, Path("m.onnx"))[:2] == (8, 4)
    with pytest.raises(ModelError, match=r"m\.onnx: metadata") as error:
        read_preparation(good | change, Path("m.onnx"))
    words_of(error)


COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 9, "height": 9}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
}


@pytest.mark.parametrize(
    "change",
    [
        {"images": [{"id": 1}]}, {"images": [1]}, {"images": [{"id": 1, "file_name": "a", "width": "x", "height": 1}]},
        {"annotations": 1}, {"annotations": [{"image_id": []}]},
        {"annotations": [{"image_id": 1, "category_id": 1, "bbox": 5}]},
        {"annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 10**400]}]},
        {"annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": [[1, "x", 3]]}]},
    ],
)  # fmt: skip
def test_labels_of_another_shape_are_refused(tmp_path, change):
    (tmp_path / "coco.json").write_text(json.dumps(COCO))
    assert len(read_coco(tmp_path, tmp_path / "coco.json")) == 1
    (tmp_path / "coco.json").write_text(json.dumps(COCO | change))
    with pytest.raises(DataError, match=r"coco\.json") as error:
        read_coco(tmp_path, tmp_path / "coco.json")
    words_of(error)
