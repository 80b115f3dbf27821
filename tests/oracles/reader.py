"""Somebody who types and pastes what a page says, in a folder with the material that it names.

Programs run in this process, which has imported them once; cameras are servers on loopback, the webcam is a film.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import cv2
import numpy as np

from oracles.cameras import RtspCamera
from oracles.pages import ROOT, Block, Command

_META = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCRIPTS: dict[str, str] = _META["scripts"]
EXTRAS = set(_META["optional-dependencies"])

# Words that stand for something of the reader's own.
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
FINDS_NOBODY = "my_person.onnx"  # which a page trains; here for seconds
LIMIT_S = 300.0  # for what never takes so long


class _Parsed(BaseException):
    """Ends a program when its arguments have been understood."""


class _Refused(BaseException):
    """What a parser says against its arguments, and its help."""


class Reader:
    """folder: the material; out: takes what the programs print so far away (capsys.readouterr)."""

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

    def paste(self, block: Block) -> None:
        """Run a snippet; names go on to the next one of the page."""
        text = block.text
        if "camera/stream" not in text:
            with self._webcam(endless=False):
                exec(compile(text, block.where, "exec"), self.names)
            return
        said: list[str] = []
        self.names["print"] = lambda *words: said.append(" ".join(map(str, words)))
        with self._camera(lambda: any("[1" in line for line in said)) as address:  # a list of identities
            try:
                exec(compile(text.replace("camera/stream", address), block.where, "exec"), self.names)
            except KeyboardInterrupt:
                del self.names["print"]
                return
        raise AssertionError("ended before Ctrl-C")

    def type(self, command: Command) -> None:
        """Run a command; AssertionError with what it said unless it does what it should."""
        words = _filled(command).words
        program = words[0]
        if program in SCRIPTS:
            self._run_ours(words)
        elif program == "python" and words[1].startswith(("tools/", "-m")):
            self._run_tool(words)
        elif program == "torchrun":
            self._run_torchrun(words)
        else:
            self._run_shell(words, command.text)

    # ------------------------------------------------------------------------------------------------- programs

    def _run_ours(self, words: list[str]) -> None:
        program = words[0]
        words = _shortened(words)
        self._clear_way(words)
        if program == "track" and words[1].startswith("rtsp://"):
            self._run_stream(words)
            return
        if "--teacher" in words and not (teacher := self.folder / words[words.index("--teacher") + 1]).exists():
            self._run_ours(["reid", "train", "--data", "Market-1501", "--out", str(teacher)])  # the reader's own
        with mock.patch.dict(os.environ), self._webcam():
            try:
                status = main_of(program)(words[1:])
            except SystemExit as ended:  # as --version does, and the parser that refuses
                status = ended.code
        said = self._printed()
        assert status == 0, f"exit status {status}: {said.err}"
        self._check_outputs(words)

    def _run_stream(self, words: list[str]) -> None:
        """Ends by Ctrl-C once somebody is in the results."""
        out = self.folder / words[words.index("--out") + 1]
        out.unlink(missing_ok=True)
        wrote = lambda: out.is_file() and out.stat().st_size > 0  # noqa: E731
        with self._webcam(n_pictures=10**9), self._camera(wrote) as address:
            words = [word.replace("camera/stream", address) for word in words]
            status = main_of("track")(words[1:])
        said = self._printed()
        assert status == 130, f"exit status {status}: {said.err}"
        self._check_outputs(words)

    def _run_tool(self, words: list[str]) -> None:
        words = _shortened(words)
        argv, name = _tool(words)
        module = importlib.import_module(name)
        self._clear_way(words)
        with mock.patch.object(sys, "argv", argv), mock.patch.dict(os.environ):
            status = module.main()
        said = self._printed()
        assert status in (0, None), f"exit status {status}: {said.err}"
        self._check_outputs(words)

    def _run_torchrun(self, words: list[str]) -> None:
        """Two processes instead of four."""
        words = _shortened(words)
        words[words.index("--nproc-per-node") + 1] = "2"
        self._clear_way(words)
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

    # -------------------------------------------------------------------------------------------------- outputs

    def _clear_way(self, words: list[str]) -> None:
        """Pages give one name to several results, each as if it were the only one; programs that can replace do."""
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
        for option in ("--out", "--video", "--crops", "--save-embeddings", "--counts", "--heatmap", "--markdown",
                       "--csv", "--json", "--submit", "--ablation", "--table"):  # fmt: skip
            reads = {("track-report", "--video"), ("track-report", "--counts"), ("track-eval", "--video"),
                     ("reid", "--crops")}  # fmt: skip
            if (words[0], option) in reads:
                continue
            for name in _named(words, option):
                path = self.folder / name
                assert path.exists(), f"{option} {name} was not written"
                if path.is_file() and FINDS_NOBODY not in words:
                    assert path.stat().st_size > 0, f"{name} is empty"

    # -------------------------------------------------------------------------------------------------- cameras

    @contextmanager
    def _camera(self, met: Callable[[], bool]) -> Iterator[str]:
        """The street as a stream; Ctrl-C comes when `met`. Gives what stands for camera/stream in its address."""
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
                with suppress(KeyboardInterrupt):  # where the program ended by itself a moment before
                    waiting.join()
                    time.sleep(0)

    @contextmanager
    def _webcam(self, n_pictures: int = 10, endless: bool = True) -> Iterator[None]:
        """cv2.VideoCapture of a number plays the film; windows are swallowed, and get a `q` after some pictures."""
        real = cv2.VideoCapture

        def open_capture(what: int | str = 0, *more: Any) -> Any:
            return _Webcam(self.names["my_camera"], endless) if isinstance(what, int) else real(what, *more)

        shown: list[np.ndarray] = []
        replaced: dict[str, Any] = {name: lambda *words: None for name in WINDOW}
        replaced["VideoCapture"] = open_capture
        replaced["imshow"] = lambda title, picture: shown.append(picture)
        replaced["waitKeyEx"] = lambda wait_ms: ord("q") if len(shown) >= n_pictures else -1
        replaced["getWindowProperty"] = lambda *words: 1.0
        with mock.patch.multiple(cv2, **replaced), mock.patch("tracker.sinks.window.check_display"):
            yield


class _Webcam:
    """What cv2.VideoCapture gives for a number: the frames of the film, again and again if `endless`."""

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


def _tool(words: list[str]) -> tuple[list[str], str]:
    """Of `python tools/NAME.py ...` and `python -m tools.NAME ...`: the program's arguments, and its module."""
    if words[1] == "-m":
        return words[2:], f"{words[2]}.__main__"
    return words[1:], Path(words[1]).stem


