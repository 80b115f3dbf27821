"""How long after Ctrl-C (SIGINT) or SIGTERM a command and all its processes are gone, in every state. Linux.

    python -m tools.benchmarks.stop [--tries 10] [--signal INT TERM] [--only WORD ...] [--video FILE]

Each state is a real process, brought there and then sent the signal. Prints p50, p95 and the longest time in seconds
until no process of it is left, and the exit statuses; `!` marks output that says how an interpreter broke down. Without
a video a scene is generated. For quiet numbers on a busy machine: `chrt -r 1 python -m tools.benchmarks.stop`.
"""

from __future__ import annotations

import argparse
import http.server
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from tests.synthetic.mot import make_scene, write_sequence
from tracker.eval.mot_files import read_tracks

ROOT = Path(__file__).resolve().parents[2]
MARK = "TRACKLET_BENCH_STOP"  # in the environment of a process and all that it starts
LIMIT_S = 60.0
BROKEN = ("terminate called", "Fatal Python error", "FATAL", "Aborted", "core dumped", "Exception ignored")
SCRIPT = """
import sys
from tracker import track_video
for frame, tracks in track_video(sys.argv[1], detections=sys.argv[2], reid=None):
    print(frame.index, flush=True)
"""
PATIENT = SCRIPT.replace("for frame", "try:\n  for frame").replace("    print", "     print")
PATIENT += "except KeyboardInterrupt:\n    print('the script goes on', flush=True)\nsys.exit(7)\n"


class Camera:
    """A Motion JPEG camera on loopback. mood: flowing, slow (a picture in three seconds), mute, or down."""

    def __init__(self) -> None:
        self.mood = "flowing"
        self.jpeg = cv2.imencode(".jpg", np.full((240, 320, 3), 90, np.uint8))[1].tobytes()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
        self._server.daemon_threads = True
        self._server.camera = self  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/video"

    def close(self) -> None:
        self.mood = "down"
        self._server.shutdown()
        self._server.server_close()


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        camera: Camera = self.server.camera  # type: ignore[attr-defined]
        if camera.mood == "mute":
            time.sleep(LIMIT_S)
        if camera.mood == "down":
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            while camera.mood in ("flowing", "slow"):
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(camera.jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + camera.jpeg + b"\r\n")
                until_s = time.monotonic() + (3.0 if camera.mood == "slow" else 0.05)
                while time.monotonic() < until_s and camera.mood in ("flowing", "slow"):
                    time.sleep(0.01)
        except OSError:
            pass

    def log_message(self, *args: object) -> None:
        pass


