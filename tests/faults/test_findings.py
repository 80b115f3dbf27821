"""What fuzzing found, one case each: a traceback once, one line now."""

from __future__ import annotations

import pytest

from fuzz import TARGETS, check
from tracker.cli import main
from tracker.errors import SourceError
from tracker.eval.mot_files import read_tracks
from tracker.many.plan import Record, Video

CSV = b"frame,time_s,id,x1,y1,x2,y2,score,class,source\n"
DEEP = b"[" * 100_000

FINDINGS = {
    "frames that fill the memory": ("results", b"1000000000000,1,1,1,9,9,1\n"),
    "a place whose end is infinite": ("results", b"1,1,1e308,1,1e308,9,1\n"),
    "detections whose end is infinite": ("detections", b"1,-1,1e308,1,1e308,9,1\n"),
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
def test_refused_in_one_line(what):
    target, data = FINDINGS[what]
    assert check(TARGETS[target], data) is False


def test_a_box_outside_of_every_picture_is_no_mistake():
    """All boxes left out once ended in a traceback."""
    assert check(TARGETS["detections"], b"1,-1,-900,20,30,60,0.9\n")


def test_names_of_classes_that_are_no_names():
    """A set as a key, and numbers of other scripts: the network has no names then."""
    metadata = TARGETS["metadata"]
    card = metadata.seeds()[0].split(b"\nnames ")[0]
    for names in (b"{[]: 1}", b"{'\xc2\xb2': 'a'}", b"{'" + b"9" * 5000 + b"': 'a'}", b"((((((("):
        assert check(metadata, card + b"\nnames " + names)


def test_a_video_that_is_gone_since_it_was_found(tmp_path):
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
def test_options_of_a_hostile_user(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    source = [] if "--source" in words else ["film.avi"]
    assert main([*source, *words, "--headless"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
