"""The person detector: a small backbone, a light pyramid over four strides, one score and one box per cell.

References, one idea from each:
- FCOS (Tian et al., 2019), https://arxiv.org/abs/1904.01355: no anchors; a cell says how far it is to the four edges.
- Path Aggregation Network (Liu et al., 2018), https://arxiv.org/abs/1803.01534: from coarse to fine and back again.
- PP-PicoDet (Yu et al., 2021), https://arxiv.org/abs/2111.00902: a fourth, coarser stride in a pyramid of 5x5 depthwise
  convolutions.
- RTMDet (Lyu et al., 2022), https://arxiv.org/abs/2212.07784: 5x5 depthwise convolutions also in the backbone, dense
  3x3 convolutions where it halves the resolution, one head for all strides with batch norms for each.

Where we differ: blocks are plain residuals at full width, without a partial (CSP) branch. The score is the expected
IoU, so there is neither an objectness nor a centre-ness beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reid_training.nets.layers import conv_bn
from tools.detector_training.config import NetConfig

STRIDES = (8, 16, 32, 64)
PRIOR = 0.01  # score of every cell before training: most cells are background (RetinaNet, section 4.1)
MEAN, DEVIATION = 114.0, 58.0  # of the pixels: that of the grey around a picture, and that of photographs
MAX_LOG_DISTANCE = 8.0  # exp() of this many strides is far outside any picture


@dataclass(frozen=True, slots=True)
class Cells:
    """Where the N cells of a picture are, fine to coarse, row by row."""

    centres: Tensor  # (N, 2) x, y, pixels of the input
    strides: Tensor  # (N,) pixels


def cells(height: int, width: int, device: torch.device | None = None) -> Cells:
    """`height`, `width`: of the input, multiples of 32. Of the coarsest stride the last cells may be half outside."""
    centres, strides = [], []
    for stride in STRIDES:
        y = (torch.arange((height + stride - 1) // stride, dtype=torch.float32, device=device) + 0.5) * stride
        x = (torch.arange((width + stride - 1) // stride, dtype=torch.float32, device=device) + 0.5) * stride
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
    """A depthwise convolution, which mixes places, and a pointwise one, which mixes channels."""
    return nn.Sequential(
        conv_bn(n_in, n_in, kernel, stride, groups=n_in, activation=nn.Hardswish),
        conv_bn(n_in, n_out, activation=nn.Hardswish),
    )


class Residual(nn.Module):
    """x + separable(x)."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.layers = separable(width, width, kernel)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


class Backbone(nn.Module):
    """Pictures -> features of strides 8, 16, 32 and 64; of sides that do not divide, the last cell is a part of one."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        stem, *widths = config.channels  # at strides 2; 4, 8, 16, 32, 64
        self.stem = conv_bn(3, stem, 3, 2, activation=nn.Hardswish)
        self.stages = nn.ModuleList()
        n_in = stem
        for width, depth in zip(widths, config.blocks, strict=True):
            last = len(self.stages) == len(widths) - 1  # a dense one would be a third of all parameters
            down = (
                separable(n_in, width, config.kernel, 2)
                if last
                else conv_bn(n_in, width, 3, 2, activation=nn.Hardswish)
            )
            self.stages.append(nn.Sequential(down, *[Residual(width, config.kernel) for _ in range(depth)]))
            n_in = width

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[1:]


class Pyramid(nn.Module):
    """Features of the four strides -> as many of `width` channels, each of which has seen the others."""

    def __init__(self, channels: tuple[int, ...], width: int, kernel: int) -> None:
        super().__init__()
        n = len(channels) - 1
        self.lateral = nn.ModuleList([conv_bn(c, width, activation=nn.Hardswish) for c in channels])
        self.finer = nn.ModuleList([separable(width, width, kernel) for _ in range(n)])  # to strides 8, 16, 32
        self.down = nn.ModuleList([separable(width, width, kernel, stride=2) for _ in range(n)])  # from 8, 16, 32
        self.coarser = nn.ModuleList([separable(width, width, kernel) for _ in range(n)])  # to strides 16, 32, 64

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        own = [layer(x) for layer, x in zip(self.lateral, features, strict=True)]
        for level in reversed(range(len(self.finer))):
            own[level] = self.finer[level](own[level] + upsampled(own[level + 1], own[level]))
        for level, (down, coarser) in enumerate(zip(self.down, self.coarser, strict=True)):
            own[level + 1] = coarser(own[level + 1] + down(own[level]))
        return own


def upsampled(coarse: Tensor, fine: Tensor) -> Tensor:
    """Each cell twice along both sides, as far as `fine` reaches."""
    doubled = functional.interpolate(coarse, scale_factor=2.0)
    return doubled[:, :, : fine.shape[2], : fine.shape[3]]


class SharedSeparable(nn.Module):
    """One separable convolution for all strides, with a batch norm for each: their features are not equally large."""

    def __init__(self, width: int, kernel: int, n_strides: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.mix = nn.Conv2d(width, width, 1, bias=False)
        self.around_norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(n_strides)])
        self.mix_norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(n_strides)])

    def forward(self, x: Tensor, level: int) -> Tensor:
        x = functional.hardswish(self.around_norms[level](self.around(x)))
        return functional.hardswish(self.mix_norms[level](self.mix(x)))


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

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.backbone = Backbone(config)
        self.pyramid = Pyramid(config.channels[2:], config.width, config.kernel)
        self.head = Head(config.width, config.kernel, config.head_depth)
        initialise(self)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.read(self.features(images))

    def features(self, images: Tensor) -> list[Tensor]:
        """The pyramid's, fine to coarse: (B, width, H / 8, W / 8), ..."""
        found: list[Tensor] = self.pyramid(self.backbone((images - MEAN) / DEVIATION))
        return found

    def read(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, N) and log distances (B, N, 4) of the features."""
        logits, distances = self.head(features)
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


def initialise(net: PersonNet) -> None:
    """Random weights that keep the signal's variance; scores start at PRIOR, boxes at a few strides."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.groups > 1:
                nn.init.normal_(module.weight, std=math.sqrt(2.0) / module.kernel_size[0])
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for layer, value in ((net.head.score, -math.log((1 - PRIOR) / PRIOR)), (net.head.box, math.log(2.0))):
        nn.init.normal_(layer.weight, std=0.01)
        assert layer.bias is not None
        nn.init.constant_(layer.bias, value)


def n_parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def multiply_adds(net: PersonNet, height: int, width: int) -> dict[str, int]:
    """Of the convolutions, for one picture of this size: per stage of the backbone, of the pyramid and of the head."""
    counts: dict[str, int] = {}

    def count(name: str, layer: nn.Conv2d, output: Tensor) -> None:
        per_value = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
        counts[name] = counts.get(name, 0) + output.numel() * per_value

    hooks = [
        layer.register_forward_hook(lambda layer, _, output, part=part: count(part, layer, output))
        for part, layer in _convolutions(net)
    ]
    try:
        with torch.inference_mode():
            net(torch.zeros(1, 3, height, width, device=next(net.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return counts


def _convolutions(net: PersonNet) -> Iterator[tuple[str, nn.Conv2d]]:
    parts: dict[str, nn.Module] = {"stride 2": net.backbone.stem}
    parts |= {f"stride {4 << k}": stage for k, stage in enumerate(net.backbone.stages)}
    for part, module in {**parts, "pyramid": net.pyramid, "head": net.head}.items():
        yield from ((part, layer) for layer in module.modules() if isinstance(layer, nn.Conv2d))
