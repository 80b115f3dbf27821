"""Ensembles whose members are trained apart: each a run of its own in OUT/members, then all joined in OUT.

Nothing passes from one member to the next, so several may be trained at a time, each in a process of its own, and a
member that was cut is resumed like any run: the weights are the same to the bit.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from reid_training.config import RunConfig, from_dict
from reid_training.data.base import Dataset, Samples, has_pairs, read_images, split_identities
from reid_training.devices import keep_freed_memory
from reid_training.embedders import TorchEmbedder, embed_images
from reid_training.errors import ConfigError, ModelError, TrackletError
from reid_training.evaluate import rank_held_out
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
from tracker.settings import from_table, to_dict, to_toml

logger = logging.getLogger(__name__)

FOLDER = "members"
# (config, dataset, out, resume): the loop of one run. An argument, because the loop itself calls this module.
Train = Callable[[RunConfig, Dataset, Path, bool], object]
Task = tuple[RunConfig, Dataset, Path, bool]


def n_apart(options: Mapping[str, Any]) -> int:
    """How many members the method of these options wants to have trained apart; 0: it is trained as a whole."""
    if options["name"] != "dreml":
        return 0
    return from_table(DremlConfig, {key: value for key, value in options.items() if key != "name"}, "method").n_apart


def train_apart(
    config: RunConfig, dataset: Dataset, out: Path, train_one: Train, *, resume: bool, n_jobs: int
) -> list[Row]:
    """Trains the members that are not finished, `n_jobs` at a time, and joins all. Returns the rows of all."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("members are trained apart: give --jobs instead of torchrun")
    if not resume and any(out.rglob(CHECKPOINT)):
        raise ConfigError(f"{out} holds a run already; give --resume or another --out")
    # The members share the people held out, though not their seeds: so they get the others, and hold nobody out.
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
    # Other people are for the loop to refuse.
    return len(state["history"]) == config.schedule.epochs and bool(state["n_classes"] == n_classes)


def join(config: RunConfig, folders: Sequence[Path], held_set: Samples, out: Path) -> list[Row]:
    """Writes the ensemble to `out`, as one run; its epochs are those of the members, one after another."""
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
    images = read_images(held_set, *size)
    embeddings, scores = [], []
    for folder in folders:
        embeddings.append(embed_images(TorchEmbedder(load_method(folder)[0], *size), images))
        found = rank_held_out(np.concatenate(embeddings, axis=1) / np.sqrt(np.float32(len(embeddings))), held_set)
        scores.append({"held_out_rank1": found.rank1, "held_out_map": found.mean_ap})
        logger.info("members %d  held_out_rank1 %.4g  held_out_map %.4g", len(scores), found.rank1, found.mean_ap)
    return scores


def train_all(train_one: Train, tasks: Sequence[Task], n_jobs: int) -> None:
    """With one job in this process, with more in fresh ones (spawned: threads and GPU contexts survive no fork)."""
    if n_jobs == 1:
        for task in tasks:
            logger.info("%s", task[2])
            train_one(*task)
        return
    context, waiting = get_context("spawn"), list(tasks)
    running: dict[Connection, tuple[Path, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < n_jobs:
                task = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(target=_train_here, args=(theirs, train_one, task), daemon=True)
                process.start()
                theirs.close()  # or nobody would notice that the process died
                running[ours] = (task[2], process)
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                error = _answer(ready)
                folder, ended = running.pop(ready)
                ended.join()
                if error is not None:
                    raise error
                logger.info("%s is trained", folder)
    finally:
        for _, unfinished in running.values():
            unfinished.terminate()
            unfinished.join()


def _train_here(answer: Connection, train_one: Train, task: Task) -> None:
    """All that a process of `train_all` does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    try:
        train_one(*task)
    except TrackletError as error:
        answer.send(error)
    else:
        answer.send(None)


def _end_with_parent() -> None:
    """A parent that was killed is resumed by its user: nobody else may then write to the same folder."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _answer(connection: Connection) -> TrackletError | None:
    """None, or why a member was not trained."""
    try:
        answer: TrackletError | None = connection.recv()
    except EOFError:
        return ModelError("the process of a member died; what is written is whole, `reid train --resume` goes on")
    return answer
