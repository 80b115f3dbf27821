"""From a checkpoint to one ONNX file: preprocessing and decoding inside, suppression outside, any multiple of 32.

Input `images` (B, 3, H, W) float32, BGR in 0 .. 255; output `people` (B, N, 5): x1, y1, x2, y2 in pixels of the input
and the score, one row per cell of strides 8, 16, 32 and 64, not sorted.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from reid_training.errors import ModelError
from reid_training.export import OPSET, drafts
from reid_training.runs import replace_file
from tools.detector_training.calibrate import calibrate
from tools.detector_training.config import COARSEST, SIZE_PX
from tools.detector_training.net import STRIDES, Decoded, n_parameters
from tools.detector_training.runs import load_net
from tracker.detector.onnx import PERSON_FORMAT
from tracker.runtime.onnx_session import open_session
from tracker.settings import require

PARITY_SHAPES = ((1, 320, 416), (2, 256, 416), (1, 96, 160))
PARITY_PIXELS, PARITY_SCORE = 0.05, 1e-4


def export(checkpoint: Path, out: Path, size_px: int = SIZE_PX, *, data: Path | None = None) -> Mapping[str, str]:
    """Writes `out` when the graph agrees with torch, and leaves an earlier `out` alone when it does not.

    data: the folder trained on; its held-out pictures make probabilities of the scores.
    """
    require(size_px >= COARSEST, f"size must be >= {COARSEST}, got {size_px}")
    net, config, _ = load_net(checkpoint)
    trained_on = ", ".join(config.sources) or "nothing"
    slope, shift = (1.0, 0.0) if data is None else calibrate(net, config, data)
    properties = {
        "tracklet.format": PERSON_FORMAT,
        "name": out.stem,
        "color_order": "BGR",
        "strides": ",".join(map(str, STRIDES)),
        "imgsz": str(size_px),
        "tracklet.largest_imgsz": str(max(size_px, *config.scenes.heights)),
        "names": "{0: 'person'}",
        "parameters": str(n_parameters(net)),
        "score_slope": f"{slope:.6g}",
        "score_shift": f"{shift:.6g}",
        "trained_on": trained_on,
    }
    write_onnx(Decoded(net, slope, shift), properties, out)
    return properties


def write_onnx(decoded: Decoded, properties: Mapping[str, str], out: Path) -> None:
    """The graph, checked before it gets its name."""
    import onnx

    decoded = decoded.eval()
    with drafts() as folder:
        draft = folder / "draft.onnx"
        with warnings.catch_warnings():
            # The exporter by tracing folds BN into the convolutions; torch announces on every call that another one is
            # the default, and that shapes which stay open are traced.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                decoded,
                (torch.zeros(1, 3, 64, 96),),
                str(draft),
                dynamo=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["people"],
                dynamic_axes={"images": {0: "batch", 2: "height", 3: "width"}, "people": {0: "batch", 1: "cells"}},
            )
        model = onnx.load(str(draft))
        onnx.helper.set_model_props(model, dict(properties))
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(draft))
        check_parity(decoded, draft)
        content = draft.read_bytes()
    replace_file(out, lambda stream: stream.write(content))


def check_parity(decoded: Decoded, draft: Path) -> None:
    """Raises ModelError where torch and the graph disagree on pictures of noise, whatever their size."""
    session = open_session(draft, "cpu", 1)
    rng = np.random.default_rng(0)
    for batch, height, width in PARITY_SHAPES:
        images = rng.integers(0, 256, (batch, 3, height, width)).astype(np.float32)
        with torch.inference_mode():
            expected = decoded(torch.from_numpy(images)).numpy()
        (got,) = session.run(images)
        if got.shape != expected.shape:
            raise ModelError(f"the exported graph gives {got.shape} for {images.shape}, torch {expected.shape}")
        off = np.abs(got - expected).max((0, 1))
        # Boxes of hundreds of pixels come out of an exponential.
        if not (off[:4].max() <= PARITY_PIXELS and off[4] <= PARITY_SCORE):
            raise ModelError(f"the exported graph is off by {off[:4].max():.2g} pixels and a score of {off[4]:.2g}")
