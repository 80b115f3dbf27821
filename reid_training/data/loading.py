"""The pictures of a training run: all decoded and on the device, or read batch by batch by other processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from reid_training.data.base import ByteArray, IntArray, Samples, read_image, read_inputs
from reid_training.errors import DataError


class Decoded:
    """Everything in the device's memory: pictures (N, height, width, 3) uint8, or the maps (N, V, C, h, w)."""

    def __init__(self, samples: Samples, height: int, width: int, device: torch.device) -> None:
        images = read_inputs(samples, height, width) if samples.maps is None else samples.maps
        self.images = torch.from_numpy(images).to(device)

    def batches(self, batches: Sequence[IntArray]) -> Iterator[Tensor]:
        """The pictures of each batch of rows (B,): (B, height, width, 3), or maps (B, V, C, h, w)."""
        for rows in batches:
            yield self.images[torch.from_numpy(rows).to(self.images.device)]


class Files(TorchDataset[ByteArray]):
    """Nothing in memory but the batches that come next: `loaders` processes read them, or this one if it is 0."""

    def __init__(self, samples: Samples, height: int, width: int, device: torch.device, loaders: int) -> None:
        self.samples, self.size, self.device, self.loaders = samples, (height, width), device, loaders

    def batches(self, batches: Sequence[IntArray]) -> Iterator[Tensor]:
        """As `Decoded.batches`, the same pictures in the same order."""
        loader = DataLoader(
            self,
            batch_sampler=batches,  # type: ignore[arg-type]  # rows as arrays
            num_workers=self.loaders,
            collate_fn=_stacked,
            worker_init_fn=_one_thread,
            generator=torch.Generator(),  # of the processes' seeds, which nothing uses: the global one stays untouched
        )
        try:
            for images in loader:
                if isinstance(images, DataError):
                    raise images
                yield images.to(self.device)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a process that reads pictures ended: {error}; data.loaders = 0 reads in the training process"
            ) from None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, rows: IntArray) -> list[ByteArray] | DataError:
        """An error is returned: raised in another process it would come with that process's traceback."""
        try:
            return [read_image(self.samples.paths[row], *self.size) for row in rows]
        except DataError as error:
            return error


def _stacked(images: list[ByteArray] | DataError) -> Tensor | DataError:
    return images if isinstance(images, DataError) else torch.from_numpy(np.stack(images))


def _one_thread(_: Any) -> None:
    cv2.setNumThreads(0)  # its pool does not survive the fork
