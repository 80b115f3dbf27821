"""`track` on cameras: a real stream on loopback, a real process, its messages and its files."""

from __future__ import annotations

import http.server
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.oracles.cameras import MjpegCamera, RtspCamera
from tracker.commands.track import main
from tracker.sinks.window_view import KEYS_HELP

ROOT = Path(__file__).resolve().parents[2]
BOX = "20,70,40,100"  # of a person who stands still


@pytest.fixture
def detections(tmp_path) -> Path:
    """The same person in a thousand frames: a live source gives the frames numbers, not times."""
    path = tmp_path / "det.txt"
    path.write_text("".join(f"{frame},-1,{BOX},0.9,-1,-1,-1\n" for frame in range(1, 1001)))
    return path


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)


class Run:
    """`track` as a process; its stderr is read as it comes."""

    def __init__(self, *words: object) -> None:
        command = [sys.executable, "-m", "tracker.commands.track", *map(str, words)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)

    def wait_for(self, met, what: str, limit_s: float = 90.0) -> None:
        until_s = time.monotonic() + limit_s
        while not met():
            assert self.process.poll() is None, f"ended before {what}: {self.err}"
            assert time.monotonic() < until_s, f"no {what}: {self.err}"
            time.sleep(0.02)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> int:
        status = self.process.wait(60)
        self._reader.join(10)
        return status

    @property
    def err(self) -> str:
        return "".join(self.lines)

    def __enter__(self):
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self._reader.join(10)
        self.process.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [MjpegCamera, RtspCamera])
def test_text_and_video_survive_a_loss_and_an_interrupt(kind, detections, tmp_path):
    out, video = tmp_path / "tracks.txt", tmp_path / "video.avi"
    words = ["--detections", detections, "--reid", "none", "--out", out, "--video", video, "--reconnect", 60]
    words += ["--set", "lifecycle.coast_s=60"]  # a busy machine may take its time to come back
    with kind() as camera, Run(camera.address, *words) as run:
        run.wait_for(lambda: out.exists() and out.read_text().count("\n") > 20, "20 rows")
        camera.go_down()
        run.wait_for(lambda: "connection lost" in run.err, "the loss")
        camera.come_back()
        run.wait_for(lambda: "back after" in run.err, "the return")
        rows = out.read_text().count("\n")
        run.wait_for(lambda: out.read_text().count("\n") > rows + 20, "20 more rows")
        assert run.interrupt() == 130
    assert "Traceback" not in run.err
    assert re.search(
        r"^live +latency \d+ ms \(95 %: \d+ ms\), (\d+ of \d+ frames predicted to keep pace, )?"
        r"\d+ of \d+ frames dropped .*, connection lost once$",
        run.err,
        re.MULTILINE,
    )
    for said in ("connection lost", "back after"):
        lines = [line for line in run.lines if said in line and line.startswith("track: ")]
        assert len(lines) == 1
    table = np.array([line.split(",") for line in out.read_text().splitlines()], float)
    assert set(table[:, 1]) == {1.0}
    # The video plays as long as it took, whatever the tracker skipped: it is no longer than the run.
    took_s = float(re.search(r"^time +([\d.]+) s", run.err, re.MULTILINE)[1])
    capture, n = cv2.VideoCapture(str(video)), 0
    while capture.read()[0]:
        n += 1
    length_s = n / capture.get(cv2.CAP_PROP_FPS)
    assert 1.0 < length_s <= took_s + 0.5


def get_json(address: str):
    with urllib.request.urlopen(address, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_live_page_and_events_while_it_runs_and_an_interrupt_with_a_viewer(detections, tmp_path):
    events = tmp_path / "e.jsonl"
    words = ["--detections", detections, "--reid", "none", "--serve", "127.0.0.1:0", "--headless"]
    words += ["--events", events, "--events", "http://127.0.0.1:9/away"]
    words += ["--set", "lifecycle.coast_s=60"]  # a busy machine may be away for long
    with MjpegCamera() as camera, Run(camera.address, *words) as run:
        run.wait_for(lambda: "live page at" in run.err, "the address")
        url = re.search(r"^track: live page at (\S+)$", run.err, re.MULTILINE)[1]
        run.wait_for(lambda: events.exists() and events.stat().st_size, "an event")
        run.wait_for(lambda: [person["id"] for person in get_json(f"{url}state")["people"]] == [1], "the person")
        state = get_json(f"{url}state")
        assert state["lost"] is False
        assert state["age_ms"] >= 0
        with urllib.request.urlopen(f"{url}video", timeout=60) as video:
            assert video.readline() == b"--frame\r\n"
            assert video.readline() == b"Content-Type: image/jpeg\r\n"
            assert run.interrupt() == 130
    assert "Traceback" not in run.err
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert [(line["kind"], line["id"]) for line in lines] == [("start", 1), ("end", 1)]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines[0]["wall"])
    away = [line for line in run.lines if "127.0.0.1:9/away" in line]
    assert [line.partition("/away: ")[2][:24] for line in away] == [
        "takes no events (Connect",
        "0 of 2 events delivered;",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["waiting", "reconnecting"])
