"""One training run and its scores, in a folder named by a hash of everything that decides them.

Experiments with equal baseline settings use the same folder: it is trained once. The folder holds what every run of
`reid train` does, the log (log.txt) and result_SPLIT.json for each split that was scored. An interrupted run
resumes from its last checkpoint; a finished one is not repeated.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reid_training.config import RunConfig, from_dict
from reid_training.data.base import Dataset, Samples
from reid_training.embedders import TorchEmbedder, embed_samples
from reid_training.errors import ConfigError, ModelError
from reid_training.evaluate import FloatArray
from reid_training.methods import METHODS, settings_of
from reid_training.runs import CHECKPOINT, load_method, replace_file
from reid_training.train import train
from tools.experiments.catalogue import MEASURES, Table, merged
from tools.experiments.protocols import Protocol
from tools.experiments.verification import verify
from tracker.settings import naming, to_dict


@dataclass(frozen=True, slots=True)
class Job:
    """A run that is asked for, and the split to score. Two with the same folder are the same run."""

    protocol: Protocol
    config: RunConfig
    split: str
    root: Path  # of the protocol's images
    out: Path  # folder of all runs
    teacher: Path | None = None  # folder of the run that `config.distil.teacher` names by its experiment

    @property
    def folder(self) -> Path:
        facts: list[Any] = [self.protocol.key(), to_dict(self.config)]
        if self.teacher is not None:
            facts.append(self.teacher.name)
        text = json.dumps(facts, sort_keys=True)
        return self.out / f"{self.protocol.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def result(self) -> Path:
        return self.folder / f"result_{self.split}.json"


@dataclass(frozen=True, slots=True)
class Result:
    scores: Mapping[str, float]  # of MEASURES, in [0, 1]
    seconds: float | None  # processor time of training, in one thread; None: it was cut and went on
    config: Mapping[str, Any]
    code: str  # see `code_of`


def run_config(protocol: Protocol, settings: Table, seed: int, where: str) -> RunConfig:
    """The protocol's settings and the experiment's over them, all checked, those of the method too."""
    if "method" not in settings:
        raise ConfigError(f"{where}: method is missing")
    config = from_dict({"seed": seed, **merged(protocol.settings, settings, protocol.fixed)}, where)
    with naming(where):
        settings_of(config.method)
    return config


def run(job: Job) -> Result:
    """Train, as far as it is not done yet, and score."""
    with contextlib.ExitStack() as stack:
        job.folder.mkdir(parents=True, exist_ok=True)
        # The bars of the training loop go where no terminal is.
        log = stack.enter_context((job.folder / "log.txt").open("a", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stderr(log))
        parts = job.protocol.read(job.root)
        seconds = _train(job, parts["train"])
        scores = _score(job, parts[job.split])
    result = Result(scores, seconds, to_dict(job.config), code_of(job.config))
    text = json.dumps(asdict(result), indent=1)
    replace_file(job.result, lambda stream: stream.write(text.encode()))
    return result


def finished(job: Job) -> Result | None:
    """The result that is there already, or None; one that lacks a measure is scored again."""
    try:
        result = Result(**json.loads(job.result.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise ModelError(f"{job.result} is damaged; --redo runs it again") from None
    if result.config != to_dict(job.config):
        raise ModelError(f"{job.result} is of a run with other settings; --redo runs it again")
    return result if result.scores.keys() == MEASURES.keys() else None


def code_of(config: RunConfig) -> str:
    """Digest of the method's own file: a result from before it was changed tells about another method."""
    source = inspect.getsource(inspect.getmodule(METHODS[config.method["name"]][0]))  # type: ignore[arg-type]
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def _train(job: Job, samples: Samples) -> float | None:
    """Returns processor seconds, where they are all known."""
    times = job.folder / "seconds.json"
    resume = any(job.folder.rglob(CHECKPOINT))  # of the run, or of a member of its ensemble
    if times.is_file():
        return float(json.loads(times.read_text(encoding="utf-8")))
    empty = samples.take(np.empty(0, np.int64))
    dataset = Dataset(job.protocol.name, "that of the user's own copy", samples, empty, empty)
    config = job.config
    if job.teacher is not None:
        config = replace(config, distil=replace(config.distil, teacher=str(job.teacher)))
    started = time.process_time()
    train(config, dataset, job.folder, resume=resume)
    seconds = time.process_time() - started
    if resume:
        return None
    replace_file(times, lambda stream: stream.write(json.dumps(round(seconds, 2)).encode()))
    return seconds


def _score(job: Job, samples: Samples) -> dict[str, float]:
    """Scores of the averaged weights on people not used in training."""
    method, config, _ = load_method(job.folder)
    embeddings = embed_samples(TorchEmbedder(method, config.data.height, config.data.width), samples)
    return scores_of(embeddings, job.protocol, samples)


def scores_of(embeddings: FloatArray, protocol: Protocol, samples: Samples) -> dict[str, float]:
    """MEASURES of embeddings (N, D), unit rows."""
    scores = {**asdict(protocol.rank(embeddings, samples)), **asdict(verify(embeddings, samples))}
    return {name: scores[name] for name in MEASURES}
