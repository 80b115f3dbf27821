"""Run the commands and snippets of the documentation, in a folder with the files that the pages name.

Our programs run in this process, which has imported them once; cameras are servers on loopback, the webcam plays a
video.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import cv2
import numpy as np

from tests.oracles.cameras import RtspCamera
from tests.oracles.pages import ROOT, Block, Command

_META = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCRIPTS: dict[str, str] = _META["scripts"]
EXTRAS = set(_META["optional-dependencies"])

# Placeholders of the pages and what replaces them.
PLACEHOLDERS = {
    "[--set ...]": "", "[SHORT]": "", "...": "", "MODEL_OR_RUN": "my_reid.onnx", "MARKET": "Market-1501",
    "CROPS": "crops", "METHOD": "siamese", "SEQUENCE": "MOT16-09", "NEW.onnx": "new.onnx", "N": "2", "P": "int8",
    "RUN": "runs/mine", "FILE": "other.onnx", "FILES": "weights/reid_fast.onnx", "FILE@128x64": "my_reid.onnx@128x64",
    "FILE@256x128": "my_reid.onnx@128x64",
}  # fmt: skip
TINY_NET = ("net.channels=[8,16,24]", "net.last_channels=32", "net.width=1.0", "net.blocks=1", "net.embedding_size=16")
TINY_DATA = ("data.val_fraction=0.25", "data.height=64", "data.width=32", "data.n_ids=4", "data.n_per_id=4")
SHORT = ("schedule.epochs=1", "schedule.warmup_epochs=0", "schedule.precision=fp32", "schedule.threads=1")
WINDOW = ("namedWindow", "resizeWindow", "destroyWindow", "setMouseCallback")
UNTRAINED = "my_person.onnx"  # a page trains it; here for seconds only, so that it detects no person
LIMIT_S = 300.0  # of a process; none takes nearly so long


class _Parsed(BaseException):
    """Ends a program once its arguments are parsed."""


class _Rejected(BaseException):
    """The error message of a parser, and its help."""


class PageRunner:
    """folder: the files that the pages name; printed: capsys.readouterr, which takes the output printed so far."""

    def __init__(self, folder: Path, printed: Callable[[], Any]) -> None:
        self.folder, self._printed = folder, printed
        self.names: dict[str, Any] = given_names(folder)
        self._shims = folder / ".bin"
        self._shims.mkdir()
        for name, target in SCRIPTS.items():
            module, function = target.split(":")
            shim = self._shims / name
            shim.write_text(
                f"#!{sys.executable}\nimport sys\nfrom {module} import {function} as main\nsys.exit(main())\n"
            )
            shim.chmod(0o755)

    def run_query(self, block: Block) -> None:
        """Ask the database that a command of the page wrote."""
        with closing(sqlite3.connect(f"file:{self.folder / 'tracks.db'}?mode=ro", uri=True)) as database:
            database.execute(block.text).fetchall()

    def run_snippet(self, block: Block) -> None:
        """Run a snippet in Python; its names stay for the next one of the page."""
        text = block.text
        if "camera/stream" not in text:
            with self._webcam(endless=False), _serving_beside():
                exec(compile(text, block.where, "exec", dont_inherit=True), self.names)
            return
        said: list[str] = []
        self.names["print"] = lambda *words: said.append(" ".join(map(str, words)))
        with self._camera(lambda: any("[1" in line for line in said)) as address:  # a list of identities
            try:
                code = text.replace("camera/stream", address)
                exec(compile(code, block.where, "exec", dont_inherit=True), self.names)
            except KeyboardInterrupt:
                del self.names["print"]
                return
        raise AssertionError("ended before Ctrl-C")

    def run_command(self, command: Command) -> None:
        """Run a command; AssertionError with its output if it fails or does not write its files."""
        words = _filled(command).words
        program = words[0]
        if program in SCRIPTS:
            self._run_ours(words)
        elif program == "python":
            self._run_tool(words)
        elif program == "torchrun":
            self._run_torchrun(words)
        else:
            self._run_shell(words, command.text)

    def _run_ours(self, words: list[str]) -> None:
        program = words[0]
        words = _shortened(words)
        self._delete_old(words)
        if program == "track" and words[1].startswith("rtsp://"):
            self._run_stream(words)
            return
        if "--teacher" in words and not (teacher := self.folder / words[words.index("--teacher") + 1]).exists():
            self._run_ours(["reid", "train", "--data", "Market-1501", "--out", str(teacher)])  # the reader's own
        outs = [self.folder / value for option, value in itertools.pairwise(words) if option == "--out"]
        wrote = lambda: all(out.stat().st_size for out in outs if out.is_file())  # noqa: E731
        with mock.patch.dict(os.environ), self._webcam(wrote=wrote):
            try:
                status = main_of(program)(words[1:])
            except SystemExit as ended:  # as --version does, and the parser that refuses
                status = ended.code
        said = self._printed()
        assert status == 0, f"exit status {status}: {said.err}"
        self._check_outputs(words)

    def _run_stream(self, words: list[str]) -> None:
        """Interrupted by Ctrl-C once the results have a row."""
        out = self.folder / words[words.index("--out") + 1]
        if out.is_file():
            out.unlink()
        # Of several sources `out` is a folder.
        wrote = lambda: any(path.is_file() and path.stat().st_size for path in (out, *out.glob("*")))  # noqa: E731
        with self._webcam(n_pictures=10**9), self._camera(wrote) as address:
            words = [word.replace("camera/stream", address) for word in words]
            status = main_of("track")(words[1:])
        said = self._printed()
        assert status == 130, f"exit status {status}: {said.err}"
        self._check_outputs(words)

    def _run_tool(self, words: list[str]) -> None:
        words = _shortened(words)
        self._delete_old(words)
        with mock.patch.object(sys, "argv", words[2:]), mock.patch.dict(os.environ):
            status = tool(words).main()
        said = self._printed()
        assert status in (0, None), f"exit status {status}: {said.err}"
        self._check_outputs(words)

    def _run_torchrun(self, words: list[str]) -> None:
        """With two processes instead of four."""
        words = _shortened(words)
        words[words.index("--nproc-per-node") + 1] = "2"
        self._delete_old(words)
        self._run_process([sys.executable, "-m", "torch.distributed.run", *words[1:]])
        self._check_outputs(words)

    def _run_shell(self, words: list[str], text: str) -> None:
        assert shutil.which(words[0]), (
            f"no program {words[0]}: neither ours nor installed, and not among the exceptions"
        )
        self._run_process(["bash", "-ec", text])

    def _run_process(self, argv: list[str]) -> None:
        path = f"{self._shims}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            argv, cwd=self.folder, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, f"exit status {done.returncode}: {done.stderr[-2000:]}"

    def _delete_old(self, words: list[str]) -> None:
        """Delete the results of earlier commands with the same names, except where the program replaces them itself."""
        replaces = words[0] in ("track", "track-many") and "--resume" not in words
        if replaces or "--overwrite" in words:
            return
        for path in _named(words, "--out"):
            there = self.folder / path
            if there.is_dir():
                shutil.rmtree(there)
            elif there.is_file():
                there.unlink()

    def _check_outputs(self, words: list[str]) -> None:
        for option in ("--out", "--video", "--crops", "--save-embeddings", "--counts", "--heatmap", "--top-view",
                       "--markdown", "--csv", "--json", "--submit", "--ablation", "--table"):  # fmt: skip
            reads = {("track-report", "--video"), ("track-report", "--counts"), ("track-eval", "--video"),
                     ("reid", "--crops"), ("python", "--video")}  # fmt: skip
            if (words[0], option) in reads:
                continue
            for name in _named(words, option):
                of_sources = [*self.folder.glob(name.replace("{source}", "*"))] if "{source}" in name else []
                path = of_sources[0] if of_sources else self.folder / name
                assert path.exists(), f"{option} {name} was not written"
                if path.is_file() and UNTRAINED not in words:
                    assert path.stat().st_size > 0, f"{name} is empty"

    @contextmanager
    def _camera(self, met: Callable[[], bool]) -> Iterator[str]:
        """Stream the video; send Ctrl-C once `met`. Yields the part of the address that replaces camera/stream."""
        frames = self.names["my_camera"]
        ended = threading.Event()

        def interrupt() -> None:
            until_s = time.monotonic() + LIMIT_S
            while not met() and time.monotonic() < until_s and not ended.is_set():
                time.sleep(0.05)
            if not ended.is_set():
                os.kill(os.getpid(), signal.SIGINT)

        with RtspCamera(lambda time_s: frames[round(time_s * 6) % len(frames)], fps=15.0) as camera:
            waiting = threading.Thread(target=interrupt)
            waiting.start()
            try:
                yield camera.address.removeprefix("rtsp://")
            finally:
                ended.set()
                with suppress(KeyboardInterrupt):  # the program may have ended by itself just before
                    waiting.join()
                    time.sleep(0)

    @contextmanager
    def _webcam(
        self, n_pictures: int = 10, endless: bool = True, wrote: Callable[[], bool] = lambda: True
    ) -> Iterator[None]:
        """cv2.VideoCapture of a number plays the video; windows are not shown, and `q` is pressed after some images.

        wrote: whether the results have rows, which may take long where most images are of frames without detections.
        """
        real = cv2.VideoCapture

        def open_capture(what: int | str = 0, *more: Any) -> Any:
            return _Webcam(self.names["my_camera"], endless) if isinstance(what, int) else real(what, *more)

        shown: list[np.ndarray] = []
        replaced: dict[str, Any] = {name: lambda *words: None for name in WINDOW}
        replaced["VideoCapture"] = open_capture
        replaced["imshow"] = lambda title, picture: shown.append(picture)
        replaced["waitKeyEx"] = lambda wait_ms: ord("q") if len(shown) >= n_pictures and wrote() else -1
        replaced["getWindowProperty"] = lambda *words: 1.0
        with mock.patch.multiple(cv2, **replaced), mock.patch("tracker.sinks.window.check_display"):
            yield


@contextmanager
def _serving_beside() -> Iterator[None]:
    """A server of a snippet serves the rest of its page, instead of holding it up."""
    serve = HTTPServer.serve_forever

    def serve_beside(server: HTTPServer) -> None:
        threading.Thread(target=serve, args=(server,), daemon=True).start()

    with mock.patch.object(HTTPServer, "serve_forever", serve_beside):
        yield


class _Webcam:
    """Replaces cv2.VideoCapture of a number: the frames of the video, repeated if `endless`."""

    def __init__(self, frames: list[np.ndarray], endless: bool) -> None:
        self._frames: Iterator[np.ndarray] = itertools.cycle(frames) if endless else iter(frames)

    def isOpened(self) -> bool:  # noqa: N802  OpenCV's name
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.03)
        frame = next(self._frames, None)
        return frame is not None, frame

    def get(self, number: int) -> float:
        return {cv2.CAP_PROP_FRAME_WIDTH: 768.0, cv2.CAP_PROP_FRAME_HEIGHT: 576.0, cv2.CAP_PROP_FPS: 30.0}.get(
            number, 0.0
        )

    def set(self, *words: object) -> bool:
        return False

    def release(self) -> None:
        self._frames = iter(())


def main_of(program: str) -> Callable[[list[str]], int]:
    module, function = SCRIPTS[program].split(":")
    main: Callable[[list[str]], int] = getattr(importlib.import_module(module), function)
    return main


def check_words(command: Command) -> None:
    """AssertionError unless the program's parser accepts these words.

    A fragment without required arguments must name existing options.
    """
    words = _filled(command).words
    if words[0] == "make":
        check_make(command)
        return
    if words[0] == "torchrun":
        words = words[words.index("--no-python") + 1 :]
    try:
        with _parsing():
            if words[0] in SCRIPTS:
                main_of(words[0])(words[1:])
            else:
                with mock.patch.object(sys, "argv", words[2:]):
                    tool(words).main()
    except _Parsed:
        return
    except SystemExit as ended:
        if ended.code == 0:  # --help and --version need nothing else
            return
        raise
    except _Rejected as rejected:
        said, usage = rejected.args
        assert "required" in said or "expected" in said or "required" in usage, f"{command.text}: {said}"
        for word in words:
            assert not word.startswith("--") or word in usage, f"{command.text}: {said}; no option {word}"
        return
    raise AssertionError(f"{command.text}: read no arguments")


@contextmanager
def _parsing() -> Iterator[None]:
    parse, parse_known = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args

    def stop(self, *words):  # type: ignore[no-untyped-def]
        with mock.patch.object(argparse.ArgumentParser, "parse_known_args", parse_known):  # which parse_args calls
            raise _Parsed(parse(self, *words))

    def reject(self, message):  # type: ignore[no-untyped-def]
        raise _Rejected(message, self.format_help())

    with mock.patch.multiple(argparse.ArgumentParser, parse_args=stop, parse_known_args=stop, error=reject):
        yield


def check_make(command: Command) -> None:
    """The target exists: a dry run of make succeeds."""
    done = subprocess.run(["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check_pip(command: Command) -> None:
    """The extras of this package exist."""
    for word in command.words:
        for names in re.findall(r"^\.\[(.*)\]", word):
            assert set(names.split(",")) <= EXTRAS, f"{word}: extras are {sorted(EXTRAS)}"


def _filled(command: Command) -> Command:
    """With the placeholders replaced."""
    text = command.text
    for name in ("[--set ...]", "[SHORT]"):
        text = text.replace(name, "")
    words = (PLACEHOLDERS.get(word, word) for word in text.split(" "))
    return Command(command.where, " ".join(word for word in words if word))


def tool(words: list[str]) -> ModuleType:
    """The module that `python -m NAME ...` runs."""
    assert words[:2] == ["python", "-m"], f"a tool of the repository is run as `python -m NAME`: {' '.join(words)}"
    module = importlib.import_module(words[2])
    return importlib.import_module(f"{words[2]}.__main__") if hasattr(module, "__path__") else module


def _shortened(words: list[str]) -> list[str]:
    """The command with options that shorten it, and that let it replace results of earlier commands of the page.

    Every change to the commands of the pages is made here.
    """
    program = words[0]
    if program == "track":
        if {"--start", "--end", "--stride"} & set(words):
            words = ["track", "long.mp4" if words[1] == "video.mp4" else words[1], *words[2:]]
        if "--detect-every" in words:
            # The stand-in network reports the same boxes whatever they show, and four frames are few to look alike.
            words = [*words, "--no-veto"]
        if "--serve" in words:  # pages are run side by side, and a port can be taken once
            at = words.index("--serve") + 1
            words = [*words[:at], words[at].replace("8000", "0"), *words[at + 1 :]]
        results = {"--out", "--video", "--crops", "--save-embeddings", "--counts", "--heatmap", "--top-view"}
        results |= {"--events", "--embedded-events"}
        return [*words, "--overwrite"] if results & set(words) and "--resume" not in words else words
    if words[:2] == ["track-eval", "tune"]:
        return [*words, "--overwrite", "--trials", "2", "--jobs", "1"]
    if "--replicas" in words:
        at = words.index("--replicas") + 1
        words = [*words[:at], "2", *words[at + 1 :], "--seed", "23"]  # these two start within the first half
    if "tools.benchmarks.tracking_peers" in words:
        return [*words, "--jobs", "1"]
    if program in ("track-eval", "track-smooth", "track-report"):
        return [*words, "--overwrite", *(["--jobs", "1"] if program == "track-eval" else [])]
    if program == "track-many" and "--" not in words:
        return [*words, "--redo"]
    if program == "track-many":
        at = words.index("--")
        return [*words[:at], "--redo", *words[at:]]
    if "train" in words and "reid" in words:
        members = ("method.members=2",) if "dreml" in words else ()
        return [
            *_without(words, "--jobs"),
            *(f"--set={setting}" for setting in (*TINY_NET, *TINY_DATA, *SHORT, *members)),
        ]
    if words[:2] == ["reid", "adapt"] and "--force" not in words:
        return [*words, "--force"]
    if words[:2] == ["reid", "evaluate"] and "--min-gap" in words:
        at = words.index("--min-gap") + 1
        return [*words[:at], "5", *words[at + 1 :]]
    if "tools.detector_training" in words and "export" in words and "--data" in words:
        return _without(words, "--data")  # a network of two epochs detects too few people to calibrate its scores
    if "tools.benchmarks.long" in words:
        return [*words, "--frames", "400", "--peer-frames", "400"]
    if "tools.experiments" in words:
        methods = ["--method", "siamese_miner"] if "--all" in words else []
        kept = [word for word in words if word not in ("--all", "--reduced")]
        return [*kept, *methods, "--reduced", "--seeds", "1", "--jobs", "1"]
    return words


def _without(words: list[str], option: str) -> list[str]:
    """Without an option and its value."""
    at = words.index(option) if option in words else len(words)
    return [*words[:at], *words[at + 2 :]]


def _named(words: list[str], option: str) -> list[str]:
    """Values of an option that may be repeated, without standard output."""
    found = [after for word, after in itertools.pairwise(words) if word == option]
    return [name for name in found if name != "-" and "=" not in name]


def given_names(folder: Path) -> dict[str, Any]:
    """Names that the snippets use without defining them: a camera, a detector, data to fit a metric to."""
    video = cv2.VideoCapture(str(folder / "video.mp4"))
    frames = []
    while True:
        ok, frame = video.read()
        if not ok:
            break
        frames.append(frame)
    video.release()
    rows = np.loadtxt(folder / "det.txt", delimiter=",")
    boxes = np.column_stack([rows[:, 2:4] - 1, rows[:, 2:4] - 1 + rows[:, 4:6], rows[:, 6]])
    answers = itertools.cycle([boxes[rows[:, 0] == number] for number in range(1, len(frames) + 1)])

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 8)
    features = rng.normal(size=(24, 6)) + 3 * np.eye(6)[labels]
    return {
        "__name__": "page",
        "my_camera": frames,
        "my_detector": lambda image: next(answers),
        "features": features,
        "labels": labels,
        "pairs": np.stack([features[:-1], features[1:]], axis=1),
        "triplets": np.stack([features[0:7], features[1:8], features[8:15]], axis=1),
        "pool": rng.normal(size=(40, 6)),
    }


def ultralytics_stub() -> ModuleType:
    """A module with YOLO, whose call returns results with `.boxes`: one person at rest."""
    import torch

    boxes = SimpleNamespace(
        xyxy=torch.tensor([[180.0, 150.0, 220.0, 250.0]]), conf=torch.tensor([0.9]), cls=torch.tensor([0.0])
    )

    class YOLO:
        def __init__(self, model: object = "yolo11n.pt", **more: object) -> None:
            self.names = {0: "person"}

        def __call__(self, source: object, **more: object) -> list[SimpleNamespace]:
            return [SimpleNamespace(boxes=boxes, names=self.names)]

        predict = __call__

    stub = ModuleType("ultralytics")
    stub.YOLO = YOLO  # type: ignore[attr-defined]
    return stub
