"""The training loop: epochs of PK batches, one loss, one AdamW step each, and an average of the weights.

All random numbers come from (seed, epoch) or (seed, step): a resumed run gives the same weights to the bit. The files
of a run are written by `runs`, ensembles by `members`.
"""

from __future__ import annotations

import bisect
import contextlib
import copy
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from reid_training.config import RunConfig, ScheduleConfig, from_dict
from reid_training.data.base import Dataset, IntArray, check_trainable, has_pairs, read_inputs, split_identities
from reid_training.data.from_python import as_dataset
from reid_training.data.loading import Decoded, Files
from reid_training.data.samplers import pk_batches
from reid_training.data.transforms import augment
from reid_training.devices import Worker, loss_of, worker
from reid_training.distil import Teacher
from reid_training.embedders import TorchEmbedder, embed_images, embed_samples
from reid_training.errors import ConfigError, ModelError
from reid_training.evaluate import rank_held_out
from reid_training.members import n_apart, train_apart
from reid_training.methods.base import Method
from reid_training.nets.projected import projected_nets
from reid_training.runs import CHECKPOINT, Callback, Row, RunFolder, fill, load_checkpoint, new_method
from tracker.settings import to_dict

__all__ = ["Callback", "train"]  # of the API reference

logger = logging.getLogger(__name__)

T = TypeVar("T")
LEGEND = """\
learning_rate: of the last batch. loss: what is minimised, mean over the batches; lower is better
after it its parts, unweighted, and shares of right answers (..._accuracy: higher is better); images_per_s: speed
held_out_rank1, held_out_map: how well held-out people are found again, 0 to 1; every %d epochs
left: time to the end of the last epoch, at the speed so far"""
EVERY_S = 30.0  # between two lines of progress inside an epoch, where there is no bar
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def train(
    config: RunConfig,
    data: Any,
    out: Path,
    *,
    resume: bool = False,
    n_jobs: int = 1,
    callbacks: Sequence[Callback] = (),
) -> list[Row]:
    """Train on the people of the training part that are not held out, and write the run to the folder `out`.

    data: a `Dataset`, (images, labels[, cameras]) or a torch.utils.data.Dataset, see `data.from_python.as_dataset`.
    Under torchrun every process takes its share of the batches; a step is then as many batches as there are processes.
    n_jobs: members of an ensemble to train at the same time, for methods with separately trained members; the callbacks
    are told their rows at the end.
    """
    dataset = as_dataset(data)
    if n_apart(config.method) > 0:
        history = train_apart(config, dataset, out, train_run, resume=resume, n_jobs=n_jobs)
        for callback in callbacks:
            for row in history:
                callback.on_epoch(row)
            callback.on_end()
        return history
    if n_jobs != 1:
        raise ConfigError(
            f"{n_jobs} jobs need a method with separately trained members; {config.method['name']} is one run"
        )
    return train_run(config, dataset, out, resume, callbacks)


def train_run(
    config: RunConfig, dataset: Dataset, out: Path, resume: bool, callbacks: Sequence[Callback] = ()
) -> list[Row]:
    """As `train`, for a single run."""
    torch.set_num_threads(config.schedule.threads)
    with worker(config.schedule.device) as me:
        return Run(config, dataset, out, me, resume=resume).train(callbacks)


