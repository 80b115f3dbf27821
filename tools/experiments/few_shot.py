"""Experiment of the large margin: few-shot accuracy on unseen classes, with and without it, for two trained bases.

Large Margin Few-Shot Learning. Wang et al. 2018, https://arxiv.org/abs/1807.02872: its numbers were not available to
us. Matching Networks for One Shot Learning. Vinyals et al. NIPS 2016, https://arxiv.org/abs/1606.04080: Omniglot at
28x28, every character in four rotations that count as four classes; 4112 classes to train on, 688 to validate, 1692 to
test. CIFAR-FS: see `cifar100`, 64, 16 and 20 classes at 32x32. Pictures are not augmented.

Baseline and method start from the same weights, see the same episodes, take the same steps, and are tested on the same
episodes; the baseline's margin has weight 0. Bases train as their authors' code has it: prototypes 60-way on Omniglot
for 10,000 episodes, the rate halved every 2000 (20-way on CIFAR-FS, for 6000); a graph with the ways and shots of its
test. One prototypical network of each set serves all of its tests. An image is embedded once: with running statistics
its embedding is the same in all episodes.

Weight and margin are chosen for each network from CANDIDATES, by the accuracy on the validation classes: the first seed
trains them all to the end, the other seeds the best one. No network sees a validation class in training. Accuracy on
the validation classes over the training, in the files of the runs, shows whether it has converged.

Also reported: the class-distance ratio of the unseen classes (see `evaluate`), which a margin should raise; it is 100
where the nearest other class is as far as a class is wide.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import statistics
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from reid_training.data.base import ByteArray, IntArray
from reid_training.data.samplers import Range, episodes
from reid_training.errors import DataError
from reid_training.evaluate import FloatArray, class_distance_ratio, mean_and_interval
from reid_training.methods.large_margin_few_shot import LargeMarginFewShot, LargeMarginFewShotConfig
from reid_training.nets.conv4 import conv4_flat
from tools.experiments import cifar100, results
from tools.experiments.catalogue import ROLES
from tools.experiments.table import Comparison

NAME = "large_margin_few_shot"
TITLE = "Large margin few-shot learning against its bases"
CLAIM = "not available (the abstract claims gains over both bases)"
SIDE_PX = 28  # of Omniglot; Vinyals et al., section 4.1.1
OMNIGLOT, CIFAR = "omniglot (Vinyals)", "CIFAR-FS"
DRAWN = " (drawn)"
N_CURVE = 10  # points of the validation accuracy over the training
# (weight, margin / mean squared distance between prototypes before training).
CANDIDATES = ((0.1, 0.2), (1.0, 0.2), (1.0, 1.0))


@dataclass(frozen=True, slots=True)
class Setting:
    """Of one trained network and its tests."""

    data: str
    base: str
    shots: int  # of training
    way: int  # of training
    tests: tuple[tuple[int, int], ...]  # (way, shots)
    n_queries: int  # of an episode, over all of its classes
    n_test_queries: int
    n_episodes: int  # of a step
    n_steps: int
    margin_weight: float = 0.0
    margin_share: float = 0.0  # margin / mean squared distance between prototypes before training
    margin_on: str = "prototypes"
    learning_rate: float = 1e-3  # Adam; both bases' code
    n_halvings: int = 4  # of the learning rate, evenly over the steps; Snell et al.: every 2000 episodes
    n_test_episodes: int = 600
    n_validated: int = 200  # episodes of a test on validation classes
    n_filters: int = 32  # half of the bases': a third of the time
    hidden: int = 32  # of a graph. Its paper's code has 96

    @property
    def key(self) -> str:
        return f"{self.base} {self.way}-way {self.shots}-shot"


# With 32 filters a step of 360 pictures of 28x28 takes 0.1 s of one core. Earlier runs of 150 steps chose on
# validation: for a graph a margin on the embeddings, since one on the nodes kept it near chance.
SETTINGS = (
    Setting(OMNIGLOT, "prototypes", 1, 60, ((5, 1), (20, 1), (5, 5), (20, 5)), 300, 75, 1, 10_000),
    Setting(OMNIGLOT, "graph", 1, 5, ((5, 1),), 5, 10, 10, 4000),
    Setting(OMNIGLOT, "graph", 5, 5, ((5, 5),), 5, 10, 10, 2500),
    Setting(CIFAR, "prototypes", 1, 20, ((5, 1), (5, 5)), 100, 75, 1, 6000),
    Setting(CIFAR, "graph", 1, 5, ((5, 1),), 5, 10, 10, 4000),
)


@dataclass(frozen=True, slots=True)
class Classes:
    pictures: ByteArray  # (C, n, channels, side, side): n images of each class; characters have ink 255

    @property
    def labels(self) -> IntArray:
        """(C * n,) of the images one after another."""
        return np.repeat(np.arange(self.pictures.shape[0], dtype=np.int64), self.pictures.shape[1])

    def images(self, rows: IntArray) -> Tensor:
        """(B, channels, side, side) in [0, 1]."""
        flat = self.pictures.reshape(-1, *self.pictures.shape[2:])
        return torch.from_numpy(flat[rows]).float() / 255.0


@dataclass(frozen=True, slots=True)
class Parts:
    known: Classes  # to train on
    validation: Classes
    unseen: Classes


@dataclass(frozen=True, slots=True)
class Result:
    accuracy: Mapping[str, float]  # "5-way 1-shot": mean over episodes of unseen classes
    interval: Mapping[str, float]  # half of its 95 % confidence interval
    ratio: float  # class-distance ratio of the unseen classes
    validation: Mapping[str, float]  # as `accuracy`, of the validation classes
    curve: tuple[float, ...]  # the first test on validation classes after each tenth of the steps
    margin: float
    seconds: float  # processor time of training


@dataclass(frozen=True, slots=True)
class Task:
    """A few-shot task as rows of a table of images."""

    support: IntArray  # (N * K,)
    support_classes: IntArray  # 0 .. N - 1
    queries: IntArray  # (M,)
    query_classes: IntArray


def run(data: Path, out: Path, seeds: Sequence[int], jobs: int) -> list[Comparison]:
    """Rows of the table; one file for each network and seed in `out`, and existing ones are not repeated."""
    return _run_all(SETTINGS, data, out, seeds, jobs)


def run_reduced(out: Path, seeds: Sequence[int], jobs: int) -> list[Comparison]:
    """Made-up classes, tiny networks, few steps: shows that the code works, not how good the method is."""
    small = [
        dataclasses.replace(
            setting,
            data=setting.data + DRAWN,
            way=min(setting.way, 10),
            n_steps=2,
            n_episodes=1,
            n_queries=10,
            n_test_queries=10,
            n_test_episodes=5,
            n_validated=5,
            n_filters=8,
            hidden=4,
        )
        for setting in SETTINGS
    ]
    return _run_all(small, None, out, seeds, jobs)


def _run_all(
    settings: Sequence[Setting], source: Path | None, out: Path, seeds: Sequence[int], jobs: int
) -> list[Comparison]:
    of_first = [(one, seeds[0]) for setting in settings for one in candidates(setting)]
    done = _complete([*of_first, *((one, seed) for one in settings for seed in seeds)], source, out, jobs)
    best = {one: max(candidates(one), key=lambda tried: _validated(done[tried, seeds[0]])) for one in settings}
    done |= _complete([(one, seed) for one in best.values() for seed in seeds], source, out, jobs)
    rows: list[Comparison] = []
    for baseline, method in best.items():
        found = {role: [done[one, seed] for seed in seeds] for role, one in zip(ROLES, (baseline, method), strict=True)}
        rows += _rows(method, found)
    return rows


def candidates(setting: Setting) -> list[Setting]:
    return [dataclasses.replace(setting, margin_weight=weight, margin_share=share) for weight, share in CANDIDATES]


def _validated(result: Result) -> float:
    return statistics.fmean(result.validation.values())


def _complete(
    asked: Sequence[tuple[Setting, int]], source: Path | None, out: Path, jobs: int
) -> dict[tuple[Setting, int], Result]:
    """The results of settings and seeds; those without a file are run first."""
    todo = [(source, _file(out, one, seed), one, seed) for one, seed in asked if not _file(out, one, seed).is_file()]
    for data in dict.fromkeys(one.data for _, _, one, _ in todo):
        _read_once(source, data)  # bad data is an error before any process starts
    results.run_all(_run, todo, jobs)
    return {(one, seed): results.read(Result, _file(out, one, seed)) for one, seed in asked}


def _rows(setting: Setting, found: Mapping[str, Sequence[Result]]) -> list[Comparison]:
    def row(measure: str, values: Mapping[str, tuple[float, ...]]) -> Comparison:
        seconds = (tuple(result.seconds for result in found[role]) for role in ROLES)
        return Comparison(NAME, TITLE, CLAIM, setting.data, measure, *(values[role] for role in ROLES), *seconds)

    chosen = f"weight {setting.margin_weight:g}, margin {setting.margin_share:g} of the prototypes' distance"
    rows = []
    for tested in (name_of(*test) for test in setting.tests):
        width = statistics.fmean(result.interval[tested] for role in ROLES for result in found[role])
        title = f"{setting.base} {tested} (95 %: ±{100 * width:.1f}, {setting.n_test_episodes} tasks; {chosen})"
        rows.append(row(title, {role: tuple(result.accuracy[tested] for result in found[role]) for role in ROLES}))
    ratios = {role: tuple(result.ratio for result in found[role]) for role in ROLES}
    return [*rows, row(f"{setting.key}, class-distance ratio", ratios)]


def name_of(way: int, shots: int) -> str:
    return f"{way}-way {shots}-shot"


def _file(out: Path, setting: Setting, seed: int) -> Path:
    """Named by everything that decides its content, except the code."""
    facts = results.digest(dataclasses.asdict(setting))
    words = "".join(letter if letter.isalnum() else "_" for letter in f"{setting.data} {setting.key}".lower())
    return out / f"{words}-{facts}-{seed}.json"


def _run(source: Path | None, file: Path, setting: Setting, seed: int) -> None:
    torch.set_num_threads(1)
    results.write(file, run_one(_read_once(source, setting.data), setting, seed))


def run_one(parts: Parts, setting: Setting, seed: int) -> Result:
    """Train on the known classes, score on the others."""
    method = new_method(parts.known, setting, seed)
    curve, seconds = [], 0.0
    started = time.process_time()
    for step in train(method, parts.known, setting, seed):
        if (step + 1) % max(1, setting.n_steps // N_CURVE) == 0:
            seconds += time.process_time() - started
            asked = dataclasses.replace(setting, tests=setting.tests[:1])
            ((reached, _),) = scores(method, parts.validation, asked, setting.n_validated, seed).values()
            curve.append(reached)
            started = time.process_time()
    validated = scores(method, parts.validation, setting, setting.n_validated, seed)
    found = scores(method, parts.unseen, setting, setting.n_test_episodes, seed)
    accuracy, interval = ({tested: pair[i] for tested, pair in found.items()} for i in range(2))
    ratio = class_distance_ratio(embed(method, parts.unseen).numpy(), parts.unseen.labels)
    validation = {tested: mean for tested, (mean, _) in validated.items()}
    return Result(accuracy, interval, ratio, validation, tuple(curve), method.config.margin, seconds)


def scores(
    method: LargeMarginFewShot, classes: Classes, setting: Setting, n: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Mean accuracy and half of its interval of each test, over `n` episodes. Puts the method back as it was."""
    training = method.training
    points = embed(method.eval(), classes)
    found = {
        name_of(way, shots): mean_and_interval(test(method, points, classes.labels, setting, way, shots, n, seed))
        for way, shots in setting.tests
    }
    method.train(training)
    return found


