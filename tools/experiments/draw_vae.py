"""Draw inputs, reconstructions and samples of a triplet VAE, in rows of pictures.

    python -m tools.experiments.draw_vae digits.png --data ../shared/data  # trains on MNIST first: a minute
    python -m tools.experiments.draw_vae clothes.png --on fashion-mnist --data ../shared/data
    python -m tools.experiments.draw_vae people.jpg --run RUN --data DATA/Market-1501 # RUN: of `reid train`

People are those of the test part, not used in training; --data may also be the folder of `reid crops`. Needs
the extra `train`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from reid_training.cli import read_data
from reid_training.data.base import read_images
from reid_training.data.transforms import normalise, to_tensor
from reid_training.errors import ModelError, TrackletError
from reid_training.methods.triplet_vae import TripletVAE, small_pixels
from reid_training.runs import load_method, replace_file
from tools.experiments import mnist

GAP_PX = 2
SUFFIXES = (".png", ".jpg")
Rows = list[Tensor]  # each (N, C, h, w) in [0, 1], one picture beside the other


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.out.suffix not in SUFFIXES:
        print(f"draw_vae: {args.out} must end in {' or '.join(SUFFIXES)}", file=sys.stderr)
        return 2
    try:
        rows = crops(args.run, args.data, args.n) if args.run else digits(args.data, args.on, args.n)
        content = cv2.imencode(args.out.suffix, sheet(rows, args.enlarge))[1].tobytes()
        replace_file(args.out, lambda stream: stream.write(content))
    except TrackletError as error:
        print(f"draw_vae: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="draw_vae", description=(__doc__ or "").splitlines()[0])
    top.add_argument("out", type=Path, help="picture to write, .png or .jpg")
    top.add_argument("--run", type=Path, help="a run of `reid train`; without one, --on")
    top.add_argument("--on", choices=(mnist.MNIST, mnist.FASHION), default=mnist.MNIST, help="(default: mnist)")
    top.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder of mnist/ and others, or Market-1501"
    )
    top.add_argument("--n", type=int, default=12, help="pictures in a row (12)")
    top.add_argument("--enlarge", type=int, default=2, help="side of a pixel (2)")
    return top


def digits(data: Path, name: str, n: int, setting: mnist.Setting | None = None) -> Rows:
    """Unseen digits or clothes, their reconstructions from the means, and samples from the prior."""
    setting = setting or mnist.SETTINGS["method"]
    assert setting is not None
    known, unseen = mnist.read(data, name, "test")
    vae = mnist.train(known, setting, seed=0)
    pixels = mnist.to_pixels(unseen.pixels[:n])
    with torch.inference_mode():
        means, _ = vae.encode(pixels)
        drawn = [torch.sigmoid(vae.decode(latent)) for latent in (means, prior(n, means.shape[1]))]
    return [row.view(n, 1, 28, 28) for row in (pixels, *drawn)]


def crops(run: Path, data: Path, n: int) -> Rows:
    """Unseen people: input of the network, target of the decoder, its output, and samples."""
    method, config, _ = load_method(run)
    if not isinstance(method, TripletVAE) or method.decoder is None:
        raise ModelError(f"{run} is no run of the method triplet_vae with a decoder")
    query = read_data(data).query
    chosen = query.take(np.unique(np.linspace(0, len(query) - 1, n).astype(np.int64)))
    images = normalise(to_tensor(read_images(chosen, config.data.height, config.data.width)))
    targets = small_pixels(images, method.config.reduction)
    with torch.inference_mode():
        drawn = method.reconstruct(images)
        samples = method.decode(prior(len(images), method.size), *targets.shape[2:])
    return [small_pixels(images, 1), *(_enlarged(row, images) for row in (targets, drawn, samples))]


def _enlarged(pictures: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(pictures, like.shape[2:], mode="bilinear", align_corners=False)


def prior(n: int, size: int) -> Tensor:
    """Latent vectors (n, size) from N(0, 1), always the same ones."""
    return torch.from_numpy(np.random.default_rng(0).standard_normal((n, size))).float()


def sheet(rows: Rows, enlarge: int) -> np.ndarray:
    """Rows of pictures of one size below each other, on white. Returns (H, W, 3) bytes, BGR as OpenCV wants it."""
    lines = []
    for row in rows:
        white = F.pad(row.expand(-1, 3, -1, -1), (0, GAP_PX, 0, GAP_PX), value=1.0)  # (N, 3, h, w)
        lines.append(torch.cat(list(white), dim=2))
    pixels = torch.cat(lines, dim=1).permute(1, 2, 0).numpy()[..., ::-1]
    return np.rint(255.0 * pixels).astype(np.uint8).repeat(enlarge, 0).repeat(enlarge, 1)


if __name__ == "__main__":
    sys.exit(main())
