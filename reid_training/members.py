"""Train the members of an ensemble as separate runs in OUT/members, several at a time, and join them in OUT.

Members share nothing while they train. An interrupted member resumes like any run, and the joined weights do not depend
on the number of jobs, to the bit.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from reid_training.config import RunConfig, from_dict
from reid_training.data.base import Dataset, Samples, has_pairs, read_images, split_identities
from reid_training.devices import keep_freed_memory
from reid_training.embedders import TorchEmbedder, embed_images, embed_samples
from reid_training.errors import ConfigError, ModelError, TrackletError
from reid_training.evaluate import rank_held_out
from reid_training.methods import settings_of
from reid_training.methods.dreml import DremlConfig, joined
from reid_training.runs import (
    CHECKPOINT,
    CONFIG,
    Row,
    load_checkpoint,
    load_method,
    replace_file,
    save_checkpoint,
    write_log,
)
from tracker.settings import to_dict, to_toml

logger = logging.getLogger(__name__)

FOLDER = "members"
# (config, dataset, out, resume): the loop of one run. An argument, because the loop itself calls this module.
Train = Callable[[RunConfig, Dataset, Path, bool], object]
Task = tuple[RunConfig, Dataset, Path, bool]


def n_apart(options: Mapping[str, Any]) -> int:
    """Number of members to train as separate runs; 0: the method is trained as a whole."""
    settings = settings_of(options)
    return settings.n_apart if isinstance(settings, DremlConfig) else 0


def train_apart(
    config: RunConfig, dataset: Dataset, out: Path, train_one: Train, *, resume: bool, n_jobs: int
) -> list[Row]:
    """Trains the members that are not finished, `n_jobs` at a time, and joins all. Returns the rows of all members."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("members are trained apart: give --jobs instead of torchrun")
    if not resume and any(out.rglob(CHECKPOINT)):
        raise ConfigError(f"{out} holds a run already; give --resume or another --out")
    # All members hold out the same people although their seeds differ: each trains on the rest.
    train_set, held_set = split_identities(dataset.train, config.data.val_fraction, config.seed)
    rest = dataclasses.replace(dataset, train=train_set)
    configs = [member_config(config, index) for index in range(n_apart(config.method))]
    folders = [out / FOLDER / f"{index:02d}" for index in range(len(configs))]
    tasks: list[Task] = []
    for one, folder in zip(configs, folders, strict=True):
        begun = (folder / CHECKPOINT).exists()
        if not (begun and is_finished(folder, one, len(np.unique(train_set.pids)))):
            tasks.append((one, rest, folder, begun))
    replace_file(out / CONFIG, lambda stream: stream.write(to_toml(config).encode()))
    logger.info("%d members, %d of them to train", len(configs), len(tasks))
    train_all(train_one, tasks, n_jobs)
    return join(config, folders, held_set, out)


def member_config(config: RunConfig, index: int) -> RunConfig:
    """The run of one member: with a seed of its own, hence with other weights, batches and meta-classes."""
    seed = int(np.random.SeedSequence([config.seed, index]).generate_state(1)[0])
    data = dataclasses.replace(config.data, val_fraction=0.0)
    return dataclasses.replace(config, seed=seed, data=data, method={**config.method, "member": index})


def is_finished(folder: Path, config: RunConfig, n_classes: int) -> bool:
    """Whether the run in `folder` has all its epochs; other settings than `config` raise ModelError."""
    state = load_checkpoint(folder)
    if from_dict(state["config"], str(folder)) != from_dict(to_dict(config)):
        raise ModelError(f"{folder} was trained with other settings; resume needs the config.toml of the whole run")
    # The training loop refuses a run of other people.
    return len(state["history"]) == config.schedule.epochs and bool(state["n_classes"] == n_classes)


def join(config: RunConfig, folders: Sequence[Path], held_set: Samples, out: Path) -> list[Row]:
    """Writes the ensemble to `out` as one run; its epochs are those of the members, one after another."""
    states = [load_checkpoint(folder) for folder in folders]
    scores = held_out_scores(config, folders, held_set)
    history: list[Row] = []
    for index, state in enumerate(states):
        history += [
            {**row, "epoch": float(len(history) + i), "member": index} for i, row in enumerate(state["history"], 1)
        ]
        history[-1] |= scores[index]
    whole = {part: joined([state[part] for state in states]) for part in ("method", "ema")}
    # Each member's optimiser is in its own checkpoint: resuming the whole resumes the members.
    about = {"config": to_dict(config), "n_classes": states[0]["n_classes"], "optimiser": {}, "history": history}
    save_checkpoint(out / CHECKPOINT, about | whole)
    write_log(out, history)
    return history


def held_out_scores(config: RunConfig, folders: Sequence[Path], held_set: Samples) -> list[Row]:
    """For each member the scores of the ensemble up to and with it, on the people held out."""
    if not has_pairs(held_set):
        return [{} for _ in folders]
    size = (config.data.height, config.data.width)
    images = read_images(held_set, *size) if config.data.keep == "decoded" else None
    embeddings, scores = [], []
    for folder in folders:
        embedder = TorchEmbedder(load_method(folder)[0], *size)
        embeddings.append(embed_samples(embedder, held_set) if images is None else embed_images(embedder, images))
        found = rank_held_out(np.concatenate(embeddings, axis=1) / np.sqrt(np.float32(len(embeddings))), held_set)
        scores.append({"held_out_rank1": found.rank1, "held_out_map": found.mean_ap})
        logger.info("members %d  held_out_rank1 %.4g  held_out_map %.4g", len(scores), found.rank1, found.mean_ap)
    return scores


def train_all(train_one: Train, tasks: Sequence[Task], n_jobs: int) -> None:
    """With one job in this process, with more in fresh ones (spawned: threads and GPU contexts survive no fork).

    A member that fails leaves the others running; its error is raised after them. An interrupt ends all.
    """
    if n_jobs == 1:
        for task in tasks:
            logger.info("%s", task[2])
            train_one(*task)
        return
    failures = []
    with ProcessPoolExecutor(n_jobs, get_context("spawn"), initializer=_start) as pool:
        running = {pool.submit(train_one, *task): task[2] for task in tasks}
        try:
            for future in as_completed(running):
                error = future.exception()
                logger.info("%s %s", running[future], "is trained" if error is None else f"failed: {error}")
                if isinstance(error, TrackletError):
                    failures.append(error)
                elif isinstance(error, BrokenProcessPool):
                    raise ModelError("the process of a member died; the files written are complete, "
                                     "`reid train --resume` continues")  # fmt: skip
                elif error is not None:
                    raise error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()
            raise
    if failures:
        raise failures[0]


def _start() -> None:
    """Initialises a worker process of `train_all`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent stops the workers
    Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()


def _end_with_parent() -> None:
    """Ends this process with its parent: a resumed run must not find another process that writes to its folders."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
