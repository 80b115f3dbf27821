"""A list or an archive that names files outside its folder is refused, whether or not they are there."""

from __future__ import annotations

import json
import zipfile

import cv2
import numpy as np
import pytest

from reid_training.data.base import unpack
from reid_training.data.mot_crops import find_sequences
from reid_training.errors import DataError
from tools.detector_training.labels import read_coco, read_mot, read_voc
from tracker.commands.many.plan import Record
from tracker.errors import OutputError, SourceError
from tracker.runtime.safe_paths import leaves_folder
from tracker.sources.mot import MotSequence
from tracker.sources.playlist import check_playlist
from tracker.sources.video import VideoFile

pytestmark = pytest.mark.robustness

OUTSIDE = ("../b", "a/../../b", "/etc/passwd", "..", "\\b", "..\\b", "a\\..\\..\\b", "C:\\b", "c:/b", "./../b", "C:")
INSIDE = ("b", "a/b", "a/../b", "./b", "", ".", "...", "a..b", "12:30.png", "a/b:c")

INFO = "[Sequence]\nname=S\nimDir={}\nframeRate=25\nseqLength=2\nimWidth=64\nimHeight=48\nimExt=.jpg\n"


def test_leaves_folder_finds_path_traversal():
    assert [name for name in OUTSIDE if not leaves_folder(name)] == []
    assert [name for name in INSIDE if leaves_folder(name)] == []


@pytest.mark.parametrize("name", OUTSIDE)
def test_seqinfo_image_folder_outside_is_refused(tmp_path, name):
    """As the tracker reads it, as `reid crops` does, and as the detector's training does."""
    folder = tmp_path / "S"
    (folder / "gt").mkdir(parents=True)
    (folder / "gt" / "gt.txt").write_text("1,1,1,1,9,9,1,1,1\n")
    (folder / "seqinfo.ini").write_text(INFO.format(name))
    (tmp_path / "b").mkdir()
    with pytest.raises(SourceError, match=r"seqinfo\.ini: imDir must be a folder inside the sequence's, got "):
        MotSequence(folder)
    with pytest.raises(DataError, match=r"seqinfo\.ini: imDir must be a folder inside the sequence's, got "):
        find_sequences(folder)
    with pytest.raises(DataError, match=r"seqinfo\.ini: imDir must be a folder inside the sequence's, got "):
        read_mot(tmp_path, tmp_path)


@pytest.mark.parametrize("name", [*OUTSIDE, "file:///b.ts", "http://b/c.ts", "b:c.ts"])
def test_playlist_naming_files_outside_is_refused(tmp_path, name):
    """As FFmpeg reads it, whatever the file name; also if a list names another list."""
    (tmp_path / "b").mkdir()
    video = tmp_path / "video.mp4"
    lists = (
        f"#EXTM3U\n#EXTINF:1,\n{name}\n", f'#EXTM3U\r#EXT-X-KEY:METHOD=AES-128,URI="{name}"\r#EXTINF:1,\ra.ts\r',
        f"#EXTM3U\n#EXT-X-MAP:URI={name}\n", f"ffconcat version 1.0\nfile '{name}'\n",
    )  # fmt: skip
    for text in lists:
        video.write_text(text)
        with pytest.raises(SourceError, match=r"video\.mp4: the list names what lies outside its folder, "):
            VideoFile(video)
    (tmp_path / "b" / "ü.m3u8").write_text(lists[0], encoding="utf-8")
    video.write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nb/ü.m3u8\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"ü\.m3u8: the list names what lies outside its folder, "):
        VideoFile(video)


def test_playlists_naming_each_other_are_read_once(tmp_path):
    """Under ever new names, and under a name that is too long."""
    (tmp_path / "a").mkdir()
    video = tmp_path / "video.m3u8"
    video.write_text("#EXTM3U\na/../video.m3u8\na/b.m3u8\n" + "c" * 5000)
    (tmp_path / "a" / "b.m3u8").write_text("#EXTM3U\n./b.m3u8\n")
    check_playlist(video)


def test_playlist_of_files_beside_it_is_read(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    for grey in (10, 200):
        writer.write(np.full((32, 32, 3), grey, np.uint8))
    writer.release()
    (tmp_path / "both.ffconcat").write_text("ffconcat version 1.0\nfile a.avi\nfile 'a.avi'\n")
    with VideoFile(tmp_path / "both.ffconcat") as video:
        assert len(list(video)) == 4


def test_record_naming_files_outside_is_refused(tmp_path):
    entry = {"status": "done", "asked": "x"}
    (tmp_path / "track-many.json").write_text(json.dumps({"a.txt": entry, "../b.txt": entry}))
    with pytest.raises(OutputError, match=r"is damaged \('\.\./b\.txt' lies outside its folder\); remove it"):
        Record(tmp_path, [])


def test_archive_naming_files_outside_is_not_unpacked(tmp_path):
    for name in ("../b.txt", "/b.txt", "a/../../b.txt"):
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
            archive.writestr("good.txt", "good")
            archive.writestr(name, "bad")
        with pytest.raises(DataError, match="names a file outside its folder"):
            unpack(tmp_path / "data.zip", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "b.txt").exists()


def test_labels_naming_pictures_outside_are_refused(tmp_path):
    coco = {
        "images": [{"id": 1, "file_name": "../b.jpg", "width": 9, "height": 9}],
        "annotations": [],
        "categories": [{"id": 1, "name": "person"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    with pytest.raises(DataError, match=r"coco\.json: names a picture outside the folder of pictures, '\.\./b\.jpg'"):
        read_coco(tmp_path / "images", tmp_path / "coco.json")
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc" / "a.xml").write_text("<annotation><filename>/b.jpg</filename></annotation>")
    with pytest.raises(DataError, match=r"a\.xml: names a picture outside the folder of pictures, '/b\.jpg'"):
        read_voc(tmp_path / "images", tmp_path / "voc")
