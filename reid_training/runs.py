"""The files of a run: config.toml, last.pt, metrics.csv, curve.png. Each is replaced atomically.

With the package tensorboard there is an event file too; it is appended to, so a power cut can lose its end.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import logging
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import torch

from reid_training.config import RunConfig, from_dict
from reid_training.errors import ModelError, not_written
from reid_training.methods import create
from reid_training.methods.base import Method
from reid_training.nets import build
from tracker.settings import to_toml

logger = logging.getLogger(__name__)

FORMAT = "tracklet-checkpoint/1"
PARTS = {"config": dict, "n_classes": int, "method": dict, "ema": dict, "optimiser": dict, "history": list}
MOST_CLASSES = 10**7  # more than any data set has
CHECKPOINT, CONFIG = "last.pt", "config.toml"
Row = dict[str, float]  # one epoch of the log


class Callback(Protocol):
    """Is told how a run goes. An exception ends the run; its last epoch is in the checkpoint."""

    def on_epoch(self, row: Row) -> None:
        """After each epoch: its row of the log. Not of the epochs that a resumed run has done before."""

    def on_end(self) -> None:
        """Once, after the last epoch, or where the run is interrupted or fails after it has begun."""


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes atomically (draft, fsync, rename): a reader sees the old file or the new one."""
    beside = draft_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise not_written(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def draft_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    content = io.BytesIO()  # torch's own writer reports a full disk as a RuntimeError without the reason
    torch.save({"format": FORMAT, **state}, content)
    replace_file(path, lambda stream: stream.write(content.getbuffer()))


def find_checkpoint(path: Path) -> Path:
    """A checkpoint file, or the one in a run folder."""
    if path.is_dir():
        path = path / CHECKPOINT
    if not path.is_file():
        raise ModelError(f"no checkpoint {path}")
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    path = find_checkpoint(path)
    state = read_checkpoint(path, FORMAT, "`reid train`", PARTS)
    wrong = [part for part, kind in PARTS.items() if not isinstance(state[part], kind) or isinstance(state[part], bool)]
    if wrong or not 0 <= state["n_classes"] <= MOST_CLASSES:
        raise ModelError(f"{path} is damaged: its {(wrong or ['n_classes'])[0]} is not what `reid train` writes")
    return state


def read_checkpoint(path: Path, form: str, writer: str, parts: Iterable[str]) -> dict[str, Any]:
    """Read and check a checkpoint of the format `form` with all of these parts.

    writer: the command that writes such files, for messages. Raises ModelError for a file that is no checkpoint, is
    damaged, or lacks a part.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    try:
        # torch writes a CRC-32 of every part but does not check it: a flipped bit would change a weight.
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # on garbage torch.load raises whatever its pickle opcodes run into, KeyError included
        raise ModelError(f"{path} is not a checkpoint, or it is damaged") from None
    if not isinstance(state, dict) or state.get("format") != form:
        raise ModelError(f"{path} is not a checkpoint of {writer} (format {form})")
    missing = [part for part in parts if part not in state]
    if missing:
        raise ModelError(f"{path} lacks {', '.join(missing)}")
    return state


def fill(method: torch.nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Loads the weights into `method`. Raises ModelError if they are of another network."""
    try:
        method.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ModelError(f"{path} holds another network: {first}") from None


def new_method(config: RunConfig, n_classes: int, *, start: bool = False) -> Method:
    """An untrained method. start: with the weights that training starts from; else random ones, to be overwritten."""
    size = (config.data.height, config.data.width)
    method = create(config.method, functools.partial(build, start=start, size=size), config.net)
    if n_classes > 0:  # without labels only the network is trained
        method.prepare(n_classes)
    return method


def load_method(path: Path) -> tuple[Method, RunConfig, dict[str, Any]]:
    """The averaged weights of a checkpoint, ready to embed; the config and the rest of the checkpoint."""
    path = find_checkpoint(path)
    state = load_checkpoint(path)
    config = from_dict(state["config"], str(path))
    try:
        method = new_method(config, state["n_classes"])
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:  # impossible sizes
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ModelError(f"{path} holds a network that cannot be made: {reason}") from None
    fill(method, state["ema"], path)
    return method.eval(), config, state


class RunFolder:
    """Writes the files of a run while it trains: config.toml, last.pt, metrics.csv and the curves for TensorBoard."""

    def __init__(self, out: Path, config: RunConfig, history: list[Row], callbacks: Sequence[Callback] = ()) -> None:
        """history: the epochs done before, where a run is resumed."""
        self.out, self.config = out, config
        self._write_config()
        with contextlib.suppress(OSError):
            draft_of(out / CHECKPOINT).unlink()  # of a run that was killed
        if history:  # a run that was killed after its last checkpoint may lack these rows
            write_log(out, history)
        self.callbacks = [*event_log(out, history), *callbacks]

    def add_epoch(self, history: list[Row], snapshot: Callable[[], dict[str, Any]], *, is_due: bool) -> None:
        """Writes checkpoint and log if they are due, and tells the callbacks the last row.

        The checkpoint is written also if one of these fails: the epoch would be lost otherwise.
        """
        if is_due:
            self._save(snapshot())
        try:
            if is_due:
                write_log(self.out, history)
            for callback in self.callbacks:
                callback.on_epoch(history[-1])
        except Exception:
            if not is_due:
                self._save(snapshot())
            raise

    def _save(self, state: dict[str, Any]) -> None:
        """Writes the checkpoint; a folder removed meanwhile is created again, with its config.toml."""
        if not (self.out / CONFIG).exists():
            logger.warning("%s was removed meanwhile; it is written again", self.out / CONFIG)
            self._write_config()
        save_checkpoint(self.out / CHECKPOINT, state)

    def _write_config(self) -> None:
        replace_file(self.out / CONFIG, lambda stream: stream.write(to_toml(self.config).encode()))


def event_log(folder: Path, history: list[Row]) -> list[Callback]:
    """Curves for TensorBoard, where that package is installed; else nothing."""
    try:
        from reid_training.event_log import EventLog
    except ImportError:
        return []
    return [EventLog(folder, history)]


def write_log(folder: Path, history: list[Row]) -> None:
    """Rewrites metrics.csv completely, so that a resumed run leaves no rows of repeated epochs."""
    columns = list(dict.fromkeys(key for row in history for key in row))

    def write(stream: IO[bytes]) -> None:
        lines = [columns, *([f"{row[key]:.6g}" if key in row else "" for key in columns] for row in history)]
        stream.write("".join(csv_line(line) for line in lines).encode())

    replace_file(folder / "metrics.csv", write)


def csv_line(cells: list[str]) -> str:
    class Line(list[str]):
        def write(self, text: str) -> None:
            self.append(text)

    line = Line()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return "".join(line)
