"""Results of single runs as JSON files; a run with a file is not repeated."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reid_training.errors import ModelError
from reid_training.runs import replace_file

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")


def digest(*facts: Any) -> str:
    """Short name for everything that decides a result, except the code."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def run_all(run: Callable[..., None], tasks: Sequence[tuple[Any, ...]], jobs: int) -> None:
    """Call `run` with every task, `jobs` at a time."""
    if jobs == 1 or len(tasks) < 2:
        for task in tasks:
            run(*task)
        return
    # Not fork: torch has threads already.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(run, *zip(*tasks, strict=True)))


def write(file: Path, result: DataclassInstance) -> None:
    text = json.dumps(asdict(result), indent=1)
    replace_file(file, lambda stream: stream.write(text.encode()))


def read(kind: type[R], file: Path) -> R:
    """The result in a file; lists become tuples. Raises ModelError if it is damaged."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in table.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} is damaged; delete it to repeat that run: {error}") from None
