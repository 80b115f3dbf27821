"""The network imitates the features of another one, a teacher, on the training pictures.

PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient. Weihan Cao et al., 2022,
https://arxiv.org/abs/2207.02039
    Section 3.2: the features of both pyramids, each channel brought to mean 0 and variance 1 over the batch and all
    places, and half the mean of the squared differences, which is 1 minus Pearson's correlation.

Where we differ: a 1x1 convolution, which is not part of the detector, stands between the two, so that they need
neither the same number of channels nor the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.shape_inference
import onnx.utils
import torch
from torch import Tensor, nn
from torch.nn import functional

from reid_training.errors import ModelError
from tools.detector_training.teacher import DEVIATION, MEAN
from tracker.runtime.onnx_session import open_session

CUT = "teacher_features.onnx"  # in the run's folder: the part of the teacher that is needed
PROBE_PX = 64  # a picture that tells how many channels the teacher has
EPSILON = 1e-6


class FeatureTeacher:
    """The tensors `names` of an ONNX network, fine to coarse: its features at strides 8, 16, ... of a picture."""

    def __init__(self, path: Path, names: Sequence[str], out: Path, device: str, threads: int) -> None:
        """out: folder that the part of the network that leads to the features is written to."""
        try:
            model = onnx.shape_inference.infer_shapes(onnx.load(path))  # names the tensors between the nodes
            part = onnx.utils.Extractor(model).extract_model([model.graph.input[0].name], list(names))
        except Exception as error:  # onnx and protobuf raise whatever comes
            raise ModelError(f"{path}: no network with the tensors {', '.join(names)}: {error}") from error
        out.mkdir(parents=True, exist_ok=True)
        onnx.save(part, out / CUT)
        self.path = path
        self.session = open_session(out / CUT, device, threads)
        self.channels = [found.shape[1] for found in self(torch.zeros(1, PROBE_PX, PROBE_PX, 3, dtype=torch.uint8))]

    def __call__(self, images: Tensor) -> list[Tensor]:
        """images (B, H, W, 3) uint8, BGR -> (B, C, H / 8, W / 8), (B, C', H / 16, W / 16), ..."""
        batch = images.float().sub_(torch.from_numpy(MEAN).float()).div_(torch.from_numpy(DEVIATION).float())
        return [torch.from_numpy(found) for found in self.session.run(np.ascontiguousarray(batch.permute(0, 3, 1, 2)))]


class Imitation(nn.Module):
    """What it costs that the network's features are not the teacher's."""

    def __init__(self, width: int, channels: Sequence[int]) -> None:
        """width: of the network's pyramid. channels: of the teacher's features, fine to coarse."""
        super().__init__()
        self.adapters = nn.ModuleList([nn.Conv2d(width, n, 1) for n in channels])

    def forward(self, features: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """Of the strides that the teacher has; a number between 0, alike, and 2."""
        pairs = zip(self.adapters, features, wanted, strict=False)  # the network may have coarser strides besides
        return torch.stack([1.0 - correlation(adapter(own).float(), theirs) for adapter, own, theirs in pairs]).mean()


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, of each channel over the batch and all places, and its mean over the channels: (B, C, H, W) twice."""
    if a.shape != b.shape:
        raise ModelError(f"the teacher's features are {tuple(b.shape)}, expected {tuple(a.shape)}: name those of the "
                         "strides 8, 16, ... in teacher.features")  # fmt: skip
    return (standardised(a) * standardised(b)).mean()


def standardised(x: Tensor) -> Tensor:
    """Each channel with mean 0 and variance 1."""
    return functional.batch_norm(x, None, None, training=True, eps=EPSILON)
