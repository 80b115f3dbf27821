"""The person detector: EfficientNet-Lite0 as far as stride 16, a light pyramid, one score and one box per cell.

References, one idea from each:
- EfficientNet (Tan, Le, 2019), https://arxiv.org/abs/1905.11946: the body, from ImageNet; see reid_training.nets.
- FCOS (Tian et al., 2019), https://arxiv.org/abs/1904.01355: no anchors; a cell says how far it is to the four edges.
- Path Aggregation Network (Liu et al., 2018), https://arxiv.org/abs/1803.01534: from coarse to fine and back again.
- RTMDet (Lyu et al., 2022), https://arxiv.org/abs/2212.07784: one head for all strides, with batch norms for each.

Where we differ: the 192- and 320-channel stages of Lite0 (1.9 M parameters) make place for a small stage of our own;
the score is the expected IoU, so there is neither an objectness nor a centre-ness beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reid_training import config as reid
from reid_training.data.transforms import MEAN, STD
from reid_training.nets.efficientnet import efficientnet_lite0, start_from_imagenet
from reid_training.nets.layers import conv_bn
from reid_training.nets.mobilenet import InvertedResidual
from tools.detector_training.config import NetConfig

STRIDES = (8, 16, 32)
# Of Lite0's body: layers before these are the stem and the stages that end in 40 (stride 8) and 112 channels (16).
CUT_8, CUT_16 = 6, 12
CHANNELS_8, CHANNELS_16 = 40, 112
PRIOR = 0.01  # score of every cell before training: most cells are background (RetinaNet, section 4.1)
MAX_LOG_DISTANCE = 8.0  # exp() of this many strides is far outside any picture


@dataclass(frozen=True, slots=True)
class Cells:
    """Where the N cells of a picture are, fine to coarse, row by row."""

    centres: Tensor  # (N, 2) x, y, pixels of the input
    strides: Tensor  # (N,) pixels


def cells(height: int, width: int, device: torch.device | None = None) -> Cells:
    """`height`, `width`: of the input, multiples of 32."""
    centres, strides = [], []
    for stride in STRIDES:
        y = (torch.arange(height // stride, dtype=torch.float32, device=device) + 0.5) * stride
        x = (torch.arange(width // stride, dtype=torch.float32, device=device) + 0.5) * stride
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        centres.append(torch.stack([columns, rows], dim=-1).reshape(-1, 2))
        strides.append(torch.full_like(centres[-1][:, 0], float(stride)))
    return Cells(torch.cat(centres), torch.cat(strides))


def decode(distances: Tensor, places: Cells) -> Tensor:
    """Logarithms of the distances to the left, top, right and bottom edge, in strides -> boxes xyxy, pixels.

    distances (..., N, 4).
    """
    pixels = distances.clamp(max=MAX_LOG_DISTANCE).exp() * places.strides[:, None]
    return torch.cat([places.centres - pixels[..., :2], places.centres + pixels[..., 2:]], dim=-1)


def separable(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A depthwise convolution, which looks around, and a pointwise one, which mixes."""
    return nn.Sequential(
        conv_bn(n_in, n_in, kernel, stride, groups=n_in, activation=nn.ReLU6),
        conv_bn(n_in, n_out, activation=nn.ReLU6),
    )


class Pyramid(nn.Module):
    """Features of strides 8, 16 and 32 -> three of `width` channels, each of which has seen the others."""

    def __init__(self, channels: tuple[int, int, int], width: int, kernel: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([conv_bn(n, width, activation=nn.ReLU6) for n in channels])
        self.finer = nn.ModuleList([separable(width, width, kernel) for _ in range(2)])  # to strides 8, 16
        self.down = nn.ModuleList([separable(width, width, kernel, stride=2) for _ in range(2)])  # from strides 8, 16
        self.coarser = nn.ModuleList([separable(width, width, kernel) for _ in range(2)])  # to strides 16, 32

    def forward(self, c8: Tensor, c16: Tensor, c32: Tensor) -> list[Tensor]:
        l8, l16, l32 = (layer(c) for layer, c in zip(self.lateral, (c8, c16, c32), strict=True))
        t16 = self.finer[1](l16 + functional.interpolate(l32, scale_factor=2.0))
        p8 = self.finer[0](l8 + functional.interpolate(t16, scale_factor=2.0))
        p16 = self.coarser[0](t16 + self.down[0](p8))
        p32 = self.coarser[1](l32 + self.down[1](p16))
        return [p8, p16, p32]


class SharedSeparable(nn.Module):
    """One separable convolution for all strides, with a batch norm for each: their features are not equally large."""

    def __init__(self, width: int, kernel: int, n_strides: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.mix = nn.Conv2d(width, width, 1, bias=False)
        self.around_norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(n_strides)])
        self.mix_norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(n_strides)])

    def forward(self, x: Tensor, level: int) -> Tensor:
        x = functional.relu6(self.around_norms[level](self.around(x)))
        return functional.relu6(self.mix_norms[level](self.mix(x)))


