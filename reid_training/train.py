"""The training loop: epochs of PK batches, one loss, one AdamW step each, and an average of the weights.

With a teacher (`distil`) there are batches of unlabelled crops, too, beside those with labels or alone.
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
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from reid_training.config import RunConfig, ScheduleConfig, from_dict
from reid_training.data.base import (
    NO_SAMPLES,
    Dataset,
    IntArray,
    Samples,
    chain_samples,
    check_trainable,
    has_pairs,
    read_inputs,
    split_identities,
)
from reid_training.data.from_python import as_crops, as_dataset
from reid_training.data.loading import Decoded, Files
from reid_training.data.samplers import pk_batches
from reid_training.data.transforms import augment
from reid_training.devices import Worker, loss_of, worker
from reid_training.distil import Distillation, crop_batches, read_targets
from reid_training.embedders import TorchEmbedder, embed_images, embed_samples
from reid_training.errors import ConfigError, DataError, ModelError
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
held_out_rank1, held_out_map: how well held-out people are found again, 0 to 1; held_out_relation, held_out_direct:
losses against the teacher on held-out crops, which have no identities; every %d epochs
left: time to the end of the last epoch, at the speed so far"""
MOST_HELD_CROPS = 1000  # enough for a mean
EVERY_S = 30.0  # between two lines of progress inside an epoch, where there is no bar
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def train(
    config: RunConfig,
    data: Any,
    out: Path,
    *,
    unlabelled: Any = None,
    validation: Any = None,
    resume: bool = False,
    n_jobs: int = 1,
    callbacks: Sequence[Callback] = (),
) -> list[Row]:
    """Train on the people of the training part that are not held out, and write the run to the folder `out`.

    data: a `Dataset`, (images, labels[, cameras]) or a torch.utils.data.Dataset, see `data.from_python.as_dataset`;
    None: without labels, on unlabelled crops alone. unlabelled: `Samples` or pictures for the teacher that
    `config.distil` names, see `data.from_python.as_crops`. validation: as data, without which the held-out people of
    this set are found again; nothing else of it is used.
    Under torchrun every process takes its share of the batches; a step is then as many batches as there are processes.
    n_jobs: members of an ensemble to train at the same time, for methods with separately trained members; the callbacks
    are told their rows at the end.
    """
    dataset = None if data is None else as_dataset(data)
    crops = NO_SAMPLES if unlabelled is None else as_crops(unlabelled)
    if n_apart(config.method) > 0:
        if dataset is None or len(crops):
            raise ConfigError(f"{config.method['name']} trains its members on labelled data alone")
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
    found = None if validation is None else as_dataset(validation)
    return train_run(config, dataset, out, resume, callbacks, crops, found)


def train_run(
    config: RunConfig,
    dataset: Dataset | None,
    out: Path,
    resume: bool,
    callbacks: Sequence[Callback] = (),
    crops: Samples = NO_SAMPLES,
    validation: Dataset | None = None,
) -> list[Row]:
    """As `train`, for a single run."""
    torch.set_num_threads(config.schedule.threads)
    with worker(config.schedule.device) as me:
        return Run(config, dataset, out, me, resume, crops, validation).train(callbacks)


def parts_of(dataset: Dataset | None, validation: Dataset | None, config: RunConfig) -> tuple[Samples, Samples]:
    """The labelled images to train on, and those of people held out: of `validation` where no others are known."""
    if dataset is None:
        if validation is None:
            return NO_SAMPLES, NO_SAMPLES
        return NO_SAMPLES, split_identities(validation.train, config.data.val_fraction, config.seed)[1]
    if validation is not None:
        raise ConfigError(
            "a set for validation is for training without labels: people of the labelled data are held out"
        )
    return split_identities(dataset.train, config.data.val_fraction, config.seed)


def split_crops(crops: Samples, config: RunConfig) -> tuple[Samples, Samples]:
    """Crops to train on, and those held out."""
    fraction = min(config.data.val_fraction, MOST_HELD_CROPS / max(1, len(crops)))
    return split_identities(crops, fraction, config.seed)  # each is an identity of its own


