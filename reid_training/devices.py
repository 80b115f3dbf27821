"""Devices of a run: the CPU, a GPU, or the processes of torchrun, each with its own device."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reid_training.errors import ConfigError
from reid_training.methods.base import Loss, Method

T = TypeVar("T")
# mallopt(3) of glibc.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


@dataclass(frozen=True, slots=True)
class Worker:
    """One of `n` processes that train the same weights on different batches; alone: rank 0 of 1."""

    rank: int
    n: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """True on rank 0, which validates, logs and writes."""
        return self.rank == 0

    def share(self, batches: Sequence[T]) -> list[T]:
        """Its part of an epoch. All parts have the same length: a process without a batch would block the others."""
        return list(batches[self.rank : len(batches) - len(batches) % self.n : self.n])

    def generator(self, alone: np.random.Generator, *seed: int) -> np.random.Generator:
        """Rank 0 continues the generator of a single-process run; the other ranks get their own."""
        return alone if self.leads else np.random.default_rng([*seed, self.rank])

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Over all processes."""
        if self.n == 1:
            return values
        total = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return dict(zip(values, (total / self.n).tolist(), strict=True))


@contextmanager
def worker(device: str) -> Iterator[Worker]:
    """`device`: cpu, cuda, or auto (cuda if there is one). Joins the process group under torchrun."""
    n, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    me = Worker(rank, n, find_device(device, int(os.environ.get("LOCAL_RANK", "0"))))
    if n == 1:
        yield me
        return
    dist.init_process_group("nccl" if me.device.type == "cuda" else "gloo")
    try:
        yield me
    finally:
        dist.destroy_process_group()


def find_device(name: str, local_rank: int = 0) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("schedule.device is cuda, but torch finds no GPU here; cpu or auto would run")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


class SharedLoss(nn.Module):
    """The loss of a method as a forward call, which is where DistributedDataParallel hooks in."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor, labels: Tensor, rng: np.random.Generator) -> Loss:
        return self.method.loss(images, labels, rng)


def loss_of(method: Method, me: Worker) -> Any:
    """`method.loss`; with several workers its gradients become their mean during backward()."""
    if me.n == 1:
        return method.loss
    return DistributedDataParallel(
        SharedLoss(method), device_ids=[me.device.index] if me.device.index is not None else None
    )


def keep_freed_memory() -> None:
    """Keep freed memory in this process until it ends. Linux with glibc only, elsewhere without effect.

    By default glibc returns each large freed tensor to the kernel and maps it again, page by page, for the next layer:
    an epoch of reid_accurate on two cores then takes a fifth longer.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28)):
        libc.mallopt(option, value)
