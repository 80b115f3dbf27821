"""Export a checkpoint to the ONNX file that the tracker reads: weights, L2 norm, preprocessing, calibration."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reid_training.config import RunConfig
from reid_training.data.base import Dataset, Samples, has_pairs, split_identities
from reid_training.data.from_python import as_dataset
from reid_training.data.transforms import MEAN, PIXEL_SCALE, STD, normalise, to_tensor
from reid_training.embedders import OnnxEmbedder, TorchEmbedder, embed_samples
from reid_training.errors import ModelError, not_written
from reid_training.evaluate import Calibration, calibrate
from reid_training.methods.base import Method
from reid_training.runs import load_method, replace_file

logger = logging.getLogger(__name__)

OPSET = 17
# Where no thresholds can be measured: those that the tracker takes for embeddings of unknown origin.
DEFAULT = Calibration(0.45, 0.65, 0.15, tpr_at_tau_same=float("nan"), n_same=0, n_diff=0)
START_WORDS = {"random": "scratch", "imagenet": "ImageNet weights"}  # others are files
PARITY_BATCHES = (1, 2, 7, 32)  # 1, and sizes that no kernel's block divides
PARITY_TOLERANCE = 1e-4  # per coordinate of a unit vector; measured 1e-6


def export(checkpoint: Path, data: Any, out: Path) -> dict[str, Calibration]:
    """Writes `out` when the graph agrees with torch, and keeps an earlier `out` when it does not.

    The thresholds come from the people that training held out, so the data, of any kind that `train` takes, must be
    those trained on; for a run without labels, those that validated it or any other. Returns nothing, and the file gets
    DEFAULT thresholds, where these people are too few to measure any.
    """
    dataset = as_dataset(data)
    method, config, state = load_method(checkpoint)
    _, held_set = split_as_trained(checkpoint, config, state["n_classes"], dataset)
    n_held = len(np.unique(held_set.pids))
    calibration = {}
    if is_measurable(held_set):
        embedder = TorchEmbedder(method, config.data.height, config.data.width)
        calibration = calibrate(embed_samples(embedder, held_set), held_set.pids, held_set.camids)
    else:
        logger.warning(
            "warning: %d images of %d held-out people are too few to measure thresholds; the file gets the defaults "
            "%.2f, %.2f and %.2f: set appearance.tau_same and tau_diff, or train with more people or data.val_fraction",
            *(len(held_set), n_held, DEFAULT.tau_same, DEFAULT.tau_diff, DEFAULT.sigma_same),
        )
    trained_on = training_words(config, state, dataset, n_held)
    properties = metadata(
        config, method.size, calibration.get("pooled", DEFAULT), out.stem, trained_on, dataset.licence
    )
    write_onnx(method, config, properties, out)
    return calibration


def training_words(config: RunConfig, state: Mapping[str, Any], dataset: Dataset, n_held: int) -> str:
    """What the training saw, for the metadata."""
    parts = []
    if state["n_classes"]:
        parts.append(f"{dataset.name} training part, {state['n_classes']} people ({n_held} more held out)")
    if state.get("n_crops"):  # older checkpoints have none
        parts.append(f"{state['n_crops']} unlabelled crops")
    if config.distil.teacher:
        parts.append(f"taught by {Path(config.distil.teacher).name}")
    return f"{', '.join(parts)}, {len(state['history'])} epochs from {start_words(config)}"


def start_words(config: RunConfig) -> str:
    """What the training began from, for the metadata."""
    return START_WORDS.get(config.net.start, f"the weights {Path(config.net.start).name}")


def split_as_trained(checkpoint: Path, config: RunConfig, n_classes: int, dataset: Dataset) -> tuple[Samples, Samples]:
    """The people of the training, and those held out; raises ModelError where the data cannot be the same.

    A run without labels has trained on none of them; the same people are held out.
    """
    train_set, held_set = split_identities(dataset.train, config.data.val_fraction, config.seed)
    n_people = len(np.unique(train_set.pids))
    if n_classes and n_people != n_classes:
        raise ModelError(f"{checkpoint} was trained on {n_classes} people, the data has {n_people}")
    return train_set, held_set


def is_measurable(samples: Samples) -> bool:
    """Whether there are pairs of one person and pairs of different people, to measure thresholds on."""
    return len(np.unique(samples.pids)) >= 2 and has_pairs(samples)


def metadata(
    config: RunConfig, size: int, calibration: Calibration, name: str, trained_on: str, licence: str
) -> Mapping[str, str]:
    """The ONNX metadata that the tracker reads; all values are strings."""

    def joined(values: tuple[float, ...]) -> str:
        return ",".join(f"{value:g}" for value in values)

    return {
        "tracklet.format": "reid/1",
        "name": name,
        "input_height": str(config.data.height),
        "input_width": str(config.data.width),
        "color_order": "RGB",
        "pixel_scale": repr(PIXEL_SCALE),
        "mean": joined(MEAN),
        "std": joined(STD),
        "embedding_size": str(size),
        "normalized": "true",
        "distance": "cosine",
        **thresholds(calibration),
        "method": str(config.method["name"]),
        "trained_on": trained_on,
        "licence": licence,
    }


def thresholds(calibration: Calibration) -> dict[str, str]:
    """The thresholds as the tracker takes them: few people may be told apart perfectly, and tau_same is the larger."""
    low, high = sorted((calibration.tau_same, calibration.tau_diff))
    return {
        "tau_same": f"{low:.6f}",
        "tau_diff": f"{high:.6f}",
        "sigma_same": f"{max(calibration.sigma_same, 1e-6):.6f}",
    }


def write_onnx(method: Method, config: RunConfig, properties: Mapping[str, str], out: Path) -> None:
    """Input `images` (B, 3, H, W) float32, output `embeddings` (B, D) float32; checked before it gets its name."""
    import onnx

    size = (config.data.height, config.data.width)
    with drafts() as folder:
        draft = folder / "draft.onnx"
        with warnings.catch_warnings():
            # The exporter by tracing folds BN into the convolutions and needs no tracing of Python bytecode; torch
            # announces on every call that another exporter is the default.
            warnings.simplefilter("ignore")
            try:
                torch.onnx.export(
                    method.eval(),
                    (torch.zeros(2, 3, *size),),
                    str(draft),
                    dynamo=False,
                    opset_version=OPSET,
                    input_names=["images"],
                    output_names=["embeddings"],
                    dynamic_axes={"images": {0: "batch"}, "embeddings": {0: "batch"}},
                )
            except torch.onnx.OnnxExporterError as error:  # an operation that ONNX lacks, in a network of the user
                reason = " ".join(str(error).split())[:200]
                raise ModelError(f"this network cannot be written as ONNX: {reason}; {out} was not written") from None
        model = onnx.load(str(draft))
        onnx.helper.set_model_props(model, dict(properties))
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(draft))
        difference = parity(method, OnnxEmbedder(draft))
        if not difference <= PARITY_TOLERANCE:
            raise ModelError(f"the exported graph differs from torch by {difference:.2g}; {out} was not written")
        content = draft.read_bytes()
    replace_file(out, lambda stream: stream.write(content))


@contextlib.contextmanager
def drafts() -> Iterator[Path]:
    """A temporary folder for unfinished files; removed afterwards."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    except OSError as error:
        # tempfile.gettempdir() would search for a writable folder and fail again.
        raise not_written(f"drafts in {tempfile.tempdir or 'the folder for temporary files'}", error) from None


def parity(method: Method, onnx_embedder: OnnxEmbedder) -> float:
    """The largest difference of a coordinate between torch and ONNX, each with its own preprocessing."""
    height, width = onnx_embedder.height, onnx_embedder.width
    rng = np.random.default_rng(0)
    worst = 0.0
    for batch in PARITY_BATCHES:
        images = rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
        with torch.inference_mode():
            expected = method.embed(normalise(to_tensor(images))).numpy()
        got = onnx_embedder(images)
        if got.shape != expected.shape:
            raise ModelError(f"the exported graph gives {got.shape} for batch {batch}, torch {expected.shape}")
        worst = max(worst, float(np.abs(got - expected).max()))
    return worst
