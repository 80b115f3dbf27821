"""The folder of a run: config.toml, last.pt, metrics.csv, curve.png. Each is whole, also after a power cut."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from reid_training import curve
from reid_training.errors import ModelError
from reid_training.runs import Row, read_checkpoint, replace_file
from tools.detector_training.config import RunConfig, from_dict
from tools.detector_training.net import PersonNet

FORMAT = "tracklet-detector-checkpoint/1"
PARTS = ("config", "ema", "history")  # of any checkpoint: enough to export, and to start another run from
RESUMABLE = (*PARTS, "net", "optimiser")
CHECKPOINT = "last.pt"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    content = io.BytesIO()
    torch.save({"format": FORMAT, **state}, content)
    replace_file(path, lambda stream: stream.write(content.getbuffer()))


def load_checkpoint(path: Path, parts: tuple[str, ...] = PARTS) -> dict[str, Any]:
    """A checkpoint file, or the one in a run folder, which must have these parts."""
    if path.is_dir():
        path = path / CHECKPOINT
    if not path.is_file():
        raise ModelError(f"no checkpoint {path}")
    return read_checkpoint(path, FORMAT, "`python -m tools.detector_training train`", parts)


def pack(path: Path, out: Path) -> None:
    """A checkpoint's averaged weights alone, in half precision: a sixth of its size; `--start` and `export` take it.

    Vectors (BN's scales and statistics) keep their digits.
    """
    state = load_checkpoint(path)
    weights = {name: value.half() if value.ndim > 1 else value for name, value in state["ema"].items()}
    save_checkpoint(out, {"config": state["config"], "ema": weights, "history": state["history"]})


def fill(net: torch.nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Weights into a network that must be the same one."""
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ModelError(f"{path} holds another network: {first}") from None


def load_net(path: Path) -> tuple[PersonNet, RunConfig, dict[str, Any]]:
    """The averaged weights of a checkpoint, ready to look; the config and the rest of the checkpoint."""
    state = load_checkpoint(path)
    config = from_dict(state["config"], str(path))
    net = PersonNet(config.net)
    fill(net, state["ema"], path)
    return net.eval(), config, state


def draw(history: list[Row], out: Path) -> None:
    """The plot of a run: loss, and average precision on the held-out pictures, over epochs."""
    keys = dict.fromkeys(key for row in history for key in row if key.startswith("val_ap"))
    curve.draw(history, out, {key: key.replace("_", " ") for key in keys}, "average precision, held out")