@dataclass
class Try:
    """One process on its way into a state, its folder, and the camera it may look at."""

    folder: Path
    camera: Camera
    process: subprocess.Popen[str] | None = None
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    lines: list[str] = field(default_factory=list)

    def start(self, words: Sequence[str]) -> None:
        env = os.environ | {
            MARK: self.mark,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        self.process = subprocess.Popen(
            words, cwd=self.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.append(line)

    def wait_for(self, met: Callable[[], bool]) -> None:
        assert self.process is not None
        until_s = time.monotonic() + LIMIT_S
        while not met():
            if self.process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError(f"did not reach its state: {''.join(self.lines)[-500:]}")
            time.sleep(0.005)

    def wait_for_line(self, text: str) -> None:
        self.wait_for(lambda: any(text in line for line in self.lines))

    def wait_for_size(self, name: str, size: int = 1) -> None:
        self.wait_for(lambda: (self.folder / name).is_file() and (self.folder / name).stat().st_size >= size)

    def processes(self) -> list[int]:
        """IDs of the running processes with the mark."""
        return [pid for pid, environ in _environments() if f"{MARK}={self.mark}".encode() in environ]

    def stop(self, number: int) -> float:
        """Send the signal; seconds until all are gone."""
        assert self.process is not None
        begin = time.monotonic()
        self.process.send_signal(number)
        left = True
        while left and time.monotonic() - begin < LIMIT_S:
            time.sleep(0.005)
            left = self.process.poll() is None or bool(self.processes())
        took_s = time.monotonic() - begin
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        return took_s


def _environments() -> Iterator[tuple[int, bytes]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            yield int(folder.name), (folder / "environ").read_bytes()
        except OSError:  # not ours, or gone
            continue


@dataclass(frozen=True)
class Inputs:
    video: Path
    short: Path  # a MOT sequence
    people: list[str]  # options of `track` that select the detections
    detections: Path  # for cameras
    tracks: Path  # a large result file


State = Callable[[Try, Inputs], None]


def _track(*words: object, module: str = "tracker.commands.track") -> list[str]:
    return [sys.executable, "-m", module, *map(str, words)]


def starting(run: Try, inputs: Inputs) -> None:
    run.start(_track(inputs.video, *inputs.people, "--out", "t.txt"))
    time.sleep(0.4)


def file(run: Try, inputs: Inputs) -> None:
    run.start(_track(inputs.video, *inputs.people, "--out", "t.txt"))
    run.wait_for_size("t.txt", 2000)


def file_all_results(run: Try, inputs: Inputs) -> None:
    results = ["--out", "t.txt", "--video", "t.mp4", "--crops", "crops", "--heatmap", "heat.png", "--line", "1,1,99,99"]
    run.start(_track(inputs.video, *inputs.people, *results, "--counts", "counts.csv"))
    run.wait_for_size("t.txt", 2000)


def redrawing(run: Try, inputs: Inputs) -> None:
    """An annotated video that is rendered again by --resume."""
    words = _track(inputs.video, *inputs.people, "--out", "t.txt", "--video", "t.mp4", "--resume")
    run.start(words)
    run.wait_for_size("t.txt", 12000)
    run.stop(signal.SIGINT)
    run.lines.clear()
    run.start(words)
    run.wait_for_line("resuming after")


def two_passes(run: Try, inputs: Inputs) -> None:
    run.start(_track(inputs.video, *inputs.people, "--out", "t.txt", "--smooth", "--video", "t.mp4"))
    run.wait_for_line("frame ")


def _live(run: Try, inputs: Inputs, *words: object) -> None:
    words = ("--detections", inputs.detections, "--reid", "none", "--headless", "--out", "t.txt", *words)
    run.start(_track(run.camera.address, "--reconnect", "inf", *words))


def camera(run: Try, inputs: Inputs) -> None:
    _live(run, inputs, "--video", "t.avi")
    run.wait_for_size("t.txt")


def camera_slow(run: Try, inputs: Inputs) -> None:
    """Blocked inside the driver, between two frames."""
    _live(run, inputs)
    run.wait_for_size("t.txt")
    run.camera.mood = "slow"
    time.sleep(0.3 + np.random.default_rng().uniform(0, 3.0))


def camera_mute(run: Try, inputs: Inputs) -> None:
    """The server accepts the connection and sends nothing."""
    run.camera.mood = "mute"
    _live(run, inputs)
    time.sleep(2.0)


def reconnecting(run: Try, inputs: Inputs) -> None:
    """Between two attempts to reconnect."""
    _live(run, inputs)
    run.wait_for_size("t.txt")
    run.camera.mood = "down"
    run.wait_for_line("trying again in")


def reconnecting_mute(run: Try, inputs: Inputs) -> None:
    """An attempt hangs."""
    _live(run, inputs)
    run.wait_for_size("t.txt")
    run.camera.mood = "down"
    run.wait_for_line("connection lost")
    run.camera.mood = "mute"
    time.sleep(1.5)


def many(run: Try, inputs: Inputs) -> None:
    for number in (1, 2, 3):
        shutil.copy(inputs.video, run.folder / f"video{number}{inputs.video.suffix}")
    words = [f"video{number}{inputs.video.suffix}" for number in (1, 2, 3)]
    run.start(_track(*words, "--out", "out", "--jobs", "2", "--", *inputs.people, module="tracker.commands.many.cli"))
    for number in (1, 2):
        run.wait_for_size(f"out/.video{number}.part.txt", 500)


def many_starting(run: Try, inputs: Inputs) -> None:
    shutil.copy(inputs.video, run.folder / f"video{inputs.video.suffix}")
    run.start(
        _track(f"video{inputs.video.suffix}", "--out", "out", "--", *inputs.people, module="tracker.commands.many.cli")
    )
    run.wait_for(lambda: any((run.folder / "out").glob(".*.log")) or len(run.processes()) > 1)
    time.sleep(0.2)


def _eval(run: Try, inputs: Inputs, jobs: int) -> None:
    for name in ("one", "two", "three"):
        (run.folder / "mot").mkdir(exist_ok=True)
        os.symlink(inputs.short, run.folder / "mot" / name)
    run.start(_track("mot", "--jobs", jobs, module="tracker.eval.cli"))
    run.wait_for(lambda: len(list((run.folder / "results").glob("*.part"))) >= jobs)


def evaluation(run: Try, inputs: Inputs) -> None:
    _eval(run, inputs, 1)


def evaluation_jobs(run: Try, inputs: Inputs) -> None:
    _eval(run, inputs, 2)


def smoothing(run: Try, inputs: Inputs) -> None:
    run.start(_track(inputs.tracks, "--fps", 25, "--fill-gaps", 1, "--out", "s.txt", module="tracker.commands.smooth"))
    time.sleep(1.0)


def report(run: Try, inputs: Inputs) -> None:
    words = (inputs.tracks, "--video", inputs.video, "--out", "page.html")
    run.start(_track(*words, module="tracker.commands.report.cli"))
    time.sleep(1.0)


def _script(run: Try, inputs: Inputs, text: str, source: str) -> None:
    (run.folder / "mine.py").write_text(text)
    run.start([sys.executable, "mine.py", source, str(inputs.detections)])
    run.wait_for_line("5\n")


def script_file(run: Try, inputs: Inputs) -> None:
    _script(run, inputs, SCRIPT, str(inputs.video))


def script_camera(run: Try, inputs: Inputs) -> None:
    _script(run, inputs, SCRIPT, run.camera.address)
    run.camera.mood = "slow"
    time.sleep(0.3 + np.random.default_rng().uniform(0, 3.0))


def script_patient(run: Try, inputs: Inputs) -> None:
    """A script that handles Ctrl-C itself and exits with its own status."""
    _script(run, inputs, PATIENT, run.camera.address)
    run.camera.mood = "slow"
    time.sleep(0.3 + np.random.default_rng().uniform(0, 3.0))


STATES: tuple[State, ...] = (
    starting, file, file_all_results, redrawing, two_passes, camera, camera_slow, camera_mute, reconnecting,
    reconnecting_mute, many, many_starting, evaluation, evaluation_jobs, smoothing, report, script_file, script_camera,
    script_patient,
)  # fmt: skip


def measure(state: State, inputs: Inputs, number: int) -> tuple[float, int, str]:
    """Seconds, exit status, and the output."""
    with tempfile.TemporaryDirectory() as folder, _closing(Camera()) as here:
        run = Try(Path(folder), here)
        try:
            state(run, inputs)
            took_s = run.stop(number)
        finally:
            if run.process is not None:
                run.process.kill()
                run.process.wait()
        time.sleep(0.05)
        return took_s, run.process.returncode if run.process else 0, "".join(run.lines)


@contextmanager
def _closing(here: Camera) -> Iterator[Camera]:
    try:
        yield here
    finally:
        here.close()


def prepare(folder: Path, video: Path | None) -> Inputs:
    """Write the inputs; the tracks are the video's boxes many times over."""
    scene = make_scene(0, n_people=10, n_frames=600, width=640, height=480)
    write_sequence(scene, folder / "scene", video=folder / "scene.avi")
    detections = folder / "still.txt"
    detections.write_text("".join(f"{frame},-1,20,70,40,100,0.9,-1,-1,-1\n" for frame in range(1, 2001)))
    tracks = folder / "tracks.txt"
    rows = [line.split(",") for line in (folder / "scene" / "gt" / "gt.txt").read_text().splitlines()]
    text = [
        ",".join([row[0], str(int(row[1]) + 100 * copy), *row[2:6], "1,-1,-1,-1"]) for copy in range(40) for row in rows
    ]
    tracks.write_text("\n".join(text) + "\n")
    read_tracks(tracks)
    drawn = ["--detections", str(folder / "scene" / "det" / "det.txt")]
    return Inputs(video or folder / "scene.avi", folder / "scene", [] if video else drawn, detections, tracks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("--signal", nargs="+", choices=["INT", "TERM"], default=["INT", "TERM"])
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="states with one of these in their name")
    parser.add_argument("--video", type=Path)
    args = parser.parse_args()
    worst = 0.0
    print(f"{'state':<18} {'signal':<6} {'p50 s':>6} {'p95 s':>6} {'most s':>6}  exit status (times)")
    with tempfile.TemporaryDirectory() as folder:
        inputs = prepare(Path(folder), args.video and args.video.resolve())
        for state in STATES:
            if args.only and not any(word in state.__name__ for word in args.only):
                continue
            for name in args.signal:
                tries = [measure(state, inputs, signal.Signals[f"SIG{name}"]) for _ in range(args.tries)]
                times_s = [took_s for took_s, _, _ in tries]
                half, most = np.percentile(times_s, [50, 95])
                statuses = Counter(status for _, status, _ in tries)
                broken = sorted({word for _, _, output in tries for word in BROKEN if word in output})
                shown = ", ".join(f"{status} ({times})" for status, times in statuses.most_common())
                shown += "".join(f" ! {word}" for word in broken)
                print(
                    f"{state.__name__:<18} {name:<6} {half:6.2f} {most:6.2f} {max(times_s):6.2f}  {shown}", flush=True
                )
                worst = max(worst, *times_s)
    print(f"the longest took {worst:.2f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