def test_interrupt_while_no_frame_comes_ends_the_run(when, detections, tmp_path):
    words = ["--detections", detections, "--reid", "none", "--out", tmp_path / "t.txt", "--reconnect", "inf"]
    with MjpegCamera() as camera, Run(camera.address, *words) as run:
        run.wait_for(lambda: (tmp_path / "t.txt").exists() and (tmp_path / "t.txt").stat().st_size, "a row")
        if when == "reconnecting":
            camera.go_down()
            run.wait_for(lambda: "trying again for as long as it takes" in run.err, "the loss")
            run.wait_for(lambda: "trying again in 2 s" in run.err, "two attempts")
        else:
            camera.period_s = 3.0  # longer than the test waits
            time.sleep(0.5)
        assert run.interrupt() == 130
    assert "interrupted after frame" in run.err
    assert "Traceback" not in run.err


SCRIPT = """
import sys, time
from tracker import track_video
class Late:
    sleep = time.sleep
    def __del__(self):
        Late.sleep(1.5)  # interpreter shutdown takes a while
late = Late()
for frame, tracks in track_video(sys.argv[1], detections=sys.argv[2], reid=None):
    if frame.index == 3:
        print("enough", flush=True)
        sys.stdin.readline()
        break
sys.exit(7)
"""


@pytest.mark.slow
@pytest.mark.parametrize("closed", [True, False])
def test_hanging_camera_script_keeps_its_exit_status(detections, tmp_path, closed):
    """A frame that arrives during interpreter shutdown must not abort it."""
    script = (
        SCRIPT if closed else SCRIPT.replace("in track_video", "in (held := track_video").replace("None):", "None)):")
    )
    (tmp_path / "mine.py").write_text(script)
    command = [sys.executable, tmp_path / "mine.py", "ADDRESS", detections]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with MjpegCamera() as camera:
        command[2] = camera.address
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, cwd=tmp_path, env=env, **pipes) as process:
            assert process.stdout.readline() == "enough\n"
            camera.period_s = 1.2
            time.sleep(0.2)
            said = process.communicate("\n", timeout=60)[1]
    assert (process.returncode, said) == (7, "")


def run_main(capsys, *words: object) -> tuple[int, str]:
    status = main(list(map(str, words)))
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return status, err


def test_camera_without_display_or_outputs_is_refused(capsys, detections):
    with MjpegCamera() as camera:
        status, err = run_main(capsys, camera.address, "--detections", detections, "--reid", "none")
    assert status == 2
    assert err == ("track: no display is available for a live window; give --out tracks.txt or --video t.mp4 instead\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["webcam", "--headless"], "no result was asked for"),
        (["video.avi"], "no result was asked for"),
        (["webcam", "--serve", "8000x"], "--serve takes PORT or HOST:PORT"),
        (["video.avi", "--serve", "8000", "--smooth"], "--serve needs frames as they come"),
        (["webcam", "--events", "events.txt"], "events.txt: events go to - (standard output), a file that ends with"),
        (["webcam", "--headless", "--show"], "--show asks for a window and --headless for none"),
        (["rtsp://nowhere", "--reconnect", "-1", "--out", "x.txt"], "reconnecting must be 0 s or more"),
    ],
)
def test_contradictory_options_are_one_line(capsys, words, said):
    status, err = run_main(capsys, *words)
    assert status == 2
    assert err.count("\n") == 1
    assert said in err


def test_video_at_an_address_is_not_live(capsys, detections, tmp_path):
    """It opens no window by itself, so the run would have no output."""
    writer = cv2.VideoWriter(str(tmp_path / "video.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(20):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/video.avi"
        status, err = run_main(capsys, address, "--detections", detections, "--reid", "none")
        server.shutdown()
    assert status == 2
    assert "track: no result was asked for" in err.splitlines()[-1]


def test_page_lists_every_key():
    page = (ROOT / "docs" / "live.md").read_text(encoding="utf-8")
    for key, what in KEYS_HELP:
        assert all(f"`{name}`" in page or name == "click" for name in key.split(", ")), (key, what)


def goes_down_after(camera: MjpegCamera, out: Path, n_rows: int) -> None:
    """After a person was tracked in that many frames."""
    until_s = time.monotonic() + 120
    while not (out.exists() and out.read_text().count("\n") >= n_rows) and time.monotonic() < until_s:
        time.sleep(0.02)
    camera.go_down()


def test_camera_that_gives_up_keeps_tracks_so_far(capsys, detections, tmp_path):
    out = tmp_path / "tracks.txt"
    with MjpegCamera() as camera:
        threading.Thread(target=goes_down_after, args=(camera, out, 10)).start()
        words = ["--detections", detections, "--reid", "none", "--out", out, "--reconnect", 0.2, "--quiet"]
        status, err = run_main(capsys, camera.address, *words)
    assert status == 2
    lines = err.splitlines()
    assert lines[0].startswith(f"track: {camera.address}: connection lost")  # --quiet or not
    assert lines[-1].endswith("and did not come back within 0.2 s")
    assert logging.getLogger("tracker").handlers == []
    assert len(out.read_text().splitlines()) > 5


def test_no_display_is_no_error_where_there_are_outputs(capsys, detections, tmp_path):
    out = tmp_path / "t.txt"
    with MjpegCamera() as camera:
        threading.Thread(target=goes_down_after, args=(camera, out, 1)).start()
        run_main(capsys, camera.address, "--detections", detections, "--reid", "none", "--out", out, "--reconnect", 0)
    assert out.stat().st_size > 0
