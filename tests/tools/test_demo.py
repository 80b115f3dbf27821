"""Places of the sample video: each is checked, and a wrong file is never used."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile

import pytest

from tools import demo

VIDEO = b"not really a video" * 100


@pytest.fixture
def only(monkeypatch, tmp_path):
    """No place has the video unless a test provides it. No network, no package manager."""
    monkeypatch.setattr(demo, "SHA256", hashlib.sha256(VIDEO).hexdigest())
    monkeypatch.setattr(demo, "BESIDE", tmp_path / "beside" / "vtest.avi")

    def absent() -> bytes:
        raise demo.NotThereError("not there")

    monkeypatch.setattr(demo, "download", absent)
    monkeypatch.setattr(demo, "from_debian", absent)
    monkeypatch.setattr(demo, "generate", lambda folder: folder / "generated.avi")
    return monkeypatch


def test_user_copy_is_preferred_and_checked(only, tmp_path, capsys):
    own = tmp_path / "own.avi"
    own.write_bytes(VIDEO)
    assert demo.obtain(tmp_path, str(own)).read_bytes() == VIDEO
    assert "your copy" in capsys.readouterr().out
    own.write_bytes(b"other")
    with pytest.raises(demo.NotThereError, match="another file"):
        demo.obtain(tmp_path, str(own))
    with pytest.raises(demo.NotThereError, match="No such file"):
        demo.obtain(tmp_path, str(tmp_path / "absent.avi"))


@pytest.mark.parametrize("place", ["download", "from_debian"])
def test_first_place_with_the_video_is_used_and_named(only, tmp_path, capsys, place):
    only.setattr(demo, place, lambda: VIDEO)
    assert demo.obtain(tmp_path, None).read_bytes() == VIDEO
    assert "SHA-256 is right" in capsys.readouterr().out
    only.setattr(demo, place, lambda: pytest.fail("fetched twice"))
    demo.obtain(tmp_path, None)
    assert "the copy already in" in capsys.readouterr().out


def test_wrong_download_is_rejected_and_a_scene_generated(only, tmp_path):
    only.setattr(demo, "download", lambda: b"a login page")
    assert demo.obtain(tmp_path, None).name == "generated.avi"
    assert not (tmp_path / "vtest.avi").exists()


@pytest.mark.parametrize("name", ["./usr/share/doc/vtest.avi", "../../../vtest.avi", "/etc/vtest.avi.gz"])
def test_archive_member_is_read_without_writing_a_path(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert demo.member_of_tar(tar_of(name, gzip.compress(VIDEO) if name.endswith("gz") else VIDEO)) == VIDEO
    assert list(tmp_path.iterdir()) == []


def test_archive_without_the_video_or_corrupt_is_reported():
    for archive in (tar_of("readme", b""), io.BytesIO(b"no archive at all" * 99), tar_of("vtest.avi.gz", b"not gzip")):
        with pytest.raises(demo.NotThereError):
            demo.member_of_tar(archive)


def tar_of(name: str, data: bytes) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    file.seek(0)
    return file
