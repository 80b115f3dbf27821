"""The zip for the MOTChallenge server: its format, whatever the results looked like."""

from __future__ import annotations

import zipfile

import pytest

from tracker.errors import WriteError
from tracker.eval.mot_files import MotFileError
from tracker.eval.submission import write_submission


def test_zip_has_text_files_with_ten_values_per_line(tmp_path):
    # as we write it; another's with six columns, another's with a class, one with blanks and a byte order mark, none
    texts = {
        "MOT16-01": ("1,2,10.50,20.25,30,40,0.9000,-1,-1,-1\n", "1,2,10.50,20.25,30,40,0.9000,-1,-1,-1\n"),
        "MOT16-03": ("1,2,10,20,30,40", "1,2,10,20,30,40,1,-1,-1,-1\n"),
        "MOT16-06": ("1,2,10,20,30,40,0.5,1,1\n", "1,2,10,20,30,40,0.5,-1,-1,-1\n"),
        "MOT16-07": ("\ufeff1, 2, 10, 20, 30, 40, 1,\r\n\r\n", "1,2,10,20,30,40,1,-1,-1,-1\n"),
        "MOT16-08": ("", ""),
    }
    files = []
    for name, (text, _) in texts.items():
        files.append(tmp_path / f"{name}.txt")
        files[-1].write_text(text, encoding="utf-8", newline="")
    write_submission(tmp_path / "a.zip", files)
    write_submission(tmp_path / "b.zip", files)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{name}.txt" for name in texts]
        for name, (_, expected) in texts.items():
            assert archive.read(f"{name}.txt").decode() == expected
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_malformed_result_is_named_and_leaves_no_zip(tmp_path):
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("1,1,10,20,30,40\n")
    bad.write_text("1,1,10,20,30,40\n1,2,10,20,30\n")
    with pytest.raises(MotFileError, match=r"bad\.txt:2: 5 columns"):
        write_submission(tmp_path / "a.zip", [good, bad])
    with pytest.raises(WriteError, match=r"nowhere.a\.zip: cannot be written"):
        write_submission(tmp_path / "nowhere" / "a.zip", [good])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.txt", "good.txt"]
