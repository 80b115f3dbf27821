"""The training loop. Everything random comes from (seed, epoch, index), so a resumed run continues to the bit."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from reid_training.devices import find_device
from reid_training.errors import ConfigError, ModelError
from reid_training.runs import Row, replace_file, write_log
from reid_training.train import AUTOCAST, update_average
from tools.detector_training.ap import Found, curve, match
from tools.detector_training.config import RunConfig, ScheduleConfig, from_dict
from tools.detector_training.imitation import FeatureTeacher, Imitation
from tools.detector_training.loss import Truth, detection_loss
from tools.detector_training.net import PersonNet, cells, n_parameters
from tools.detector_training.predict import TorchDetector
from tools.detector_training.runs import CHECKPOINT, RESUMABLE, draw, fill, load_checkpoint, save_checkpoint
from tools.detector_training.scenes import Scenes, Stock, collate, cut_people, plan_batches, read_sources
from tools.detector_training.teacher import read_opinions, taught
from tracker.settings import to_dict, to_toml

logger = logging.getLogger(__name__)

CACHE = "cache"


def train(
    config: RunConfig,
    data: Path,
    out: Path,
    *,
    cache: Path | None = None,
    start: Path | None = None,
    until: int | None = None,
    resume: bool = False,
) -> list[Row]:
    """Train on the sources of the config, which lie in `data`; everything is written to `out`.

    start: a run whose averaged weights this one begins with. until: stop after so many epochs of the schedule. resume:
    continue the run in `out`; its config may have changed, but for the network.
    """
    torch.set_num_threads(config.schedule.threads)
    run = Run(config, data, out, cache=cache or out / CACHE, start=start, resume=resume)
    return run.train(config.schedule.epochs if until is None else min(until, config.schedule.epochs))


class Run:
    """What a run keeps between its epochs."""

    def __init__(
        self, config: RunConfig, data: Path, out: Path, *, cache: Path, start: Path | None, resume: bool
    ) -> None:
        if not config.sources:
            raise ConfigError("the config names no sources: nothing to train on")
        if not resume and (out / CHECKPOINT).exists():
            raise ConfigError(f"{out} holds a run already; give --resume or another --out")
        self.config, self.out = config, out
        self.device = find_device(config.schedule.device)
        found = read_sources(config.sources, data)
        if config.teacher.file:
            opinions = read_opinions(data / config.teacher.file)
            for name, (chosen, out_of) in found.items():
                found[name] = (taught(chosen, config.sources[name], opinions, data, config.teacher), out_of)
        pictures = [(picture, config.sources[name]) for name, (train, _) in found.items() for picture in train]
        held = [(picture, name) for name, (_, out_of) in found.items() for picture in out_of]
        side = config.scenes.cached_side
        self.stock = Stock([picture for picture, _ in pictures], [source for _, source in pictures], cache, side)
        sources = [config.sources[name] for _, name in held]
        self.held = Stock([picture for picture, _ in held], sources, cache, side) if held else None
        self.held_names = [name for _, name in held]
        self.cuts = cut_people([picture for picture, _ in pictures], max(config.scenes.heights))
        logger.info("%d people to paste", len(self.cuts))

        torch.manual_seed(config.seed)  # initial weights; nothing after this line draws from torch's generator
        self.net = PersonNet(config.net)
        if start is not None and not resume:
            fill(self.net, load_checkpoint(start)["ema"], start)
        self.net.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.net).eval()
        self.teacher, self.imitation = self.open_teacher(data)
        trained = nn.ModuleList([self.net, self.imitation] if self.imitation else [self.net])
        self.optimiser = torch.optim.AdamW(parameter_groups(trained, config.schedule))
        self.history: list[Row] = []
        if resume:
            self.restore(out / CHECKPOINT)
        logger.info("%d parameters, on %s", n_parameters(self.net), self.device)

    def open_teacher(self, data: Path) -> tuple[FeatureTeacher | None, Imitation | None]:
        """The network whose features are imitated, and what compares the two."""
        config, schedule = self.config.teacher, self.config.schedule
        if not config.network:
            return None, None
        teacher = FeatureTeacher(data / config.network, config.features, self.out, self.device.type, schedule.threads)
        return teacher, Imitation(self.config.net.width, teacher.channels).to(self.device)

    def train(self, until: int) -> list[Row]:
        """The epochs up to `until` that are not done yet. Returns the rows of all."""
        replace_file(self.out / "config.toml", lambda stream: stream.write(to_toml(self.config).encode()))
        for epoch in range(len(self.history), until):
            row = self.epoch(epoch)
            row |= self.validate(epoch)
            self.history.append(row)
            logger.info("%s", "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
            save_checkpoint(self.out / CHECKPOINT, self.snapshot())
            write_log(self.out, self.history)
            if "val_ap" in row or epoch + 1 == until:
                draw(self.history, self.out / "curve.png")
        return self.history

    def epoch(self, epoch: int) -> Row:
        """Returns its row of the log."""
        schedule, scenes = self.config.schedule, self.config.scenes
        n_steps = schedule.steps_per_epoch
        batches = self.batches(epoch)
        if epoch == schedule.batch_norm_epochs:
            logger.info("measuring the statistics of the batch norms, which stay from here on")
            self.net.load_state_dict(self.average.state_dict())
            measure_norms(self.net, (self.pixels(images) for images, _ in batches))
            self.average.load_state_dict(self.net.state_dict())
        places = {size: cells(*size, self.device) for size in zip(scenes.heights, scenes.widths, strict=True)}
        started, sums, n_done, n_pixels = time.perf_counter(), dict[str, float](), 0, 0
        self.net.train()
        if schedule.batch_norm_epochs is not None and epoch >= schedule.batch_norm_epochs:
            for norm in norms(self.net):
                norm.eval()
        title = f"epoch {epoch + 1}/{schedule.epochs}"
        with tqdm(
            batches, desc=title, total=n_steps, unit=" batches", leave=False, dynamic_ncols=True, disable=None
        ) as bar:
            for index, (images, truth) in enumerate(bar):
                step = epoch * n_steps + index
                rate = learning_rate(step, n_steps, schedule)
                loss, parts = self.step(images, truth, places[images.shape[1:3]], step, rate)
                if not math.isfinite(loss):
                    raise ModelError(f"the loss became {loss} in epoch {epoch + 1}; lower schedule.learning_rate")
                n_done += len(images)
                n_pixels += images[..., 0].numel()
                for key, value in {"loss": loss, **parts}.items():
                    sums[key] = sums.get(key, 0.0) + value
                if (index + 1) % 50 == 0:  # what a log file shows, where there is no bar
                    speed = n_done / (time.perf_counter() - started)
                    logger.debug("%s, batch %d/%d: loss %.3f, %.1f images/s", title, index + 1, n_steps, loss, speed)
        row: Row = {"epoch": epoch + 1, "learning_rate": rate}
        row |= {key: value / n_steps for key, value in sums.items()}
        row["images_per_s"] = n_done / (time.perf_counter() - started)
        row["megapixels_per_s"] = n_pixels / 1e6 / (time.perf_counter() - started)
        return row

    def batches(self, epoch: int) -> Iterable[tuple[Tensor, Truth]]:
        """Of an epoch: pictures (B, H, W, 3) uint8 and their people."""
        schedule, scenes = self.config.schedule, self.config.scenes
        plain = epoch >= schedule.epochs - schedule.plain_epochs
        return DataLoader(
            Scenes(self.stock, self.cuts, scenes, self.config.seed, epoch, plain=plain),
            batch_sampler=plan_batches(
                scenes, schedule.steps_per_epoch, schedule.batch_pixels, self.config.seed, epoch
            ),
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            num_workers=schedule.loaders,
            # Its own: a loader draws a number from torch's generator for its processes.
            generator=torch.Generator().manual_seed(0),
        )

    def pixels(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 on the device; this is channels_last already."""
        return images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()

    def step(self, images: Tensor, truth: Truth, places: Any, step: int, rate: float) -> tuple[float, dict[str, float]]:
        """One batch, one step of the optimiser. images (B, H, W, 3) uint8. Returns the loss and its parts."""
        schedule = self.config.schedule
        batch = self.pixels(images)
        dtype = AUTOCAST.get(schedule.precision)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            features = self.net.features(batch)
            logits, distances = self.net.read(features)
        loss, parts = detection_loss(logits, distances, truth.to(self.device), places, self.config.loss)
        if self.teacher is not None and self.imitation is not None:
            unlike = self.imitation(features, [found.to(self.device) for found in self.teacher(images)])
            loss = loss + self.config.teacher.feature_weight * unlike
            parts |= {"feature_loss": float(unlike.detach())}
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), schedule.clip_norm)
        self.optimiser.step()
        update_average(self.average, self.net, schedule.ema_decay, step)  # type: ignore[arg-type]  # any two alike
        return float(loss.detach()), parts

    def validate(self, epoch: int) -> Row:
        """Average precision of the averaged weights on the pictures held out: of all, and of each source."""
        schedule = self.config.schedule
        due = (epoch + 1) % schedule.validate_every == 0 or epoch + 1 == schedule.epochs
        if self.held is None or not due:
            return {}
        values: dict[str, float] = {}
        for side in schedule.validate_sides:
            detector = TorchDetector(self.average, side)
            found: dict[str, list[Found]] = {name: [] for name in self.held_names}
            for row, name in enumerate(self.held_names):
                boxes, scores = detector(np.ascontiguousarray(self.held.image(row)))
                found[name].append(match(boxes, scores, self.held.boxes[row], self.held.ignored[row]))
            suffix = f"_{side}" if len(schedule.validate_sides) > 1 else ""
            values[f"val_ap{suffix}"] = curve([item for items in found.values() for item in items]).ap
            values |= {f"val_ap{suffix}_{name}": curve(items).ap for name, items in found.items()}
        return {key: value for key, value in values.items() if not math.isnan(value)}

    def snapshot(self) -> dict[str, Any]:
        return {
            "config": to_dict(self.config),
            "net": self.net.state_dict(),
            "ema": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "imitation": self.imitation.state_dict() if self.imitation else {},
            "history": self.history,
        }

    def restore(self, path: Path) -> None:
        """Weights, averages, the optimiser's state and the epochs already done, from the last checkpoint."""
        state = load_checkpoint(path, RESUMABLE)
        if from_dict(state["config"], str(path)).net != self.config.net:
            raise ModelError(f"{path} holds another network than the config.toml beside it")
        fill(self.net, state["net"], path)
        fill(self.average, state["ema"], path)
        if self.imitation is not None:
            fill(self.imitation, state.get("imitation", {}), path)
        self.optimiser.load_state_dict(state["optimiser"])
        self.history = list(state["history"])


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


@torch.no_grad()
def measure_norms(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Statistics of the batch norms: the mean over the batches, with the weights as they are now."""
    net.train()
    momenta = [norm.momentum for norm in norms(net)]
    for norm in norms(net):
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all
    for batch in batches:
        net(batch)
    for norm, momentum in zip(norms(net), momenta, strict=True):
        norm.momentum = momentum


def learning_rate(step: int, steps_per_epoch: int, schedule: ScheduleConfig) -> float:
    """Linear from 0 over the warm-up, then constant; half a cosine down to 0 over the last `decay_epochs`."""
    warmup, decay = (n * steps_per_epoch for n in (schedule.warmup_epochs, schedule.decay_epochs))
    if step < warmup:
        return schedule.learning_rate * (step + 1) / warmup
    left = schedule.epochs * steps_per_epoch - step
    if left >= decay:
        return schedule.learning_rate
    return schedule.learning_rate * 0.5 * (1.0 - math.cos(math.pi * left / decay))


def parameter_groups(net: nn.Module, schedule: ScheduleConfig) -> list[dict[str, Any]]:
    """Biases and BN scales do not decay: they hold means and scales."""
    weights = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    return [
        {"params": weights, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
