"""`track` interrupted at any line of Python: status 130, correct results so far, and `--resume` continues."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.synthetic.video import motion_only, write_video
from tracker.commands.track import main
from tracker.runtime import signals

pytestmark = [pytest.mark.skipif(os.name == "nt", reason="signals are POSIX"), pytest.mark.slow, pytest.mark.robustness]
N_PLACES = 8  # thousands were tried when this was written


class Lines:
    """Counts the lines that the main thread executes during a command, and sends the signal at one of them."""

    def __init__(self, at: int = 0, number: int = signal.SIGINT) -> None:
        self.at, self.number = at, number
        self.n, self.where = 0, ""

    def __call__(self, frame, event, _):
        if event == "line" and signals._current is not None and not signals._current.over:
            self.n += 1
            if self.n == self.at:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                signal.raise_signal(self.number)
        return None if self.where else self

    def of(self, words: list[str]) -> int:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            return main(words)
        finally:
            sys.settrace(before)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("scene"), 0, n_people=3, n_frames=24)


def test_track_interrupted_at_any_line_can_be_resumed(scene, tmp_path, capsys):
    words = [str(scene / "video.avi"), *motion_only(scene), "--quiet"]
    words += ["--checkpoint-every", "1e-9", "--resume", "--out", str(tmp_path / "t.txt")]
    words += ["--video", str(tmp_path / "t.avi")]
    lines = Lines()
    assert lines.of(words) == 0  # does the imports before the measured runs
    shutil.copytree(tmp_path, whole := tmp_path / "whole")
    for place in range(N_PLACES):
        number = (signal.SIGINT, signal.SIGTERM)[place % 2]
        for name in ("t.txt", "t.avi"):
            (tmp_path / name).unlink(missing_ok=True)
        told = Lines(int(lines.n * (place + 0.5) / N_PLACES), number)
        capsys.readouterr()
        status = told.of(words)
        said = capsys.readouterr().err
        if not told.where:  # threads make for more lines in one run than in another
            assert status == 0
            continue
        assert status == 130, (told.where, said)
        assert "Traceback" not in said, (told.where, said)
        written = (tmp_path / "t.txt").read_bytes() if (tmp_path / "t.txt").exists() else b""
        assert (whole / "t.txt").read_bytes().startswith(written), told.where
        if not (tmp_path / "t.txt.resume").exists():
            (tmp_path / "t.txt").unlink(missing_ok=True)
            continue
        assert Lines(told.n + lines.n // 10, number).of(words) in (0, 130)  # in the redrawing, too
        if (tmp_path / "t.txt.resume").exists():
            assert main(words) == 0, told.where
        for name in ("t.txt", "t.avi"):
            assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), (told.where, name)
