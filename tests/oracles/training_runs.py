"""Comparisons of training runs and methods, and the error line of the `reid` command."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from reid_training.cli import main
from reid_training.config import RunConfig
from reid_training.data.base import Dataset
from reid_training.runs import load_checkpoint
from reid_training.train import Run, train


def mistake(capsys, *argv: object, status: int = 2) -> str:
    """Run `reid`, which must end with this exit status and one line on stderr; returns the line."""
    capsys.readouterr()
    assert main([str(argument) for argument in argv]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("reid: ")
    return line


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts have the same names and bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same_states(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two checkpoints have as many epochs and the same weights and averaged weights."""
    return len(a["history"]) == len(b["history"]) and all(same_weights(a[part], b[part]) for part in ("method", "ema"))


def same_runs(a: Path, b: Path) -> bool:
    """`same_states` of the last checkpoints of two run folders."""
    return same_states(load_checkpoint(a), load_checkpoint(b))


def train_in_parallel(first: torch.nn.Module, second: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> None:
    """Three steps of both methods on one batch; their losses must be equal to the bit at every step."""
    optimisers = [torch.optim.AdamW(method.parameters(), lr=1e-2) for method in (first, second)]
    for _ in range(3):
        values = [method.loss(*batch) for method in (first, second)]
        assert torch.equal(values[0].total, values[1].total)
        for value, optimiser in zip(values, optimisers, strict=True):
            optimiser.zero_grad()
            value.total.backward()
            optimiser.step()


def train_in_two_parts(config: RunConfig, data: Dataset, out: Path) -> None:
    """A run that is interrupted before its second epoch, and resumed."""
    real = Run.epoch

    def stop_before_the_second(run: Run, epoch: int) -> Any:
        if epoch == 1:
            raise KeyboardInterrupt
        return real(run, epoch)

    with mock.patch.object(Run, "epoch", stop_before_the_second), pytest.raises(KeyboardInterrupt):
        train(config, data, out)
    train(config, data, out, resume=True)