def new_method(known: Classes, setting: Setting, seed: int) -> LargeMarginFewShot:
    """Weights of the start. The margin is in proportion to the distances that they give."""
    torch.manual_seed(seed)
    n_channels, side = known.pictures.shape[2:4]
    net = conv4_flat(n_channels, setting.n_filters)
    size = setting.n_filters * (side // 16) ** 2
    if setting.base == "graph":
        net.append(nn.Linear(size, setting.n_filters))  # as its authors' code has it
        size = setting.n_filters
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third of the time, on a CPU
    share = setting.margin_share
    config = LargeMarginFewShotConfig(
        base=setting.base,
        shots=setting.shots,
        way=setting.way,
        scale=0.0,
        margin_weight=setting.margin_weight,
        margin=share * prototype_distance(net, known, setting, seed) if share else 1.0,
        margin_on=setting.margin_on,
        hidden=setting.hidden,
    )
    return LargeMarginFewShot(net, size, config)


def prototype_distance(net: nn.Module, known: Classes, setting: Setting, seed: int) -> float:
    """Mean squared distance between the class means of one episode, with the statistics of this batch."""
    rng = np.random.default_rng([seed, 0])
    (episode,) = episodes(known.labels, 1, setting.way, setting.shots, 1, rng)
    with torch.no_grad():  # of a copy: a pass in training mode moves the running statistics
        points = copy.deepcopy(net).train()(known.images(episode.support.reshape(-1)))
    means = points.view(setting.way, setting.shots, -1).mean(1)
    return float(torch.pdist(means).square().mean())


def train(method: LargeMarginFewShot, known: Classes, setting: Setting, seed: int) -> Iterator[int]:
    """Yields the number of each step after it."""
    optimiser = torch.optim.Adam(method.parameters(), lr=setting.learning_rate, fused=True)
    every = max(1, -(-setting.n_steps // (setting.n_halvings + 1)))
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, every, gamma=0.5)
    rng = np.random.default_rng([seed, 1])
    n = setting.n_steps * setting.n_episodes
    drawn = tasks(known.labels, n, setting.way, setting.shots, setting.n_queries, rng)
    method.train()
    for step in range(setting.n_steps):
        rows, labels = one_batch([next(drawn) for _ in range(setting.n_episodes)], setting.way)
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):  # of the convolutions alone; takes half the time
            total = method.loss(known.images(rows), labels).total
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        yield step
    method.eval()


def tasks(
    labels: IntArray, n: int, way: int, shots: int | Range, n_queries: int, rng: np.random.Generator
) -> Iterator[Task]:
    """`n` tasks with `n_queries` queries, spread over the classes as evenly as possible."""
    for episode in episodes(labels, n, way, shots, -(-n_queries // way), rng):
        n_classes, n_shots = episode.support.shape
        classes = np.arange(n_classes)
        # One query of every class before the second of any; the last round asks for some of the classes.
        queries, query_classes = episode.queries.T.reshape(-1), np.tile(classes, episode.queries.shape[1])
        before = n_queries // n_classes * n_classes
        last = before + np.sort(rng.choice(n_classes, n_queries - before, replace=False))
        asked = np.concatenate([np.arange(before), last])
        yield Task(episode.support.reshape(-1), classes.repeat(n_shots), queries[asked], query_classes[asked])


def one_batch(drawn: Sequence[Task], way: int) -> tuple[IntArray, Tensor]:
    """Rows of images and labels (B,): `way` labels for each task, in their order, and its known images first."""
    rows = np.concatenate([part for task in drawn for part in (task.support, task.queries)])
    labels = [i * way + part for i, task in enumerate(drawn) for part in (task.support_classes, task.query_classes)]
    return rows, torch.from_numpy(np.concatenate(labels))


@torch.inference_mode()
def embed(method: LargeMarginFewShot, classes: Classes, chunk: int = 120) -> Tensor:
    """(C * n, D), as in training. Small chunks stay in the processor's cache."""
    parts = np.array_split(np.arange(len(classes.labels)), -(-len(classes.labels) // chunk))
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([method.points(classes.images(rows)) for rows in parts])


@torch.inference_mode()
def test(
    method: LargeMarginFewShot,
    points: Tensor,
    labels: IntArray,
    setting: Setting,
    way: int,
    shots: int,
    n: int,
    seed: int,
) -> FloatArray:
    """Accuracy of each of `n` episodes. The episodes are the same for both roles."""
    rng = np.random.default_rng([seed, 2, way, shots])
    found = []
    for task in tasks(labels, n, way, shots, setting.n_test_queries, rng):
        classes = torch.from_numpy(task.support_classes)
        logits = method.classify(points[task.support][None], classes[None], points[task.queries][None], way)
        found.append(float((logits[0].argmax(1).numpy() == task.query_classes).mean()))
    return np.array(found, np.float32)


def read(source: Path | None, data: str) -> Parts:
    """Classes of OMNIGLOT or CIFAR from the folder that has them; without one, generated ones."""
    shape = (3, cifar100.SIDE_PX) if data.startswith(CIFAR) else (1, SIDE_PX)
    if source is None:
        return Parts(*(generated(n, *shape, np.random.default_rng(seed)) for seed, n in enumerate((30, 24, 24))))
    if data == CIFAR:
        place = {name: i for i, name in enumerate(cifar100.CLASSES)}
        pictures = cifar100.read(source / "cifar100")
        lists = (cifar100.FS_TRAIN, cifar100.FS_VALIDATION, cifar100.FS_TEST)
        return Parts(*(Classes(pictures[[place[name] for name in names]]) for names in lists))
    folder = source / "omniglot"
    characters, names = read_pictures(folder / "omniglot_105.npz")
    lines = [folder / "splits_vinyals" / f"{part}.txt" for part in ("train", "val", "test")]
    return Parts(*(rotated(characters, names, file) for file in lines))


_read_once = functools.cache(read)  # of a process that has several runs


def read_pictures(source: Path) -> tuple[ByteArray, list[str]]:
    """(1623, 20, SIDE_PX, SIDE_PX), and the names of the characters, ALPHABET/characterNN."""
    try:
        with np.load(source, allow_pickle=False) as arrays:
            packed, characters = arrays["packed"], arrays["char"]
            height, width = (int(n) for n in arrays["shape"])
            names = [str(name) for name in arrays["char_names"]]
    except FileNotFoundError:
        raise DataError(f"no file {source}; --data names the folder that omniglot/ lies in") from None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{source} is not Omniglot in the layout expected, or it is damaged: {error}") from None
    counts = np.bincount(characters, minlength=len(names))
    if len(set(counts.tolist())) != 1:
        raise DataError(f"{source}: every character needs as many images, there are {counts.min()} to {counts.max()}")
    small = np.empty((len(packed), SIDE_PX, SIDE_PX), np.uint8)
    for place, row in enumerate(np.argsort(characters, kind="stable")):
        ink = np.unpackbits(packed[row])[: height * width].reshape(height, width)
        small[place] = cv2.resize(255 * ink, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    return small.reshape(len(names), -1, SIDE_PX, SIDE_PX), names


def rotated(pictures: ByteArray, names: Sequence[str], source: Path) -> Classes:
    """The classes that a file lists, one a line: ALPHABET/characterNN/rotDDD."""
    place = {name: i for i, name in enumerate(names)}
    try:
        lines = source.read_text(encoding="utf-8").split()
        chosen = [line.rsplit("/rot", 1) for line in lines]
        turned = [np.rot90(pictures[place[name]], int(degrees) // 90, axes=(1, 2)) for name, degrees in chosen]
    except FileNotFoundError:
        raise DataError(f"no file {source}; it lists the classes of Vinyals' split") from None
    except (ValueError, KeyError) as error:
        raise DataError(f"{source}: a line is not ALPHABET/characterNN/rotDDD of a known character: {error}") from None
    if not turned:
        raise DataError(f"{source} lists no class")
    return Classes(np.stack(turned)[:, :, None])


def generated(n_classes: int, n_channels: int, side_px: int, rng: np.random.Generator) -> Classes:
    """Coarse patterns, one for each class, under noise."""
    patterns = rng.integers(0, 2, (n_classes, 1, n_channels, side_px // 4, side_px // 4), dtype=np.uint8)
    noise = rng.integers(0, 100, (n_classes, 20, n_channels, side_px, side_px), dtype=np.uint8)
    return Classes(155 * patterns.repeat(4, 3).repeat(4, 4) + noise)