def check_words(command: Command) -> None:
    """AssertionError unless the program's parser takes these words.

    A fragment, which lacks what the program needs, must name options that there are.
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
                words, name = _tool(words)
                with mock.patch.object(sys, "argv", words):
                    importlib.import_module(name).main()
    except _Parsed:
        return
    except SystemExit as ended:
        if ended.code == 0:  # --help and --version need nothing else
            return
        raise
    except _Refused as refused:
        said, usage = refused.args
        assert "required" in said or "expected" in said or "required" in usage, f"{command.text}: {said}"
        for word in words:
            assert not word.startswith("--") or word in usage, f"{command.text}: {said}; no option {word}"
        return
    raise AssertionError(f"{command.text}: read no arguments")


@contextmanager
def _parsing() -> Iterator[None]:
    parse = argparse.ArgumentParser.parse_args

    def stop(self, *words):  # type: ignore[no-untyped-def]
        raise _Parsed(parse(self, *words))

    def refuse(self, message):  # type: ignore[no-untyped-def]
        raise _Refused(message, self.format_help())

    with mock.patch.multiple(argparse.ArgumentParser, parse_args=stop, error=refuse):
        yield


def check_make(command: Command) -> None:
    """The target exists: make says what it would do."""
    done = subprocess.run(["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check_pip(command: Command) -> None:
    """The extras exist."""
    for word in command.words:
        for names in re.findall(r"\[(.*)\]", word):
            assert set(names.split(",")) <= EXTRAS, f"{word}: extras are {sorted(EXTRAS)}"


def _filled(command: Command) -> Command:
    """With words for the placeholders."""
    text = command.text
    for name in ("[--set ...]", "[SHORT]"):
        text = text.replace(name, "")
    words = (PLACEHOLDERS.get(word, word) for word in text.split(" "))
    return Command(command.where, " ".join(word for word in words if word))


def _shortened(words: list[str]) -> list[str]:
    """With what makes minutes of hours, and lets a result of an earlier command of the page be replaced.

    All that is changed about the commands of the pages is changed here: schedules and networks of training, the
    number of settings that are searched, of methods that are compared, of frames in a long run, the film where a part
    of it is meant, and what counts as far apart in a film of twelve frames. Whether drawn people gain by a metric of
    their own is no matter.
    """
    program = words[0]
    if program == "track":
        if {"--start", "--end", "--stride"} & set(words):
            words = ["track", "long.mp4" if words[1] == "video.mp4" else words[1], *words[2:]]
        writes = {"--out", "--video", "--crops", "--save-embeddings", "--counts", "--heatmap"} & set(words)
        return [*words, "--overwrite"] if writes and "--resume" not in words else words
    if words[:2] == ["track-eval", "tune"]:
        return [*words, "--overwrite", "--trials", "2", "--jobs", "1"]
    if program in ("track-eval", "track-smooth", "track-report"):
        return [*words, "--overwrite", *(["--jobs", "1"] if program == "track-eval" else [])]
    if program == "track-many" and "--" not in words:
        return [*words, "--redo"]
    if program == "track-many":
        at = words.index("--")
        return [*words[:at], "--redo", *words[at:]]
    if "train" in words and "reid" in words:
        members = ("method.members=2",) if "dreml" in words else ()
        return [*words, *(f"--set={setting}" for setting in (*TINY_NET, *TINY_DATA, *SHORT, *members))]
    if words[:2] == ["reid", "adapt"] and "--force" not in words:
        return [*words, "--force"]
    if words[:2] == ["reid", "evaluate"] and "--min-gap" in words:
        at = words.index("--min-gap") + 1
        return [*words[:at], "5", *words[at + 1 :]]
    if "tools.detector_training" in words and "export" in words and "--data" in words:
        at = words.index("--data")  # a network of two epochs finds too few people to measure its scores by
        return [*words[:at], *words[at + 2 :]]
    if words[1].endswith("bench_long.py"):
        return [*words, "--frames", "400", "--peer-frames", "400"]
    if words[1].endswith("compare_methods.py"):
        methods = ["--method", "siamese_miner"] if "--all" in words else []
        kept = [word for word in words if word not in ("--all", "--reduced")]
        return [*kept, *methods, "--reduced", "--seeds", "1", "--jobs", "1"]
    return words


def _named(words: list[str], option: str) -> list[str]:
    """The files behind an option, which may stand several times; not standard output."""
    found = [after for word, after in itertools.pairwise(words) if word == option]
    return [name for name in found if name != "-" and "=" not in name]


# ------------------------------------------------------------------------------------------ what snippets assume


def given_names(folder: Path) -> dict[str, Any]:
    """A camera, a detector, and what a metric is fitted to: names that the pages use and do not make."""
    film = cv2.VideoCapture(str(folder / "video.mp4"))
    frames = []
    while True:
        ok, frame = film.read()
        if not ok:
            break
        frames.append(frame)
    film.release()
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
    """A module with YOLO, whose call returns results with `.boxes`: one person who stands still."""
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
