"""The training loop. Everything random comes from (seed, epoch), so a resumed run continues to the bit."""

from __future__ import annotations

import bisect
import copy
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from reid_training.config import RunConfig, ScheduleConfig, from_dict, to_dict, to_toml
from reid_training.data.base import Dataset, check_trainable, has_pairs, read_images, split_identities
from reid_training.data.samplers import pk_batches
from reid_training.data.transforms import augment
from reid_training.distil import Teacher
from reid_training.embedders import TorchEmbedder, embed_images
from reid_training.errors import ConfigError, ModelError
from reid_training.evaluate import rank_held_out
from reid_training.methods.base import Method
from reid_training.runs import (
    CHECKPOINT,
    EventLog,
    Row,
    fill,
    load_checkpoint,
    new_method,
    replace_file,
    save_checkpoint,
    write_log,
)

logger = logging.getLogger(__name__)


def train(config: RunConfig, dataset: Dataset, out: Path, *, resume: bool = False) -> list[Row]:
    """Train on the people of `dataset.train` that are not held out; everything is written to `out`."""
    schedule = config.schedule
    torch.set_num_threads(schedule.threads)
    train_set, held_set = split_identities(dataset.train, config.data.val_fraction, config.seed)
    check_trainable(train_set, f"{dataset.name}, training part")
    images = read_images(train_set, config.data.height, config.data.width)  # (N, H, W, 3)
    held_images = read_images(held_set, config.data.height, config.data.width)
    people, labels = np.unique(train_set.pids, return_inverse=True)  # pids -> 0 .. n_classes - 1

    torch.manual_seed(config.seed)  # initial weights; nothing after this line draws from torch's generator
    method = new_method(config, len(people), start=not resume)
    method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs miss it on Module
    average = copy.deepcopy(method).eval()
    teacher = Teacher(Path(config.distil.teacher), config.distil.weight) if config.distil.teacher else None
    optimiser = torch.optim.AdamW(parameter_groups(method, schedule.weight_decay), lr=schedule.learning_rate)
    history: list[Row] = []
    if resume:
        history = restore(out / CHECKPOINT, config, len(people), method, average, optimiser)
    elif (out / CHECKPOINT).exists():
        raise ConfigError(f"{out} holds a run already; give --resume or another --out")
    replace_file(out / "config.toml", lambda stream: stream.write(to_toml(config).encode()))
    logger.info(
        "%d images of %d people; %d images of %d people held out",
        *(len(train_set), len(people), len(held_set), len(np.unique(held_set.pids))),
    )

    with EventLog(out, history) as events:
        for epoch in range(len(history), schedule.epochs):
            started, sums, n_batches = time.perf_counter(), dict[str, float](), 0
            rng = np.random.default_rng([config.seed, 2, epoch])
            batches = list(pk_batches(train_set.pids, config.data.n_ids, config.data.n_per_id, rng))
            method.train()
            title = f"epoch {epoch + 1}/{schedule.epochs}"
            # Only where stderr is a terminal; gone before the epoch's line, and before a message about an error.
            with tqdm(batches, desc=title, unit=" batches", leave=False, dynamic_ncols=True, disable=None) as bar:
                for index, rows in enumerate(bar):
                    step = epoch * len(batches) + index
                    rate = learning_rate(step, len(batches), schedule)
                    for group in optimiser.param_groups:
                        group["lr"] = rate
                    batch = augment(images[rows], rng, config.augment)  # (P * K, 3, H, W)
                    with torch.autocast("cpu", torch.bfloat16, enabled=schedule.precision == "bf16"):
                        # Its own generator: no miner changes the augmentation.
                        draws = np.random.default_rng([config.seed, 3, step])
                        loss = method.loss(batch, torch.from_numpy(labels[rows]), draws)
                    if teacher is not None:
                        loss = teacher.add_to(loss, batch)
                    optimiser.zero_grad()
                    loss.total.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    update_average(average, method, schedule.ema_decay, step)

                    total = float(loss.total.detach())
                    if not math.isfinite(total):
                        raise ModelError(f"the loss became {total} in epoch {epoch + 1}; lower schedule.learning_rate")
                    n_batches += 1
                    for key, value in {"loss": total, **loss.parts}.items():
                        sums[key] = sums.get(key, 0.0) + value

            row: Row = {"epoch": epoch + 1, "learning_rate": rate}
            row |= {key: value / n_batches for key, value in sums.items()}
            row["images_per_s"] = len(batches) * len(rows) / (time.perf_counter() - started)
            last = epoch + 1 == schedule.epochs
            if has_pairs(held_set) and (last or (epoch + 1) % schedule.validate_every == 0):
                embedder = TorchEmbedder(average, config.data.height, config.data.width)
                scores = rank_held_out(embed_images(embedder, held_images), held_set)
                row |= {"held_out_rank1": scores.rank1, "held_out_map": scores.mean_ap}
            history.append(row)
            events.add(row)
            logger.info("%s", "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
            if last or (epoch + 1) % schedule.checkpoint_every == 0:
                save_checkpoint(out / CHECKPOINT, snapshot(config, len(people), method, average, optimiser, history))
                write_log(out, history)
    return history


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


def parameter_groups(method: Method, weight_decay: float) -> list[dict[str, Any]]:
    """Biases and BN scales do not decay: they hold means and scales, not features."""
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


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


def snapshot(
    config: RunConfig,
    n_classes: int,
    method: Method,
    average: Method,
    optimiser: torch.optim.Optimizer,
    history: list[Row],
) -> dict[str, Any]:
    return {
        "config": to_dict(config),
        "n_classes": n_classes,
        "method": method.state_dict(),
        "ema": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "history": history,
    }


def restore(
    path: Path,
    config: RunConfig,
    n_classes: int,
    method: Method,
    average: Method,
    optimiser: torch.optim.Optimizer,
) -> list[Row]:
    """Weights, averages and the optimiser's state from the last checkpoint; returns the epochs already done."""
    state = load_checkpoint(path)
    if from_dict(state["config"], str(path)) != from_dict(to_dict(config)):
        raise ModelError(f"{path} was trained with other settings; resume needs the config.toml beside it")
    if state["n_classes"] != n_classes:
        raise ModelError(f"{path} was trained on {state['n_classes']} people, the data has {n_classes}")
    fill(method, state["method"], path)
    fill(average, state["ema"], path)
    optimiser.load_state_dict(state["optimiser"])
    return list(state["history"])