def check_sets(config: RunConfig, dataset: Dataset | None, train_set: Samples, crops: Samples, me: Worker) -> None:
    """Raises ConfigError or DataError where there is nothing to learn from, or settings are for other data."""
    if len(crops) or config.distil.teacher:
        if not config.distil.teacher:
            raise ConfigError("unlabelled crops need a teacher: --teacher, or distil.teacher")
        if me.n > 1:
            raise ConfigError("a teacher is for a run of one process, without torchrun")
    if len(crops) and config.net.cached:
        raise ConfigError("unlabelled crops do not go together with net.cached")
    if dataset is not None:
        check_trainable(train_set, f"{dataset.name}, training part")
        if config.net.cached != (train_set.maps is not None):
            raise ConfigError("net.cached is for data that hold the output of the frozen layers, and for these alone")
    elif len(crops) < config.distil.batch:
        raise DataError(
            f"{len(crops)} unlabelled crops are less than a batch: lower distil.batch = {config.distil.batch}"
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Labelled images, unlabelled crops, or both: rows (B,) of their set, and pictures as the loaders give them."""

    rows: IntArray | None
    images: Tensor | None
    crop_rows: IntArray | None
    crops: Tensor | None

    def __len__(self) -> int:
        return sum(len(rows) for rows in (self.rows, self.crop_rows) if rows is not None)


class Run:
    """One training run: data, network, optimiser and the log so far."""

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset | None,
        out: Path,
        me: Worker,
        resume: bool,
        crops: Samples,
        validation: Dataset | None,
    ) -> None:
        if not resume and (out / CHECKPOINT).exists():
            raise ConfigError(f"{out} holds a run already; give --resume or another --out")
        self.config, self.out, self.me = config, out, me
        self.train_set, self.held_set = parts_of(dataset, validation, config)
        self.crops, self.held_crops = split_crops(crops, config) if dataset is None else (crops, NO_SAMPLES)
        check_sets(config, dataset, self.train_set, self.crops, me)
        self.images, self.crop_images = (self.pictures(samples) for samples in (self.train_set, self.crops))
        size = (config.data.height, config.data.width)
        self.held_images = read_inputs(self.held_set, *size) if config.data.keep == "decoded" else None
        people, labels = np.unique(self.train_set.pids, return_inverse=True)  # pids -> 0 .. n_classes - 1
        self.n_classes, self.labels = len(people), torch.from_numpy(labels).to(me.device)

        torch.manual_seed(config.seed)  # initial weights; nothing after `Distillation` draws from torch's generator
        self.method = new_method(config, self.n_classes, start=not resume)
        self.method.to(device=me.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        self.average = copy.deepcopy(self.method).eval()
        self.distillation: Distillation | None = None
        groups = parameter_groups(self.method, config.schedule.weight_decay, config.schedule.body_rate)
        if config.distil.teacher:
            seen = chain_samples(self.train_set, self.crops, self.held_crops)
            targets = read_targets(config.distil, seen, out, me.device, config.schedule.threads, resume=resume)
            self.distillation = Distillation(config.distil, targets, self.method.size, me.device)
            # Without decay: the length of what it gives has no meaning.
            groups.append({"params": list(self.distillation.map.parameters()), "weight_decay": 0.0})
        self.optimiser = torch.optim.AdamW(groups, lr=config.schedule.learning_rate, amsgrad=config.schedule.amsgrad)
        # Scales the loss for float16, where small gradients underflow; without effect if disabled.
        self.scaler = torch.amp.GradScaler(me.device.type, enabled=config.schedule.precision == "fp16")
        self.history: list[Row] = []
        if resume:
            self.restore(out / CHECKPOINT)
        self.loss_of = loss_of(self.method, me)

    def pictures(self, samples: Samples) -> Decoded | Files:
        data = self.config.data
        if data.keep == "decoded":
            return Decoded(samples, data.height, data.width, self.me.device)
        return Files(samples, data.height, data.width, self.me.device, data.loaders)

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
        if len(self.train_set) or len(self.held_set):
            logger.info(
                "%d images of %d people; %d images of %d people held out",
                *(len(self.train_set), self.n_classes, len(self.held_set), len(np.unique(self.held_set.pids))),
            )
        if len(self.crops):
            logger.info("%d unlabelled crops; %d held out", len(self.crops), len(self.held_crops))
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
        """One pass over the labelled images, or over the crops if there are none. Returns its row of the log."""
        config, me = self.config, self.me
        rng = np.random.default_rng([config.seed, 2, epoch])
        batches = self.labelled_batches(rng)
        n_batches = len(batches) or len(self.crops) // config.distil.batch
        crops: list[IntArray] = []
        if len(self.crops):
            order = np.random.default_rng([config.seed, 7, epoch])
            crops = list(crop_batches(len(self.crops), config.distil.batch, n_batches, order))
        rng = me.generator(rng, config.seed, 4, epoch)
        # For a network with dropout: nothing else draws from torch's generator.
        torch.manual_seed(int(np.random.SeedSequence([config.seed, 6, epoch, me.rank]).generate_state(1)[0]))
        pieces = zip_longest(batches, self.images.batches(batches), crops, self.crop_images.batches(crops))
        started, sums, n_images = time.perf_counter(), dict[str, float](), 0
        self.method.train()
        title = f"epoch {epoch + 1}/{config.schedule.epochs}"
        # Shown only if stderr is a terminal; cleared before the epoch's line or an error message.
        shown = None if me.leads else True
        with tqdm(range(n_batches), desc=title, unit=" batches", leave=False, dynamic_ncols=True, disable=shown) as bar:
            for index in announced(range(n_batches), title) if bar.disable and me.leads else bar:
                step = epoch * n_batches + index
                rate = learning_rate(step, n_batches, config.schedule)
                batch = Batch(*next(pieces))
                parts = self.step(batch, step, rate, rng)
                if not math.isfinite(parts["loss"]):
                    raise ModelError(
                        f"the loss became {parts['loss']} in epoch {epoch + 1}; lower schedule.learning_rate"
                    )
                n_images += len(batch)
                for key, value in parts.items():
                    sums[key] = sums.get(key, 0.0) + value
        row: Row = {"epoch": epoch + 1, "learning_rate": rate}
        row |= me.mean({key: value / n_batches for key, value in sums.items()})
        row["images_per_s"] = me.n * n_images / (time.perf_counter() - started)
        return row

    def labelled_batches(self, rng: np.random.Generator) -> list[IntArray]:
        """Rows (P * K,) of each batch of this process; none without labels."""
        data = self.config.data
        if not len(self.train_set):
            return []
        camids = self.train_set.camids if data.sampler == "camera" else None
        batches = self.me.share(list(pk_batches(self.train_set.pids, data.n_ids, data.n_per_id, rng, camids)))
        if not batches:
            raise ConfigError(f"fewer batches than processes ({self.me.n}): lower data.n_ids or data.n_per_id")
        return batches

    def step(self, batch: Batch, step: int, rate: float, rng: np.random.Generator) -> dict[str, float]:
        """One step of the optimiser. Returns the parts of the loss."""
        dtype = AUTOCAST.get(self.config.schedule.precision)
        with torch.autocast(self.me.device.type, dtype, enabled=dtype is not None):
            loss, parts = self.loss(batch, step, rng)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group.get("rate", 1.0)  # older checkpoints have none
        self.optimiser.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch's
        self.scaler.step(self.optimiser)
        self.scaler.update()
        update_average(self.average, self.method, self.config.schedule.ema_decay, step)
        return {"loss": float(loss.detach()), **parts}

    def loss(self, batch: Batch, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """The method's loss on the labelled images, and the teacher's on these and the unlabelled crops together."""
        config, me = self.config, self.me
        total, parts = torch.zeros((), device=me.device), dict[str, float]()
        embeddings, rows = list[Tensor](), list[IntArray]()
        if batch.rows is not None and batch.images is not None:
            # A separate generator, so that a miner does not change the augmentation.
            draws = me.generator(np.random.default_rng([config.seed, 3, step]), config.seed, 5, step)
            found = self.loss_of(self.batch(batch.images, rng), self.labels[batch.rows], draws)
            total, parts = found.total, dict(found.parts)
            taught = slice(None, None, config.distil.every)  # grouped by person: people stay, with fewer images each
            embeddings.append(found.embeddings[taught])
            rows.append(batch.rows[taught])
        if batch.crop_rows is not None and batch.crops is not None:
            crops = augment(batch.crops, np.random.default_rng([config.seed, 8, step]), config.augment)
            embeddings.append(self.method.embed(crops))
            rows.append(len(self.train_set) + batch.crop_rows)
        if self.distillation is None:
            return total, parts
        # Its gradient goes where that of the embeddings goes; the other objectives of the method stay as they are.
        copying, more = self.distillation.loss(torch.cat(embeddings), torch.from_numpy(np.concatenate(rows)))
        return total + copying, parts | more

    def batch(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Augmented images (P * K, 3, H, W), or one of the cached views of each, (P * K, C, h, w)."""
        if not self.config.net.cached:
            return augment(images, rng, self.config.augment)
        views = rng.integers(images.shape[1], size=len(images))
        return images[torch.arange(len(images)), torch.from_numpy(views)].float()

    def validate(self, epoch: int) -> Row:
        """Scores of the averaged weights on the held-out people or crops, every `validate_every` epochs."""
        if not self.is_due(epoch, self.config.schedule.validate_every):
            return {}
        row: Row = {}
        embedder = TorchEmbedder(self.average, self.config.data.height, self.config.data.width)
        if has_pairs(self.held_set):
            if self.held_images is None:
                embeddings = embed_samples(embedder, self.held_set)
            else:
                embeddings = embed_images(embedder, self.held_images)
            scores = rank_held_out(embeddings, self.held_set)
            row |= {"held_out_rank1": scores.rank1, "held_out_map": scores.mean_ap}
        if self.distillation is not None and len(self.held_crops):
            embedded = torch.from_numpy(embed_samples(embedder, self.held_crops)).to(self.me.device)
            rows = len(self.train_set) + len(self.crops) + torch.arange(len(embedded))
            with torch.no_grad():
                _, parts = self.distillation.loss(embedded, rows)
            row |= {f"held_out_{key}": value for key, value in parts.items()}
        return row

    def snapshot(self) -> dict[str, Any]:
        return {
            "config": to_dict(self.config),
            "n_classes": self.n_classes,
            "method": self.method.state_dict(),
            "ema": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "n_crops": len(self.crops),
            "map": None if self.distillation is None else self.distillation.map.state_dict(),
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
        if self.distillation is not None:
            fill(self.distillation.map, state["map"], path)
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
