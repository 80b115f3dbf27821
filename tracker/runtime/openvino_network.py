"""Load an ONNX model with OpenVINO, for the CPU. The package is optional: `pip install openvino`."""

from __future__ import annotations

import ctypes
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracker.errors import ModelError
from tracker.runtime.network import Network, Port

_LARGEST = 16  # rows of one call; a power of two
# Layers compiled for earlier sizes: with OpenVINO's own 5000, 128 sizes of the detector's input take 680 MB; with this
# 250 MB, and two sizes in turns are as fast.
_KEPT = 1000
_DTYPES = {"float32": "float", "float64": "double"}  # NumPy's names, where onnxruntime's differ


def load(model: Path | bytes, threads: int | None, *, f32: bool) -> Network:
    """A model from its file, which may name other files, or from its bytes.

    threads: of one call; None leaves the choice to OpenVINO. f32: compute in it; otherwise in bfloat16 on processors
    that have it. Raises ModelError where the package is missing, and OpenVINO's own exceptions where it cannot read the
    model.
    """
    openvino, front_ends = _import_openvino()
    # The reader of ONNX by name: asked to find one, OpenVINO tries those of other formats, which print.
    reader = front_ends.FrontEndManager().load_by_framework("onnx")
    read = reader.convert(reader.load(io.BytesIO(model) if isinstance(model, bytes) else str(model)))
    options: dict[str, Any] = {
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # other work needs the same cores
        "CPU_RUNTIME_CACHE_CAPACITY": _KEPT,
    }
    if f32:
        options["INFERENCE_PRECISION_HINT"] = "f32"
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    inputs, outputs = tuple(map(_port, read.inputs)), tuple(map(_port, read.outputs))
    if not inputs or not outputs:  # so OpenVINO reads some texts
        raise ValueError("is not an ONNX model, or is truncated or corrupt")
    batched = len(inputs) == 1 and all(port.shape[:1] == (None,) for port in (*inputs, *outputs))
    requests = _Requests(openvino, read, options, batched)
    return Network(_metadata(read), inputs, outputs, requests.run)


class _Requests:
    """Compiled copies of a model, one for each call at a time, made when they are first needed.

    A change of shape costs OpenVINO some milliseconds, as much as a small network itself, and frames have different
    numbers of people. So a batch is split in parts of 16, 8, 4, 2 and 1 rows, and there is a copy for each size. The
    other dimensions may change from call to call.
    """

    def __init__(self, openvino: Any, model: Any, options: dict[str, Any], batched: bool) -> None:
        self._core, self._tensor = openvino.Core(), openvino.Tensor
        self._model, self._options, self._batched = model, options, batched
        # By rows, which are powers of two; 0: as many as the call has.
        self._idle: dict[int, list[Any]] = {rows: [] for rows in range(_LARGEST + 1)}
        rows = 1 if batched else 0
        self._idle[rows].append(self._compile(rows))

    def run(self, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        if not self._batched:
            return self._infer(0, values)
        (batch,) = values
        if len(batch) == 0:  # some layers of OpenVINO refuse that
            return [output[:0] for output in self._infer(1, [np.zeros((1, *batch.shape[1:]), batch.dtype)])]
        found = [self._infer(len(part), [part]) for part in _parts(batch)]
        return found[0] if len(found) == 1 else [np.concatenate(outputs) for outputs in zip(*found, strict=True)]

    def _infer(self, rows: int, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            request = self._idle[rows].pop()  # one step, whatever other threads do
        except IndexError:
            request = self._compile(rows)
        try:
            for index, value in zip(range(len(self._model.inputs)), values, strict=True):
                request.set_input_tensor(
                    index, self._tensor(np.require(value, requirements=("C", "W")), shared_memory=True)
                )
            request.infer(share_outputs=True)
            return [np.array(tensor.data) for tensor in request.output_tensors]
        finally:
            self._idle[rows].append(request)

    def _compile(self, rows: int) -> Any:
        model = self._model.clone()
        if rows:
            shape = model.input().partial_shape
            shape[0] = rows
            model.reshape(shape)
        with _signal_stack_kept():
            return self._core.compile_model(model, "CPU", self._options).create_infer_request()


def _parts(batch: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The batch in parts of falling powers of two."""
    while len(batch):
        size = min(_LARGEST, 1 << len(batch).bit_length() - 1)
        yield batch[:size]
        batch = batch[size:]


@contextmanager
def _signal_stack_kept() -> Iterator[None]:
    """The thread's stack for signal handlers is as before, on Linux.

    A compiled model sets one of its own, and later puts back what it found, in any order: without this the stack of a
    deleted model can stay, and the next Ctrl-C crashes the process.
    """
    if sys.platform != "linux":
        yield
        return
    libc, found = ctypes.CDLL(None), ctypes.create_string_buffer(64)  # stack_t, 24 bytes
    libc.sigaltstack(None, found)
    try:
        yield
    finally:
        libc.sigaltstack(found, None)


def _import_openvino() -> tuple[Any, Any]:
    """The package and its module `frontend`, without the package that sends usage data whenever it is imported."""
    absent: Any = None  # what makes Python say that there is no such module
    sys.modules.setdefault("openvino_telemetry", absent)
    try:
        import openvino
        from openvino import frontend
    except ImportError as error:
        raise ModelError(
            f"device openvino was asked for, but {error} (pip install openvino); use --device auto or cpu"
        ) from error
    finally:
        if sys.modules["openvino_telemetry"] is None:
            del sys.modules["openvino_telemetry"]
    return openvino, frontend


def _metadata(model: Any) -> dict[str, str]:
    try:
        entries = model.get_rt_info(["framework"])
    except RuntimeError:  # there are none
        return {}
    return {key: model.get_rt_info(["framework", key]).astype(str) for key in entries.value}


def _port(port: Any) -> Port:
    dimensions = port.partial_shape if port.partial_shape.rank.is_static else ()
    shape = tuple(size.get_length() if size.is_static else None for size in dimensions)
    name = port.element_type.to_dtype().name
    return Port(port.any_name, shape, _DTYPES.get(name, name))
