"""The folder of a run: config.toml, last.pt, metrics.csv, curve.png. Each is whole, also after a power cut.

With the package tensorboard there is an event file too; it grows by the epoch and can lose its end.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch

from reid_training.config import RunConfig, from_dict
from reid_training.errors import ModelError, ReidError
from reid_training.methods import create
from reid_training.methods.base import Method
from reid_training.nets import build

FORMAT = "tracklet-checkpoint/1"
PARTS = {"config": dict, "n_classes": int, "method": dict, "ema": dict, "optimiser": dict, "history": list}
MOST_CLASSES = 10**7  # more people than any data set has
CHECKPOINT = "last.pt"
EVENTS_SUFFIX = ".reid"  # ours among other event files in the same folder
Row = dict[str, float]  # one epoch of the log


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write beside the file, then rename: a reader sees the old or the new one, never half of one."""
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise ReidError(f"cannot write {path}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


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
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # on garbage torch.load raises whatever its pickle opcodes run into, KeyError included
        raise ModelError(f"{path} is not a checkpoint, or it is damaged") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ModelError(f"{path} is not a checkpoint of `reid train` (format {FORMAT})")
    missing = [part for part in PARTS if part not in state]
    if missing:
        raise ModelError(f"{path} lacks {', '.join(missing)}")
    wrong = [part for part, kind in PARTS.items() if not isinstance(state[part], kind) or isinstance(state[part], bool)]
    if wrong or not 0 <= state["n_classes"] <= MOST_CLASSES:
        raise ModelError(f"{path} is damaged: its {(wrong or ['n_classes'])[0]} is not what `reid train` writes")
    return state


def fill(method: torch.nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Weights into a network that must be the same one."""
    try:
        method.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ModelError(f"{path} holds another network: {first}") from None


def new_method(config: RunConfig, n_classes: int, *, start: bool = False) -> Method:
    """`start`: with the weights that training starts from; else they are there to be filled."""
    method = create(config.method, functools.partial(build, start=start), config.net)
    method.prepare(n_classes)
    return method


def load_method(path: Path) -> tuple[Method, RunConfig, dict[str, Any]]:
    """The averaged weights of a checkpoint, ready to embed; the config and the rest of the checkpoint."""
    path = find_checkpoint(path)
    state = load_checkpoint(path)
    config = from_dict(state["config"], str(path))
    try:
        method = new_method(config, state["n_classes"])
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:  # sizes that no machine has
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ModelError(f"{path} holds a network that cannot be made: {reason}") from None
    fill(method, state["ema"], path)
    return method.eval(), config, state


def write_log(folder: Path, history: list[Row]) -> None:
    """The whole table every time: a resumed run leaves no rows of the epochs that it repeats."""
    columns = list(dict.fromkeys(key for row in history for key in row))

    def write(stream: IO[bytes]) -> None:
        lines = [columns, *([f"{row[key]:.6g}" if key in row else "" for key in columns] for row in history)]
        stream.write("".join(csv_line(line) for line in lines).encode())

    replace_file(folder / "metrics.csv", write)


class EventLog:
    """The rows of the log as curves for TensorBoard, where the package tensorboard is installed; else nothing."""

    def __init__(self, folder: Path, history: list[Row]) -> None:
        """Starts from `history`, in a new file: a resumed run leaves no points of the epochs that it repeats."""
        self.folder = folder
        self.writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        with self._named_errors():
            for old in folder.glob(f"events.out.tfevents.*{EVENTS_SUFFIX}"):
                old.unlink(missing_ok=True)
            # purge_step: a TensorBoard that is already looking forgets what it read from the old file.
            self.writer = SummaryWriter(folder, purge_step=1, filename_suffix=EVENTS_SUFFIX)
        for row in history:
            self.add(row)

    def add(self, row: Row) -> None:
        if self.writer is None:
            return
        with self._named_errors():
            for key, value in row.items():
                if key != "epoch":
                    self.writer.add_scalar(key, value, int(row["epoch"]))
            self.writer.flush()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ReidError(f"cannot write the event file in {self.folder}: {error.strerror}") from None

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            with contextlib.suppress(OSError):  # every row is flushed already; a full disk was reported then
                self.writer.close()


def csv_line(cells: list[str]) -> str:
    class Line(list[str]):
        def write(self, text: str) -> None:
            self.append(text)

    line = Line()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return "".join(line)
