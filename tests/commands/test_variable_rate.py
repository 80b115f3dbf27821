"""The annotated video of a video of variable rate is as long as its source, and shows each frame at its time."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tracker.commands.track import main

FFMPEG = shutil.which("ffmpeg")
PERIOD_S = 1 / 30
KEPT = [*range(20), *range(51, 60)]  # of 60 frames: a still of a second before the last ones


def variable(path: Path, time_base: str) -> Path:
    """Two seconds of a test picture at 30 frames a second, of which those KEPT are there, with their times."""
    assert FFMPEG is not None
    source = ["-f", "lavfi", "-i", "testsrc=size=160x120:rate=30:duration=2"]
    kept = ["-vf", "select='lt(n,20)+gt(n,50)'", "-vsync", "vfr", "-enc_time_base", time_base]
    words = [FFMPEG, "-v", "error", *source, *kept, "-pix_fmt", "yuv420p", "-c:v", "mpeg4", path]
    subprocess.run(words, check=True, timeout=60)
    return path


@pytest.mark.skipif(FFMPEG is None, reason="ffmpeg makes the video, and is not installed")
@pytest.mark.parametrize(("name", "time_base"), [("video.mp4", "1/30"), ("video.mkv", "1/1000")])
@pytest.mark.parametrize("start_s", [0.0, 0.5])
def test_annotated_video_keeps_times(tmp_path, name, time_base, start_s):
    av = pytest.importorskip("av", reason="PyAV is an optional dependency")
    source = variable(tmp_path / name, time_base)
    (tmp_path / "det.txt").write_text("1,-1,10,10,20,40,0.9\n")
    words = [source, "--detections", tmp_path / "det.txt", "--reid", "none", "--start", f"{start_s}s", "--quiet"]
    assert main([*map(str, words), "--video", str(tmp_path / "out.mp4")]) == 0
    with av.open(str(tmp_path / "out.mp4")) as video:
        times = [float(picture.pts * picture.time_base) for picture in video.decode(video=0)]
        length_s = video.duration / av.time_base
    wanted = [number * PERIOD_S for number in KEPT if number * PERIOD_S > start_s - 0.01]
    assert times == pytest.approx([time_s - wanted[0] for time_s in wanted], abs=0.002)
    assert length_s == pytest.approx(2.0 - wanted[0], abs=0.003)
