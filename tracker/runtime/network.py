"""What Tracklet needs of a loaded ONNX model, whatever runtime runs it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

Run: TypeAlias = Callable[[Sequence[NDArray[Any]]], list[NDArray[Any]]]
# onnxruntime's codes, and the source lines that onnxruntime and OpenVINO write before what they have to say.
_NO_SENTENCE = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : |\S+\.(?:cc|h):\d+ "
    r"|Exception from \S+:\d+: |Check '.*?' failed at \S+:\d+: |FrontEnd API failed with \w+: "
)


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a model."""

    name: str
    shape: tuple[int | None, ...]  # None where the model leaves a dimension open
    dtype: str  # as onnxruntime writes it: "float", "float16", "int64", ...

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name!r} {self.dtype} ({sizes})"


@dataclass(frozen=True, slots=True)
class Network:
    """A loaded model. `run` gives all outputs for all inputs, each in the model's order; threads may share it."""

    metadata: Mapping[str, str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    run: Run


def reason_in(error: Exception) -> str:
    """The sentence in a runtime's message, without its codes, source lines and line breaks."""
    text = _NO_SENTENCE.sub("", " ".join(str(error).split()))
    return text if len(text) <= 300 else text[:297] + "..."
