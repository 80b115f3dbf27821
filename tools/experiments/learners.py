"""The learners of an ensemble in a finished run: R@1 of some of them, and how independent they are.

Of up to eight learners each is scored alone; of more, the first 1, 4, 8, 16, 32 together: DREML's members are trained
alone, so that 24 of them hold the ensembles of fewer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from reid_training.embedders import FloatArray, TorchEmbedder, embed_samples
from reid_training.evaluate import Ranking, rank_held_out
from reid_training.methods.bier import learner_correlation
from reid_training.nets.heads import unit_rows
from reid_training.runs import load_method, replace_file

if TYPE_CHECKING:
    from reid_training.data.base import Samples
    from tools.experiments.runs import Job

MOST_ALONE = 8
TOGETHER = (1, 4, 8, 16, 32)
INDEPENDENCE = "1 - mean |correlation| of two learners"


def scores(job: Job) -> dict[str, float]:
    """Measure -> value in [0, 1] of a run that is finished; empty for a single network. Kept in the run's folder."""
    file = job.folder / f"learners_{job.split}.json"
    if not file.is_file():
        _write(file, _scores(job))
    found: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return found


def spans(n: int) -> dict[str, tuple[int, int]]:
    """What is scored of n learners: its name, the first learner and the one after the last."""
    if n <= MOST_ALONE:
        return {f"learner {k + 1} of {n}": (k, k + 1) for k in range(n)}
    return {f"first {k} of {n} learners": (0, k) for k in TOGETHER if k < n}


def of_embeddings(
    embeddings: FloatArray,
    sizes: Sequence[int],
    samples: Samples,
    rank: Callable[[FloatArray, Samples], Ranking] = rank_held_out,
) -> dict[str, float]:
    """embeddings (N, D), `sizes` of the learners' blocks, two or more, summing to D."""
    blocks = torch.split_with_sizes(torch.from_numpy(embeddings), list(sizes), dim=1)
    found = {}
    for name, (start, end) in spans(len(sizes)).items():
        part = unit_rows(torch.cat(blocks[start:end], dim=1)).numpy()
        found[f"R@1, {name}"] = rank(part, samples).rank1
    found[INDEPENDENCE] = 1.0 - float(learner_correlation(torch.from_numpy(embeddings), sizes))
    return found


def _scores(job: Job) -> dict[str, float]:
    method, config, _ = load_method(job.folder)
    if len(method.sizes) < 2:
        return {}
    samples = job.protocol.read(job.root)[job.split]
    embeddings = embed_samples(TorchEmbedder(method, config.data.height, config.data.width), samples)
    return of_embeddings(embeddings, method.sizes, samples, job.protocol.rank)


def _write(file: Path, found: dict[str, float]) -> None:
    replace_file(file, lambda stream: stream.write(json.dumps(found, indent=1).encode()))
