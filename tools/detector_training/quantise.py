"""The int8 variant of an exported detector: int8 weights per channel, uint8 activations, decoding still in fp32.

The ranges of the activations come from pictures, which need no labels: those of training, or of the camera in question.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_training.errors import ModelError
from reid_training.export import drafts
from reid_training.precision import quantised
from reid_training.runs import replace_file
from tools.detector_training.evaluate import pictures_in
from tools.detector_training.predict import fit
from tools.detector_training.scenes import read_image
from tracker.detector.onnx import PERSON_FORMAT
from tracker.runtime.onnx_session import open_session

N_PICTURES = 100  # more change the average precision by less than the choice of the pictures
SIDE = 416  # their longer side, as the network gets them
KINDS = ("Conv", "Add", "Concat", "Resize")  # layers on maps; the same kinds of node also compute cells and boxes
MAPS_FROM = ("Conv", "Clip", "Resize")


def quantise(source: Path, folder: Path, out: Path, seed: int = 0) -> int:
    """Writes `out` from the fp32 file `source` and pictures in `folder`; returns how many were looked at."""
    metadata = open_session(source, "cpu", 1).metadata
    if metadata.get("tracklet.format") != PERSON_FORMAT or "precision" in metadata:
        raise ModelError(f"{source} is no fp32 file of `python -m tools.detector_training export`")
    paths = pictures_in(folder)
    rows = np.random.default_rng(seed).permutation(len(paths))[:N_PICTURES]
    feeds = ({"images": as_input(read_image(paths[row]))} for row in rows)
    with drafts() as beside:
        model = quantised(source, feeds, beside, kinds=KINDS, leave=_no_maps)
    import onnx

    onnx.helper.set_model_props(model, {**metadata, "name": out.stem, "precision": "int8"})
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    replace_file(out, lambda stream: stream.write(content))
    return len(rows)


def as_input(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A BGR picture as the network takes it: (1, 3, H, W) in 0 .. 255."""
    canvas, _ = fit(image, SIDE)
    return np.ascontiguousarray(canvas.transpose(2, 0, 1)[None].astype(np.float32))


def _no_maps(graph: Any) -> Iterator[str]:
    """Names of the nodes that compute with cells and boxes: there 8 bits would be whole pixels."""
    maker = {output: node.op_type for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type != "Conv" and not any(maker.get(name) in MAPS_FROM for name in node.input):
            yield node.name