class Head(nn.Module):
    """Features -> score logits (B, N) and log distances (B, N, 4)."""

    def __init__(self, width: int, kernel: int, depth: int) -> None:
        super().__init__()
        n = len(STRIDES)
        self.score_layers = nn.ModuleList([SharedSeparable(width, kernel, n) for _ in range(depth)])
        self.box_layers = nn.ModuleList([SharedSeparable(width, kernel, n) for _ in range(depth)])
        self.score = nn.Conv2d(width, 1, 1)
        self.box = nn.Conv2d(width, 4, 1)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        logits, distances = [], []
        for level, x in enumerate(features):
            s = b = x
            for layer in self.score_layers:
                s = layer(s, level)
            for layer in self.box_layers:
                b = layer(b, level)
            logits.append(self.score(s).flatten(1))  # (B, h w)
            distances.append(self.box(b).flatten(2).transpose(1, 2))  # (B, h w, 4)
        return torch.cat(logits, 1), torch.cat(distances, 1)


class PersonNet(nn.Module):
    """Pictures (B, 3, H, W), BGR in 0 .. 255, to logits and log distances; H and W multiples of 32."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: NetConfig, *, start: bool = False) -> None:
        """`start`: with ImageNet's weights, if the config says so; else they are there to be filled."""
        super().__init__()
        lite = efficientnet_lite0(reid.NetConfig(name="efficientnet_lite0", width=1.0, last_stride=2))
        if start and config.start == "imagenet":
            start_from_imagenet(lite)
            swap_colours(next(lite.body.parameters()))
        self.body8, self.body16 = lite.body[:CUT_8], lite.body[CUT_8:CUT_16]
        n = config.coarse_channels
        self.body32 = nn.Sequential(
            InvertedResidual(CHANNELS_16, n, 2, config.coarse_expansion, 5),
            *[InvertedResidual(n, n, 1, config.coarse_expansion, 5) for _ in range(config.coarse_blocks - 1)],
        )
        self.pyramid = Pyramid((CHANNELS_8, CHANNELS_16, n), config.width, config.kernel)
        self.head = Head(config.width, config.kernel, config.head_depth)
        initialise(self.body32, self.pyramid, self.head)
        # ImageNet's mean and deviation of RGB in 0 .. 1, here of BGR bytes.
        self.register_buffer("mean", torch.tensor(MEAN[::-1])[:, None, None] * 255, persistent=False)
        self.register_buffer("scale", 1 / (torch.tensor(STD[::-1])[:, None, None] * 255), persistent=False)
        self.from_imagenet = config.start == "imagenet"
        self.n_frozen = 0
        self.freeze(config.frozen)

    def freeze(self, n_layers: int) -> None:
        """The first `n_layers` of Lite0 keep their weights and their BN statistics."""
        self.n_frozen = n_layers
        for layer in self._frozen():
            layer.requires_grad_(False)

    def _frozen(self) -> list[nn.Module]:
        return [*self.body8.children(), *self.body16.children()][: self.n_frozen]

    def train(self, mode: bool = True) -> PersonNet:
        super().train(mode)
        for layer in self._frozen():
            layer.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        c8 = self.body8((images - self.mean) * self.scale)
        c16 = self.body16(c8)
        logits, distances = self.head(self.pyramid(c8, c16, self.body32(c16)))
        return logits.float(), distances.float()  # under autocast: what follows needs the digits


class Decoded(nn.Module):
    """What is exported: boxes xyxy in pixels of the input, and scores -> (B, N, 5).

    slope, shift: of the logits, so that scores are probabilities; see `calibrate`.
    """

    def __init__(self, net: PersonNet, slope: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.net = net
        self.slope, self.shift = slope, shift

    def forward(self, images: Tensor) -> Tensor:
        logits, distances = self.net(images)
        # Sizes stay symbolic in a traced graph, so the cells follow the input.
        places = cells(images.shape[2], images.shape[3], images.device)
        return torch.cat([decode(distances, places), (self.slope * logits + self.shift).sigmoid()[..., None]], dim=-1)


@torch.no_grad()
def swap_colours(stem: Tensor) -> None:
    """The first weights (C, 3, 3, 3), of RGB, for BGR: OpenCV's pictures need no swap then."""
    stem.copy_(stem.flip(1))


def initialise(*parts: nn.Module) -> None:
    """Random weights that keep the signal's variance; scores start at PRIOR, boxes at a few strides."""
    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.groups > 1:
                    nn.init.normal_(module.weight, std=math.sqrt(2.0) / module.kernel_size[0])
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if isinstance(part, Head):
            nn.init.normal_(part.score.weight, std=0.01)
            nn.init.normal_(part.box.weight, std=0.01)
            for layer, value in ((part.score, -math.log((1 - PRIOR) / PRIOR)), (part.box, math.log(2.0))):
                assert layer.bias is not None
                nn.init.constant_(layer.bias, value)


def n_parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())
