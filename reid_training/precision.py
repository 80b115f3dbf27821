"""fp16 and int8 variants of an exported network, with the same input, output and metadata."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reid_training.data.base import ByteArray, Dataset, Samples, read_images
from reid_training.embedders import FloatArray, OnnxEmbedder, embed_samples
from reid_training.errors import ConfigError, DataError, ModelError
from reid_training.evaluate import Calibration, calibrate
from reid_training.export import PARITY_BATCHES, drafts, export, is_measurable, split_as_trained, thresholds
from reid_training.runs import load_method, replace_file

PRECISIONS = ("fp32", "fp16", "int8")
SCALING_CROPS = 256
LEAST_SCALING_CROPS = 32  # fewer do not cover the range of a value
MEASURED_CROPS = 1024  # of a file, which does not list its held-out people
FEED = 16  # crops per call while the scales are set: bounds the memory
MOST_DRAFTS = 8  # of the size of the fp32 file; measured 4, more of a network of a few layers
# Mean to fp32. Below it the file is another network, and the thresholds of fp32 do not apply.
LEAST_COSINE = 0.9
# By how much a coordinate of a unit vector may change with the batch. Kernels differ in the last bit of fp32, which
# takes a value on the edge of two steps to the other one.
BATCH_TOLERANCE = {"fp16": 2e-3, "int8": 2e-2}


@dataclass(frozen=True, slots=True)
class Crops:
    """Disjoint crops for calibration and for checking."""

    scaling: Samples  # training crops that set the scales of int8
    measured: Samples  # on which the variant is compared with fp32
    held_out: bool  # no person of `measured` was trained on: thresholds can come from them


@dataclass(frozen=True, slots=True)
class Variant:
    """The written file compared with fp32."""

    n_crops: int
    mean_cosine: float
    least_cosine: float
    batch_difference: float  # the most that a coordinate of a crop differs between batch 1 and a larger one
    calibration: dict[str, Calibration] | None  # None: the thresholds of the fp32 file stayed


def export_variant(model: Path, dataset: Dataset, precision: str, out: Path, seed: int = 0) -> Variant:
    """Writes `out` from a run, or from the fp32 file of an earlier export; the same seed chooses the same crops.

    The held-out people of a run are known: its thresholds are measured again, on them, unless they are too few. Those
    of a file stay.
    The scales of int8 come from training crops, either way.
    """
    if precision not in PRECISIONS[1:]:
        raise ConfigError(f"--precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    with drafts() as folder:
        if model.suffix == ".onnx":
            source, crops = model, crops_for_file(dataset, seed)
        else:
            source, crops = folder / "fp32.onnx", crops_for_run(model, dataset, seed)
            export(model, dataset, source)
        variant = write_variant(source, crops, precision, folder / "draft.onnx", out.stem)
        content = (folder / "draft.onnx").read_bytes()
    replace_file(out, lambda stream: stream.write(content))
    return variant


def crops_for_run(checkpoint: Path, dataset: Dataset, seed: int) -> Crops:
    _, config, state = load_method(checkpoint)
    train_set, held_set = split_as_trained(checkpoint, config, state["n_classes"], dataset)
    if not is_measurable(held_set):
        return crops_for_file(dataset, seed)
    scaling = _drawn(train_set, seed, SCALING_CROPS)
    return Crops(_enough(scaling, dataset.name), held_set, held_out=True)


def crops_for_file(dataset: Dataset, seed: int) -> Crops:
    """Two parts of the training crops, which share people."""
    drawn = _drawn(dataset.train, seed, SCALING_CROPS + MEASURED_CROPS)
    scaling, measured = np.split(np.arange(len(drawn)), [min(SCALING_CROPS, len(drawn) // 2)])
    return Crops(_enough(drawn.take(scaling), dataset.name), drawn.take(measured), held_out=False)


def _drawn(samples: Samples, seed: int, n_most: int) -> Samples:
    return samples.take(np.random.default_rng(seed).permutation(len(samples))[:n_most])


def _enough(scaling: Samples, name: str) -> Samples:
    if len(scaling) < LEAST_SCALING_CROPS:
        raise DataError(f"{name}: {len(scaling)} training crops to set scales by; at least {LEAST_SCALING_CROPS}")
    return scaling


def write_variant(source: Path, crops: Crops, precision: str, out: Path, name: str) -> Variant:
    """Raises ModelError where `out` differs from `source`, or from itself in another batch, by too much."""
    reference = OnnxEmbedder(source)
    if "precision" in reference.metadata:
        raise ModelError(f"{source} is {reference.metadata['precision']} already; variants come from fp32 files")
    if precision == "fp16":
        model = to_fp16(source)
    else:
        model = to_int8(source, read_images(crops.scaling, reference.height, reference.width), out.parent)
    properties = {**reference.metadata, "name": name, "precision": precision}
    _save(model, properties, out)

    embedder = OnnxEmbedder(out)
    emb = embed_samples(embedder, crops.measured)
    cosines = np.sum(emb * embed_samples(reference, crops.measured), axis=1)
    if not cosines.mean() >= LEAST_COSINE:  # nan too
        raise ModelError(f"{precision} of {source.name}: mean cosine {cosines.mean():.3f} to fp32; nothing was written")
    difference = batch_difference(embedder, crops.measured)
    if not difference <= BATCH_TOLERANCE[precision]:
        raise ModelError(f"{precision} of {source.name}: a row changes by {difference:.2g} with its batch")
    calibration = calibrate(emb, crops.measured.pids, crops.measured.camids) if crops.held_out else None
    if calibration is not None:
        _save(model, {**properties, **thresholds(calibration["pooled"])}, out)
    return Variant(len(cosines), float(cosines.mean()), float(cosines.min()), difference, calibration)


def to_fp16(source: Path) -> Any:
    """The model with fp16 weights and activations up to its last layer with weights; the rest, the norm, stays fp32.

    The length of a row is a sum of squares: in fp16 it can overflow, and the rows get lengths other than 1.
    """
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(str(source))
    graph, outputs = model.graph, list(model.graph.output)
    body, tail = _cut(list(graph.node))
    handed_on = sorted({name for node in tail for name in node.input} & {name for node in body for name in node.output})
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in handed_on]
    kept = [tensor for tensor in graph.initializer if any(tensor.name in node.input for node in tail)]
    weights = [tensor for tensor in graph.initializer if any(tensor.name in node.input for node in body)]
    half = onnx.helper.make_graph(body, graph.name, list(graph.input), ends, weights)
    opset = {"opset_imports": model.opset_import, "ir_version": model.ir_version}
    half = convert_float_to_float16(onnx.helper.make_model(half, **opset), keep_io_types=True).graph
    whole = onnx.helper.make_graph(
        [*half.node, *tail], graph.name, list(graph.input), outputs, [*half.initializer, *kept]
    )
    found = ONNXModel(onnx.helper.make_model(whole, **opset))
    found.topological_sort()  # the conversion appends its casts at the end, which ONNX does not allow
    return found.model


def _cut(nodes: list[Any]) -> tuple[list[Any], list[Any]]:
    """Behind the last layer with weights."""
    end = 1 + max((i for i, node in enumerate(nodes) if node.op_type in ("Conv", "Gemm", "MatMul")), default=-1)
    return nodes[:end], nodes[end:]


def to_int8(source: Path, crops: ByteArray, folder: Path) -> Any:
    """The model with int8 weights per channel and uint8 activations, as pairs of QuantizeLinear and DequantizeLinear.

    crops (N, H, W, 3) uint8 RGB set the range of every activation. Drafts go to `folder`.
    """
    embedder = OnnxEmbedder(source)
    starts = range(0, len(crops), FEED)
    return quantised(source, ({"images": embedder.prepared(crops[start : start + FEED])} for start in starts), folder)


def quantised(
    source: Path,
    feeds: Iterator[dict[str, FloatArray]],
    folder: Path,
    *,
    kinds: Sequence[str] | None = None,
    leave: Callable[[Any], Iterable[str]] = lambda graph: (),
) -> Any:
    """The model with activations quantised to the ranges seen in `feeds`. kinds: layer types; None for all possible.

    leave: names of the nodes that stay, from the graph as it is quantised. Drafts go to `folder`.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    check_room(folder, MOST_DRAFTS * source.stat().st_size)
    folded, done = folder / "folded.onnx", folder / "quantised.onnx"
    # Symbolic shapes are for transformers; convolutions get theirs from onnx itself.
    quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
    quantize_static(
        str(folded),
        str(done),
        _Feed(feeds),
        op_types_to_quantize=None if kinds is None else list(kinds),
        nodes_to_exclude=list(leave(onnx.load(str(folded)).graph)),
        per_channel=True,
        activation_type=QuantType.QUInt8,  # with signed ones onnxruntime takes twice the time on x86
        weight_type=QuantType.QInt8,
        # 7 bits: x86 without VNNI adds two products in 16 bits, and 8 bits saturate there silently.
        reduce_range=True,
    )
    return onnx.load(str(done))


def check_room(folder: Path, n_bytes: int) -> None:
    """Raises OSError where they do not fit; onnxruntime would print a traceback and skip a step."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(n_bytes))
        file.flush()


class _Feed:
    """onnxruntime's interface: one feed after another, then None."""

    def __init__(self, feeds: Iterator[dict[str, FloatArray]]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, FloatArray] | None:
        return next(self._feeds, None)


def batch_difference(embedder: OnnxEmbedder, samples: Samples) -> float:
    """Largest difference of a coordinate between a crop embedded alone and in a batch."""
    rows = np.resize(np.arange(len(samples)), max(PARITY_BATCHES))  # few samples repeat
    crops = read_images(samples.take(rows), embedder.height, embedder.width)
    alone = np.concatenate([embedder(crop[None]) for crop in crops])
    return max(float(np.abs(embedder(crops[:batch]) - alone[:batch]).max()) for batch in PARITY_BATCHES)


def _save(model: Any, properties: Mapping[str, str], out: Path) -> None:
    import onnx

    onnx.helper.set_model_props(model, dict(properties))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(out))
