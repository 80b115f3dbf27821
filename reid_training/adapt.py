"""Adapt an exported model to a site from a few labelled tracks; writes a new ONNX file.

A third of the people is held out, to measure the gain and the thresholds; exactly the measured network is written. Of a
run the last layer is fitted, by its learned rule where it has one (`meta_metric`), else by a few steps of fine-tuning.
For an ONNX file a linear metric (one of `site_metric.METRICS`) is appended to a copy of the graph.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reid_training.config import RunConfig
from reid_training.data.base import Dataset, Samples, read_images
from reid_training.data.from_python import as_dataset
from reid_training.data.samplers import pk_batches
from reid_training.data.transforms import normalise, to_tensor
from reid_training.embedders import FloatArray, OnnxEmbedder, TorchEmbedder, embed_images, embed_samples
from reid_training.errors import ConfigError, DataError, ModelError
from reid_training.evaluate import Calibration, Ranking, calibrate
from reid_training.export import PARITY_TOLERANCE, drafts, metadata, start_words, thresholds, write_onnx
from reid_training.methods.base import Method
from reid_training.methods.meta_metric import MetaMetric, left_out_loss
from reid_training.nets.projected import ProjectedNet, projected_nets
from reid_training.runs import load_method, replace_file
from reid_training.site_metric import METRICS, DoubleArray, carried_over, choose_strength, mapped, rank_at_place

LEAST_TRACKS = 4  # two to fit, two to evaluate
HELD_BACK = 1.0 / 3.0  # of the people
MOST_PER_TRACK = 16  # crops of a person by a camera, evenly spaced: neighbouring frames are redundant
# To measure thresholds: fewer people are not representative, whatever the number of their crops.
LEAST_PEOPLE = 5
LEAST_PAIRS = 100  # of either kind: the thresholds are at 1 % of them
# Of plain fine-tuning; ours, not tuned. Adam moves no weight by more than about STEPS * RATE = 0.006, a tenth of what
# a weight of a projection from 256 features measures.
STEPS, RATE, SCALE = 20, 3e-4, 16.0
VARIANT_TOLERANCE = 0.1  # int8 and fp16 change by up to 0.02 with the batch, and the metric stretches some directions
LEAST_OPSET = 13  # the operators of the metric have had their form since then
BATCH = (16, 4)  # people and crops of each


@dataclass(frozen=True, slots=True)
class Support:
    """The labelled tracks of a site."""

    name: str
    licence: str
    fit: Samples
    held: Samples  # people that nothing is fitted to

    @property
    def words(self) -> str:
        n_people = len(np.unique(self.fit.pids))
        return f"adapted to {len(self.fit)} crops of {n_people} people of {self.name}"


@dataclass(frozen=True, slots=True)
class Adaptation:
    """The change, and the retrieval scores of held-out people before and after."""

    change: str
    before: Ranking
    after: Ranking
    calibration: Calibration  # what the file carries
    measured: bool  # on the held-out people; else converted from the old thresholds


def adapt(
    model: Path, data: Any, out: Path, *, metric: str | None = None, force: bool = False, seed: int = 0
) -> Adaptation:
    """Writes `out`. Raises ModelError, and writes nothing, if the retrieval of held-out people gets worse.

    model: a run, a checkpoint or an exported file; the training part of the data, of any kind that `train` takes, are
    the tracks. metric: of METRICS, for an exported
    file alone; None: whitening. `force` writes in any case.
    """
    if metric is not None and metric not in METRICS:
        raise ConfigError(f"--metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if metric is not None and model.suffix != ".onnx":
        raise ConfigError(f"--metric is for an ONNX file; of a run such as {model} the last layer is fitted")
    if out.suffix != ".onnx":
        raise ConfigError(f"--out must be an ONNX file (NAME.onnx), got {out}")
    if out.exists() and model.exists() and out.samefile(model):
        raise ConfigError(f"--out is {model} itself; a model is never adapted in place")
    support = split_support(as_dataset(data), seed)
    if model.suffix == ".onnx":
        return adapt_file(model, support, out, metric or "whitening", force, seed)
    return adapt_run(model, support, out, force, seed)


def split_support(dataset: Dataset, seed: int) -> Support:
    """Splits people seen twice into held-out and fitted; people seen once are fitted, as negatives."""
    samples = thinned(dataset.train)
    people, counts = np.unique(samples.pids, return_counts=True)
    tracks = people[counts >= 2]
    if len(tracks) < LEAST_TRACKS:
        raise DataError(
            f"{dataset.name}: {len(tracks)} people with 2 or more crops to adapt to; at least {LEAST_TRACKS} are "
            f"needed, half of them to evaluate the result"
        )
    n_held = max(2, round(HELD_BACK * len(tracks)))
    is_held = np.isin(samples.pids, np.random.default_rng(seed).permutation(tracks)[:n_held])
    parts = (samples.take(np.flatnonzero(rows)) for rows in (~is_held, is_held))
    return Support(dataset.name, dataset.licence, *parts)


def thinned(samples: Samples, most: int = MOST_PER_TRACK) -> Samples:
    """At most that many crops of a person by a camera, evenly spaced in their order."""
    kept: list[int] = []
    # Cameras that are not known are negative, one for each image: together they are one.
    cameras = np.maximum(samples.camids, -1)
    for track in np.unique(np.stack([samples.pids, cameras], axis=1), axis=0):
        rows = np.flatnonzero((samples.pids == track[0]) & (cameras == track[1]))
        kept += rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(np.int64))].tolist()
    return samples.take(np.array(sorted(kept), dtype=np.int64))


def check_gain(before: Ranking, after: Ranking, *, force: bool) -> None:
    if force or (after.rank1, after.mean_ap) >= (before.rank1, before.mean_ap):
        return
    raise ModelError(
        f"held-out people would be found less well: rank-1 {100 * before.rank1:.1f} before, {100 * after.rank1:.1f} "
        f"after, mAP {100 * before.mean_ap:.1f} and {100 * after.mean_ap:.1f}; nothing was written (--force writes it)"
    )


def measured_thresholds(emb: FloatArray, held: Samples) -> Calibration | None:
    """None where there are too few held-out people."""
    found = calibrate(emb, held.pids, held.camids).get("pooled")
    if found is None or len(np.unique(held.pids)) < LEAST_PEOPLE or min(found.n_same, found.n_diff) < LEAST_PAIRS:
        return None
    # Few people may be separated perfectly: the quantiles are then in the opposite order.
    low, high = sorted((found.tau_same, found.tau_diff))
    return dataclasses.replace(found, tau_same=low, tau_diff=high, sigma_same=max(found.sigma_same, 1e-6))


# An exported file


def adapt_file(model: Path, support: Support, out: Path, name: str, force: bool, seed: int) -> Adaptation:
    embedder = OnnxEmbedder(model)
    old = _thresholds_of(embedder.metadata, model)
    fit_emb, held_emb = embed_samples(embedder, support.fit), embed_samples(embedder, support.held)
    before = rank_at_place(held_emb, support.held)
    _check_finite(fit_emb, model)
    metric = METRICS[name]
    strength = choose_strength(metric, fit_emb, support.fit, seed)
    (matrix,) = metric.maps(fit_emb, support.fit.pids, (strength,), seed)
    after_emb = mapped(held_emb, matrix)
    after = rank_at_place(after_emb, support.held)
    check_gain(before, after, force=force)
    found = measured_thresholds(after_emb, support.held)
    if strength == 0.0 and found is None:
        raise ModelError(
            f"{model}: no other metric is better on {support.name}, and its people are too few to measure thresholds; "
            f"nothing was written"
        )
    if found is None:
        everyone = np.concatenate([fit_emb, held_emb])
        pids = np.concatenate([support.fit.pids, support.held.pids])
        calibration = carried_over(old, everyone, mapped(everyone, matrix), pids)
    else:
        calibration = found
    properties = {
        **embedder.metadata,
        **thresholds(calibration),
        "name": out.stem,
        "normalized": "true",
        "trained_on": f"{embedder.metadata.get('trained_on', 'not stated')}; {support.words}",
        "licence": f"{embedder.metadata.get('licence', 'not stated')}; adapted on: {support.licence}",
    }
    write_with_metric(model, matrix, properties, support.held, after_emb, out)
    unchanged = "the thresholds alone: no other metric is better on these tracks"
    return Adaptation(
        metric.words.format(strength=strength, percent=100 * strength) if strength > 0.0 else unchanged,
        *(before, after, calibration, found is not None),
    )


def _check_finite(emb: FloatArray, model: Path) -> None:
    if not np.isfinite(emb).all():
        raise DataError(f"{model} gives embeddings that are not finite; there is nothing to fit to")


def _thresholds_of(properties: Mapping[str, str], model: Path) -> Calibration:
    try:
        tau_same, tau_diff, sigma_same = (float(properties[key]) for key in ("tau_same", "tau_diff", "sigma_same"))
    except (KeyError, ValueError) as error:
        raise ModelError(f"{model}: metadata has no thresholds: {error}") from None
    return Calibration(tau_same, tau_diff, sigma_same, tpr_at_tau_same=float("nan"), n_same=0, n_diff=0)


def write_with_metric(
    model: Path, matrix: DoubleArray, properties: Mapping[str, str], samples: Samples, expected: FloatArray, out: Path
) -> None:
    """Writes a copy of the file with the metric in its graph; checks it against expected embeddings (N, D) of crops."""
    import onnx

    with drafts() as folder:
        draft = folder / "draft.onnx"
        changed = onnx.load(str(model))
        append_metric(changed, matrix)
        onnx.helper.set_model_props(changed, dict(properties))
        onnx.checker.check_model(changed, full_check=True)
        onnx.save(changed, str(draft))
        difference = float(np.abs(embed_samples(OnnxEmbedder(draft), samples) - expected).max())
        if not difference <= (VARIANT_TOLERANCE if "precision" in properties else PARITY_TOLERANCE):
            raise ModelError(f"the new graph differs from the evaluated one by {difference:.2g}; {out} was not written")
        content = draft.read_bytes()
    replace_file(out, lambda stream: stream.write(content))


def append_metric(model: Any, matrix: DoubleArray) -> None:
    """`embeddings` of the model, rows (B, D), times the symmetric matrix (D, D), at unit length. Changes `model`."""
    from onnx import helper, numpy_helper

    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < LEAST_OPSET:
        raise ModelError(
            f"a file of opset {opset}; the metric needs {LEAST_OPSET} or later, as `reid export` writes it"
        )
    graph = model.graph
    taken = {name for node in graph.node for name in [*node.input, *node.output, node.name]}
    prefix = next(name for name in (f"site{n}_" for n in range(len(taken) + 1)) if f"{name}rows" not in taken)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{prefix}rows" if name == "embeddings" else name for name in names]
    constants: dict[str, Any] = {
        "matrix": matrix.astype(np.float32),
        "axis": np.array([1], np.int64),
        "least": np.array(1e-24, np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(value, prefix + name) for name, value in constants.items())
    steps = [
        ("MatMul", ["rows", "matrix"], "mapped"),
        ("Mul", ["mapped", "mapped"], "squares"),
        ("ReduceSum", ["squares", "axis"], "sum"),
        ("Max", ["sum", "least"], "positive"),
        ("Sqrt", ["positive"], "length"),
    ]
    for kind, inputs, output in steps:
        graph.node.append(helper.make_node(kind, [prefix + name for name in inputs], [prefix + output]))
    graph.node.append(helper.make_node("Div", [f"{prefix}mapped", f"{prefix}length"], ["embeddings"]))


# A run


def adapt_run(model: Path, support: Support, out: Path, force: bool, seed: int) -> Adaptation:
    method, config, state = load_method(model)
    size = (config.data.height, config.data.width)
    fit_images, held_images = read_images(support.fit, *size), read_images(support.held, *size)
    before = rank_at_place(embed_images(TorchEmbedder(method, *size), held_images), support.held)
    labels = torch.from_numpy(np.unique(support.fit.pids, return_inverse=True)[1])
    images = normalise(to_tensor(fit_images))
    if isinstance(method, MetaMetric) and method.config.steps > 0:
        adapted: Method = method.adapted(pooled_features(method.net, images), labels)
        rule = "its learned rule" if method.config.rule == "learned" else f"SGD({method.config.rate:g})"
        change = f"the last layer, by {method.config.steps} steps of {rule}"
    else:
        adapted = fine_tuned(method, images, labels, seed)
        change = f"the last layer, by {STEPS} steps of plain fine-tuning"
    emb = embed_images(TorchEmbedder(adapted, *size), held_images)
    after = rank_at_place(emb, support.held)
    check_gain(before, after, force=force)
    found = measured_thresholds(emb, support.held)
    if found is None:
        raise DataError(
            f"{support.name}: too few people to measure thresholds, of which a run has none; give 3 times "
            f"{LEAST_PEOPLE} tracks, or adapt the ONNX file of this run"
        )
    write_onnx(adapted, config, _properties(model, config, state, method.size, found, support, out.stem), out)
    return Adaptation(change, before, after, found, measured=True)


def _properties(
    model: Path, config: RunConfig, state: Mapping[str, Any], size: int, found: Calibration, support: Support, name: str
) -> Mapping[str, str]:
    trained_on = (
        f"{state['n_classes']} people, {len(state['history'])} epochs from {start_words(config)}; {support.words}"
    )
    licence = f"that of the images which {model.name} was trained on; adapted on: {support.licence}"
    return metadata(config, size, found, name, trained_on, licence)


def pooled_features(net: ProjectedNet, images: Tensor, chunk: int = 64) -> Tensor:
    """Inputs of the projection: (N, 3, H, W) to (N, F)."""
    with torch.no_grad():
        starts = range(0, len(images), chunk)
        return torch.cat([net.pooled(images[start : start + chunk]).float() for start in starts])


def fine_tuned(method: Method, images: Tensor, labels: Tensor, seed: int = 0) -> Method:
    """A copy with its projections fitted to images (N, 3, H, W) with labels (N,); all else stays, norms included.

    The loss is the matching network's, by cosines. Raises ModelError where it becomes NaN or infinite.
    """
    adapted = copy.deepcopy(method).eval().requires_grad_(False)
    projections = [net.project.weight for net in projected_nets(adapted)]
    if not projections:
        raise ModelError("this network has no projection to fit; adapt its ONNX file")
    optimiser = torch.optim.Adam([weight.requires_grad_() for weight in projections], lr=RATE)
    rng = np.random.default_rng([seed, 2])
    batches: list[Any] = []
    for _ in range(STEPS):
        if not batches:
            batches = list(pk_batches(labels.numpy(), *BATCH, rng))
        rows = torch.from_numpy(np.unique(batches.pop()))  # a person with few crops is in a batch twice
        optimiser.zero_grad()
        value = left_out_loss(adapted.embed(images[rows]), labels[rows], "cosine", SCALE)
        if not bool(torch.isfinite(value)):
            raise ModelError(f"fine-tuning: the loss became {float(value.detach())}; nothing was written")
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return adapted