class Run:
    """One training run: data, network, optimiser and the log so far."""

    def __init__(self, config: RunConfig, dataset: Dataset, out: Path, me: Worker, *, resume: bool) -> None:
        self.config, self.out, self.me = config, out, me
        self.train_set, self.held_set = split_identities(dataset.train, config.data.val_fraction, config.seed)
        check_trainable(self.train_set, f"{dataset.name}, training part")
        if config.net.cached != (self.train_set.maps is not None):
            raise ConfigError("net.cached is for data that hold the output of the frozen layers, and for these alone")
        size = (config.data.height, config.data.width)
        in_memory = config.data.keep == "decoded"
        self.images: Decoded | Files
        if in_memory:
            self.images = Decoded(self.train_set, *size, me.device)
        else:
            self.images = Files(self.train_set, *size, me.device, config.data.loaders)
        self.held_images = read_inputs(self.held_set, *size) if in_memory else None
        people, labels = np.unique(self.train_set.pids, return_inverse=True)  # pids -> 0 .. n_classes - 1
        self.n_classes, self.labels = len(people), torch.from_numpy(labels).to(me.device)

        torch.manual_seed(config.seed)  # initial weights; nothing after this line draws from torch's generator
        self.method = new_method(config, self.n_classes, start=not resume)
        self.method.to(device=me.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        self.average = copy.deepcopy(self.method).eval()
        self.teacher = Teacher(config.distil, me.device) if config.distil.teacher else None
        groups = parameter_groups(self.method, config.schedule.weight_decay, config.schedule.body_rate)
        self.optimiser = torch.optim.AdamW(groups, lr=config.schedule.learning_rate)
        # Scales the loss for float16, where small gradients underflow; without effect if disabled.
        self.scaler = torch.amp.GradScaler(me.device.type, enabled=config.schedule.precision == "fp16")
        self.history: list[Row] = []
        if resume:
            self.restore(out / CHECKPOINT)
        elif (out / CHECKPOINT).exists():
            raise ConfigError(f"{out} holds a run already; give --resume or another --out")
        self.loss_of = loss_of(self.method, me)

    def train(self, callbacks: Sequence[Callback] = ()) -> list[Row]:
        """Trains the epochs that are not done yet. Returns one row of the log for each epoch."""
        if not self.me.leads:
            for epoch in range(len(self.history), self.config.schedule.epochs):
                self.history.append(self.epoch(epoch))
            return self.history

        folder = RunFolder(self.out, self.config, self.history, callbacks)
        with contextlib.ExitStack() as ends:
            for callback in folder.callbacks:
                ends.callback(callback.on_end)
            self.train_epochs(folder)
        return self.history

    def train_epochs(self, folder: RunFolder) -> None:
        """On the process that leads: validates, logs and writes after each epoch."""
        logger.info(
            "%d images of %d people; %d images of %d people held out",
            *(len(self.train_set), self.n_classes, len(self.held_set), len(np.unique(self.held_set.pids))),
        )
        logger.info(LEGEND, self.config.schedule.validate_every)
        n_before, started = len(self.history), time.monotonic()
        for epoch in range(n_before, self.config.schedule.epochs):
            row = self.epoch(epoch)
            row |= self.validate(epoch)
            self.history.append(row)
            left = time_left(started, epoch + 1 - n_before, self.config.schedule.epochs - n_before)
            logger.info("%s", "  ".join([*(f"{key} {value:.4g}" for key, value in row.items()), f"left {left}"]))
            due = self.is_due(epoch, self.config.schedule.checkpoint_every)
            folder.add_epoch(self.history, self.snapshot, is_due=due)

    def is_due(self, epoch: int, every: int) -> bool:
        return (epoch + 1) % every == 0 or epoch + 1 == self.config.schedule.epochs

    def epoch(self, epoch: int) -> Row:
        """One pass over the images. Returns its row of the log."""
        config, me = self.config, self.me
        rng = np.random.default_rng([config.seed, 2, epoch])
        camids = self.train_set.camids if config.data.sampler == "camera" else None
        batches = me.share(list(pk_batches(self.train_set.pids, config.data.n_ids, config.data.n_per_id, rng, camids)))
        if not batches:
            raise ConfigError(f"fewer batches than processes ({me.n}): lower data.n_ids or data.n_per_id")
        rng = me.generator(rng, config.seed, 4, epoch)
        # For a network with dropout: nothing else draws from torch's generator.
        torch.manual_seed(int(np.random.SeedSequence([config.seed, 6, epoch, me.rank]).generate_state(1)[0]))
        images = self.images.batches(batches)
        started, sums, n_images = time.perf_counter(), dict[str, float](), 0
        self.method.train()
        title = f"epoch {epoch + 1}/{config.schedule.epochs}"
        # Shown only if stderr is a terminal; cleared before the epoch's line or an error message.
        shown = None if me.leads else True
        with tqdm(batches, desc=title, unit=" batches", leave=False, dynamic_ncols=True, disable=shown) as bar:
            for index, rows in enumerate(announced(batches, title) if bar.disable and me.leads else bar):
                step = epoch * len(batches) + index
                rate = learning_rate(step, len(batches), config.schedule)
                parts = self.step(next(images), rows, step, rate, rng)
                if not math.isfinite(parts["loss"]):
                    raise ModelError(
                        f"the loss became {parts['loss']} in epoch {epoch + 1}; lower schedule.learning_rate"
                    )
                n_images += len(rows)
                for key, value in parts.items():
                    sums[key] = sums.get(key, 0.0) + value
        row: Row = {"epoch": epoch + 1, "learning_rate": rate}
        row |= me.mean({key: value / len(batches) for key, value in sums.items()})
        row["images_per_s"] = me.n * n_images / (time.perf_counter() - started)
        return row

    def step(
        self, images: Tensor, rows: IntArray, step: int, rate: float, rng: np.random.Generator
    ) -> dict[str, float]:
        """One batch, the images of these rows, and one step of the optimiser. Returns the parts of the loss."""
        config = self.config
        batch = self.batch(images, rng)
        # A separate generator, so that a miner does not change the augmentation.
        draws = self.me.generator(np.random.default_rng([config.seed, 3, step]), config.seed, 5, step)
        dtype = AUTOCAST.get(config.schedule.precision)
        with torch.autocast(self.me.device.type, dtype, enabled=dtype is not None):
            loss = self.loss_of(batch, self.labels[rows], draws)
            if self.teacher is not None:
                loss = self.teacher.add_to(loss, batch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("rate", 1.0)  # older checkpoints have none
        self.optimiser.zero_grad()
        self.scaler.scale(loss.total).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        update_average(self.average, self.method, config.schedule.ema_decay, step)
        return {"loss": float(loss.total.detach()), **loss.parts}

    def batch(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Augmented images (P * K, 3, H, W), or one of the cached views of each, (P * K, C, h, w)."""
        if not self.config.net.cached:
            return augment(images, rng, self.config.augment)
        views = rng.integers(images.shape[1], size=len(images))
        return images[torch.arange(len(images)), torch.from_numpy(views)].float()

    def validate(self, epoch: int) -> Row:
        """Scores of the averaged weights on the held-out people, every `validate_every` epochs."""
        if not has_pairs(self.held_set) or not self.is_due(epoch, self.config.schedule.validate_every):
            return {}
        embedder = TorchEmbedder(self.average, self.config.data.height, self.config.data.width)
        if self.held_images is None:
            embeddings = embed_samples(embedder, self.held_set)
        else:
            embeddings = embed_images(embedder, self.held_images)
        scores = rank_held_out(embeddings, self.held_set)
        return {"held_out_rank1": scores.rank1, "held_out_map": scores.mean_ap}

    def snapshot(self) -> dict[str, Any]:
        return {
            "config": to_dict(self.config),
            "n_classes": self.n_classes,
            "method": self.method.state_dict(),
            "ema": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
        }

    def restore(self, path: Path) -> None:
        """Weights, averages, the optimiser's state and the epochs already done, from the last checkpoint."""
        state = load_checkpoint(path)
        if from_dict(state["config"], str(path)) != from_dict(to_dict(self.config)):
            raise ModelError(f"{path} was trained with other settings; resume needs the config.toml beside it")
        if state["n_classes"] != self.n_classes:
            raise ModelError(f"{path} was trained on {state['n_classes']} people, the data has {self.n_classes}")
        fill(self.method, state["method"], path)
        fill(self.average, state["ema"], path)
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state.get("scaler", {}))  # older checkpoints have none
        self.history = list(state["history"])


def announced(batches: Sequence[T], title: str) -> Iterator[T]:
    """The batches, with a line in the log every EVERY_S seconds."""
    started = said = time.monotonic()
    for index, batch in enumerate(batches):
        if index and time.monotonic() - said >= EVERY_S:
            said = time.monotonic()
            logger.info(
                "%s: batch %d of %d, %s left", title, index, len(batches), time_left(started, index, len(batches))
            )
        yield batch


def time_left(started: float, n_done: int, n: int) -> str:
    """hh:mm:ss that n - n_done things will take if they are as fast as the n_done > 0 since `started`, by monotonic."""
    return str(tqdm.format_interval((time.monotonic() - started) / n_done * (n - n_done)))


def learning_rate(step: int, steps_per_epoch: int, schedule: ScheduleConfig) -> float:
    """Linear from 0 over the warm-up; then half a cosine down to 0, or constant with a drop after each milestone."""
    warmup = schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        return schedule.learning_rate * (step + 1) / warmup
    if schedule.decay == "step":
        n_drops = bisect.bisect_right(schedule.milestones, step // steps_per_epoch)
        return schedule.learning_rate * schedule.gamma**n_drops
    done = (step - warmup) / max(1, schedule.epochs * steps_per_epoch - warmup)
    return schedule.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def parameter_groups(method: Method, weight_decay: float, body_rate: float = 1.0) -> list[dict[str, Any]]:
    """Two for each group of the method: biases and BN scales do not decay, they hold means and scales, not features.

    "rate" is the group's factor of the learning rate; `body_rate` one more for all of the networks but their
    projections, in groups of their own.
    """
    rates = method.rates()
    nets = projected_nets(method) if body_rate != 1.0 else []
    projections = {id(parameter) for net in nets for parameter in net.project.parameters()}
    in_body = {id(parameter) for net in nets for parameter in net.parameters()} - projections
    groups = []
    for name, parameters in method.groups().items():
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        rate = rates.get(name, 1.0)
        parts = [([p for p in trained if id(p) not in in_body], rate)]
        if in_body:
            parts.append(([p for p in trained if id(p) in in_body], rate * body_rate))
        for part, factor in parts:
            groups.append({"params": [p for p in part if p.ndim > 1], "weight_decay": weight_decay, "rate": factor})
            groups.append({"params": [p for p in part if p.ndim <= 1], "weight_decay": 0.0, "rate": factor})
    return groups


@torch.no_grad()
def update_average(average: Method, method: Method, decay: float, step: int) -> None:
    """average += (1 - decay) * (method - average), BN statistics included; a young average follows faster."""
    decay = min(decay, (1.0 + step) / (10.0 + step)) if decay > 0 else 0.0
    pairs = list(zip(average.state_dict().values(), method.state_dict().values(), strict=True))
    floats = [(mean, value) for mean, value in pairs if mean.is_floating_point()]
    torch._foreach_lerp_([mean for mean, _ in floats], [value for _, value in floats], 1.0 - decay)
    for mean, value in pairs:
        if not mean.is_floating_point():  # BN's counter of batches
            mean.copy_(value)
