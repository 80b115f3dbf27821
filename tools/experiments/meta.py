"""Experiment of the meta metric learner: tasks of many domains, with classes or domains not used in training.

Few-shot Learning with Meta Metric Learners. Cheng, Yu, Guo, Zhou. NIPS 2017 Meta-Learning workshop, arXiv 1901.09890.
Its point is a metric for each task where domains differ. Pictures: see `picture_domains`; one network reads alphabets,
digits, clothes and superclasses of CIFAR-100, each of these four as often. The paper's other data are texts: if
CLINC150 is there (see `texts`), its domains and intents are used in the same way. A task is some classes of one domain,
each with a few items to learn from and five to judge.

Two networks see the same tasks and start from the same weights: a matching network, by cosine, and the meta metric
learner, whose last layer is fitted to each task by its learned rule. The matching network is scored as it is, by the
nearest class mean and by the nearest item on its features, and fine-tuned to each task with the same number of steps,
at the rate (0 included) that is best on validation tasks of that kind. The meta metric learner is also scored without
its updates.

Tasks with one item per class give no gradient: they are fitted to auxiliary tasks from three of the training domains.
In training these are drawn from the task's own collection where it has other domains. In the test their own metrics are
compared on the task's items and on copies of them (pictures rotated a little, texts without a word) and the best are
chosen; a second test with random ones shows the value of that choice.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from reid_training.data.base import IntArray
from reid_training.data.samplers import Range, episodes
from reid_training.methods.meta_metric import MetaMetric, MetaMetricConfig
from reid_training.nets.heads import unit_rows
from tools.experiments import picture_domains, results, texts
from tools.experiments.catalogue import ROLES
from tools.experiments.picture_domains import Domains, Parts
from tools.experiments.table import Comparison

NAME = "meta_metric"
TITLE = "Meta metric learner against its matching network"
CLAIM = "1-/5-shot: Omniglot 95.79/98.83 against 95.84/98.65, SCS 58.13/74.54 against 54.24/70.28 (digest)"
RATES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # of plain fine-tuning
MEASURES = {"five": "5 shots", "ragged": "1 to 5 shots", "one": "1 shot, auxiliary tasks"}
# What a network is scored by, beside its own attention after its own updates.
NEAREST_MEAN, NEAREST_ITEM, TUNED, UNADAPTED, RANDOM = "nearest_mean", "nearest_item", "tuned", "unadapted", "random"
OWN = "own"
AGAINST = {
    OWN: "",
    TUNED: ", against it fine-tuned",
    NEAREST_MEAN: ", against the nearest class mean on its features",
    NEAREST_ITEM: ", against the nearest item on its features",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """ "The recipe" is that of a public port of the rule, for 5 classes with 5 images. All other values are ours."""

    n_tasks: int = 6000  # trained on; the recipe has 50,000
    one_shot_every: int = 4  # of these tasks; the others have 1 to 5 items of each class
    n_judged: int = 300  # tasks of a seed and kind, the same for both networks
    n_validated: int = 60
    ways: Range = (3, 20)  # or as many as the domain has
    most_shots: int = 5
    n_queries: int = 5  # of each class; the recipe has 15
    steps: int = 5  # updates; the recipe has 8 passes
    n_auxiliary: int = 3  # tasks, of one for each training domain; the paper takes 10 of 175
    auxiliary_ways: int = 10
    auxiliary_shots: int = 4
    side_px: int = 32  # of pictures
    width: float = 0.5  # of conv4, and of the network for texts
    embedding_size: int = 64
    # Of the cosines, for both networks. Matching network on validation pictures, seed 0, 300 tasks, mean of MEASURES
    # in per cent: 8 59.2, 16 57.8, 32 58.8, which is no difference with 40 tasks of each kind.
    scale: float = 16.0
    learning_rate: float = 1e-3  # Adam; the recipe's
    largest_gradient: float = 0.25  # norm; the recipe's


SETTING = Setting()
TEXT_SETTING = dataclasses.replace(SETTING, ways=(3, 15))
REDUCED = dataclasses.replace(
    SETTING,
    n_tasks=4,
    one_shot_every=2,
    n_judged=4,
    n_validated=2,
    ways=(2, 4),
    most_shots=3,
    n_queries=2,
    steps=2,
    n_auxiliary=2,
    auxiliary_ways=3,
    auxiliary_shots=2,
    side_px=16,
    width=0.25,
)
Task = tuple[Tensor, Tensor]  # pooled features (N, F) and classes (N,)
Scores = dict[str, float]


@dataclass(frozen=True, slots=True)
class Source:
    """Where domains are from."""

    title: str  # in the table
    parts: Callable[[int], Parts]  # of a seed
    setting: Setting
    constants: tuple[object, ...]  # that decide the result beside the setting


@dataclass(frozen=True, slots=True)
class Auxiliaries:
    """Tasks of the training domains, one each, and the metric that a network fits to each."""

    tasks: list[Task]
    metrics: list[Tensor]  # (D, F)


@dataclass(frozen=True, slots=True)
class Result:
    """Accuracy by kind of test, measure and read-out, "new digits/five/own"; see `key`."""

    scores: Mapping[str, float]
    rates: Mapping[str, float]  # of plain fine-tuning, chosen for each kind and measure; none for the method
    seconds: float  # processor time of training


def key(kind: str, measure: str, readout: str) -> str:
    return f"{kind}/{measure}/{readout}"


def run(data: Path, out: Path, seeds: Sequence[int], jobs: int) -> list[Comparison]:
    """Rows of the table; one file for each role and seed in `out`, and existing ones are not repeated."""
    pictures = partial(picture_domains.read, data, SETTING.side_px)
    sources = [Source("pictures", pictures, SETTING, picture_domains.constants())]
    folder = data / "clinc"
    if folder.is_dir():
        sources.append(Source("CLINC150", partial(texts.read, folder), TEXT_SETTING, texts.constants()))
    else:
        print(f"experiments: {NAME} without texts: {texts.WHERE}", file=sys.stderr)
    return _run_all(sources, out, seeds, jobs)


def run_reduced(out: Path, seeds: Sequence[int], jobs: int) -> list[Comparison]:
    """Made-up domains, tiny networks, few tasks: shows that the code works, not how good the method is."""
    pictures = partial(picture_domains.generated, REDUCED.side_px)
    sources = [
        Source("pictures (drawn)", pictures, REDUCED, picture_domains.constants()),
        Source("CLINC150 (drawn)", texts.generated, REDUCED, texts.constants()),
    ]
    return _run_all(sources, out, seeds, jobs)


def _run_all(sources: Sequence[Source], out: Path, seeds: Sequence[int], jobs: int) -> list[Comparison]:
    files = [{(role, seed): _file(out, role, seed, source) for seed in seeds for role in ROLES} for source in sources]
    runs = []
    for source, of_source in zip(sources, files, strict=True):
        todo = [asked for asked, file in of_source.items() if not file.is_file()]
        if todo:
            source.parts(seeds[0])  # bad data is an error before anything runs
        runs += [(source, of_source[asked], *asked) for asked in todo]
    results.run_all(_run, runs, jobs)
    rows = []
    for source, of_source in zip(sources, files, strict=True):
        found = {role: [results.read(Result, of_source[role, seed]) for seed in seeds] for role in ROLES}
        rows += _rows(found, source.title)
    return rows


def _rows(found: dict[str, list[Result]], data: str) -> list[Comparison]:
    """Means over the kinds of tests first, then each kind."""
    kinds = list(dict.fromkeys(name.split("/")[0] for name in found["method"][0].scores))

    def row(title: str, of_kinds: Sequence[str], measure: str, role: str, readout: str, mine: str = OWN) -> Comparison:
        def values(role: str, readout: str) -> tuple[float, ...]:
            return tuple(
                statistics.fmean(result.scores[key(kind, measure, readout)] for kind in of_kinds)
                for result in found[role]
            )

        seconds = (tuple(result.seconds for result in found[one]) for one in (role, "method"))
        compared = values(role, readout), values("method", mine)
        return Comparison(NAME, TITLE, CLAIM, data, f"accuracy, {title}", *compared, *seconds)

    def rows_of(name: str, of_kinds: Sequence[str], against: Sequence[str]) -> list[Comparison]:
        rows = []
        for measure, title in MEASURES.items():
            rows += [row(f"{name}{title}{AGAINST[by]}", of_kinds, measure, "baseline", by) for by in against]
            both = f"{name}{title}, both by the nearest class mean"  # which does not prefer classes with more items
            rows.append(row(both, of_kinds, measure, "baseline", NEAREST_MEAN, NEAREST_MEAN))
            unadapted = f"{name}{title}, against itself, not adapted"
            rows.append(row(unadapted, of_kinds, measure, "method", UNADAPTED))
        return rows

    rows = rows_of("", kinds, list(AGAINST))
    rows.append(row(f"{MEASURES['one']}, against drawn ones", kinds, "one", "method", RANDOM))
    for kind in kinds:
        rows += rows_of(f"{kind}, ", [kind], (TUNED, NEAREST_MEAN))
    return rows


def _file(out: Path, role: str, seed: int, source: Source) -> Path:
    """Named by everything that decides its content, except the code."""
    facts = results.digest(dataclasses.asdict(source.setting), RATES, source.constants)
    return out / f"{source.title.split()[0].lower()}-{role}-{facts}-{seed}.json"


def _run(source: Source, file: Path, role: str, seed: int) -> None:
    torch.set_num_threads(1)
    results.write(file, run_one(source.parts(seed), role, seed, source.setting))


def run_one(parts: Parts, role: str, seed: int, setting: Setting) -> Result:
    """Train on the training domains, score each kind of test."""
    started = time.process_time()
    method = train(parts.train, new_method(parts.train, role, seed, setting), seed, setting)
    seconds = time.process_time() - started
    tasks = auxiliary_tasks(method, parts.train, setting)
    auxiliaries = fitted_auxiliaries(method, tasks)
    scores: Scores = {}
    rates: Scores = {}
    rates_of: dict[int, dict[str, float]] = {}  # several kinds share their validation tasks
    for kind, (validation, test) in parts.tests.items():
        asked = (pooled_features(method, test), test, seed, setting.n_judged, setting)
        if role == "baseline" and id(validation) not in rates_of:
            rates_of[id(validation)] = best_rates(method, tasks, validation, seed, setting)
        chosen = rates_of.get(id(validation), {})
        for measure in MEASURES:
            found = accuracies(method, auxiliaries, measure, *asked)
            if role == "baseline":
                tuned = with_rate(method, chosen[measure], setting)
                found[TUNED] = accuracies(tuned, fitted_auxiliaries(tuned, tasks), measure, *asked)[OWN]
            elif measure == "one":
                found[RANDOM] = accuracies(method, auxiliaries, RANDOM, *asked)[OWN]
            scores |= {key(kind, measure, readout): value for readout, value in found.items()}
        rates |= {f"{kind}/{measure}": rate for measure, rate in chosen.items()}
    return Result(scores, rates, seconds)


def new_method(pictures: Domains, role: str, seed: int, setting: Setting) -> MetaMetric:
    """Both roles start from the same network: it is drawn first."""
    torch.manual_seed(seed)
    size = setting.embedding_size
    config = MetaMetricConfig(steps=setting.steps if role == "method" else 0, scale=setting.scale)
    return MetaMetric(pictures.network(setting.width, size), size, config)


def with_rate(method: MetaMetric, rate: float, setting: Setting) -> MetaMetric:
    """The same network with plain fine-tuning; rate 0: no fine-tuning."""
    plain = MetaMetricConfig(steps=0, scale=setting.scale)
    config = dataclasses.replace(plain, steps=setting.steps, rule="sgd", rate=rate) if rate > 0 else plain
    return MetaMetric(method.net, method.size, config).eval()


def train(domains: Domains, method: MetaMetric, seed: int, setting: Setting) -> MetaMetric:
    optimiser = torch.optim.Adam(method.parameters(), lr=setting.learning_rate)
    method.train()
    for index in range(setting.n_tasks):
        rng = np.random.default_rng([seed, 1, index])
        shots = (1, 1 if index % setting.one_shot_every == 0 else setting.most_shots)
        place = draw_domain(domains, rng)
        support, queries = draw_task(domains, place, shots, rng, setting)
        auxiliary = None
        if shots[1] == 1 and method.config.steps > 0:
            rows = draw_auxiliaries(domains, place, rng, setting)
            with torch.no_grad():  # `fit` takes the features as constants in any case
                auxiliary = task_of(pooled(method, domains.inputs(rows)), domains, rows)
        features = pooled(method, domains.inputs(np.concatenate([support, queries])))
        known = task_of(features[: len(support)], domains, support)
        asked = task_of(features[len(support) :], domains, queries)
        value, _ = method.judge(theta_of(method, known, auxiliary), *known, *asked)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(method.parameters(), setting.largest_gradient)
        optimiser.step()
    return method.eval()


def task_of(features: Tensor, domains: Domains, rows: IntArray) -> Task:
    return features, torch.from_numpy(domains.classes[rows])


def draw_domain(domains: Domains, rng: np.random.Generator) -> int:
    """Every collection is as likely, whatever the number of its domains."""
    names = sorted(set(domains.collections))
    chosen = names[rng.integers(len(names))]
    return int(rng.choice([place for place, name in enumerate(domains.collections) if name == chosen]))


def draw_task(
    domains: Domains, place: int, shots: Range, rng: np.random.Generator, setting: Setting
) -> tuple[IntArray, IntArray]:
    """Rows of the support and of the queries of a task of the domain at `place`."""
    rows = domains.members[place]
    labels = domains.classes[rows]
    n_classes = len(np.unique(labels))
    ways = (min(setting.ways[0], n_classes), min(setting.ways[1], n_classes))
    (task,) = episodes(labels, 1, ways, shots, setting.n_queries, rng, unbalanced=True)
    return rows[task.support[task.support >= 0]], rows[task.queries.ravel()]


def draw_auxiliary(domains: Domains, members: IntArray, rng: np.random.Generator, setting: Setting) -> IntArray:
    labels = domains.classes[members]
    ways = min(setting.auxiliary_ways, len(np.unique(labels)))
    (task,) = episodes(labels, 1, ways, setting.auxiliary_shots, 1, rng)
    return members[task.support.ravel()]


def draw_auxiliaries(domains: Domains, place: int, rng: np.random.Generator, setting: Setting) -> IntArray:
    """Rows of tasks from other domains than the one at `place`, of the same collection if it has others."""
    others = [other for other in range(len(domains.members)) if other != place]
    alike = [other for other in others if domains.collections[other] == domains.collections[place]] or others
    chosen = rng.choice(alike, min(setting.n_auxiliary, len(alike)), replace=False)
    return np.concatenate([draw_auxiliary(domains, domains.members[i], rng, setting) for i in chosen])


def auxiliary_tasks(method: MetaMetric, domains: Domains, setting: Setting) -> list[Task]:
    """One of each domain."""
    rng = np.random.default_rng(0)
    drawn = [draw_auxiliary(domains, members, rng, setting) for members in domains.members]
    return [task_of(pooled_features(method, domains, rows), domains, rows) for rows in drawn]


def fitted_auxiliaries(method: MetaMetric, tasks: list[Task]) -> Auxiliaries:
    """The first stage of the choice."""
    with torch.no_grad():
        return Auxiliaries(tasks, [method.fit(*task) for task in tasks])


def theta_of(method: MetaMetric, support: Task, auxiliary: Task | None) -> Tensor:
    """theta after updates on a support; where that gives no gradient, on the auxiliary set.

    Without one theta stays theta_0.
    """
    labels = support[1]
    fit_to = support if len(torch.unique(labels)) < len(labels) else auxiliary
    return method.net.project.weight if fit_to is None else method.fit(*fit_to)


def pooled(method: MetaMetric, inputs: Tensor) -> Tensor:
    """(N, F), float32."""
    with torch.autocast("cpu", torch.bfloat16):  # of the convolutions alone
        features = method.net.pooled(inputs)
    return features.float()


@torch.no_grad()
def pooled_features(method: MetaMetric, domains: Domains, rows: IntArray | None = None, chunk: int = 500) -> Tensor:
    """Computed once for all tasks, since updates do not change the body. Returns (N, F), of all rows by default."""
    rows = np.arange(len(domains.classes)) if rows is None else rows
    starts = range(0, len(rows), chunk)
    return torch.cat([pooled(method, domains.inputs(rows[start : start + chunk])) for start in starts])


@torch.no_grad()
def accuracies(
    method: MetaMetric,
    auxiliaries: Auxiliaries,
    measure: str,
    features: Tensor,
    domains: Domains,
    seed: int,
    n: int,
    setting: Setting,
) -> Scores:
    """Mean over `n` tasks, by read-out; pooled features (N, F). The tasks are the same for every network."""
    most, one = setting.most_shots, measure in ("one", RANDOM)
    shots = (1, 1) if one else (most if measure == "five" else 1, most)
    values = []
    for index in range(n):
        rng = np.random.default_rng([seed, 2, index])
        rows = draw_task(domains, draw_domain(domains, rng), shots, rng, setting)
        support, queries = (task_of(features[part], domains, part) for part in rows)
        auxiliary = None
        if one and method.config.steps > 0:
            if measure == RANDOM:
                places = rng.permutation(len(auxiliaries.tasks))[: setting.n_auxiliary].tolist()
            else:
                places = suited_places(method, auxiliaries, support, domains.copies(rows[0]), setting)
            auxiliary = together([auxiliaries.tasks[i] for i in places])
        values.append(readouts(method, support, queries, auxiliary))
    return {name: float(np.mean([value[name] for value in values])) for name in values[0]}


def readouts(method: MetaMetric, support: Task, queries: Task, auxiliary: Task | None) -> Scores:
    """Accuracy of a task by its own attention, adapted and not, and by the nearest class mean and item, adapted."""
    theta = theta_of(method, support, auxiliary)
    known, asked = (unit_rows(F.linear(features, theta)) for features, _ in (support, queries))
    classes, places = torch.unique(support[1], return_inverse=True)
    means = torch.zeros(len(classes), known.shape[1]).index_add_(0, places, known)  # cosine: the length is free
    by_mean, by_item = (asked @ unit_rows(means).T).argmax(1), (asked @ known.T).argmax(1)
    return {
        OWN: method.judge(theta, *support, *queries)[1],
        UNADAPTED: method.judge(method.net.project.weight, *support, *queries)[1],
        NEAREST_MEAN: float((classes[by_mean] == queries[1]).float().mean()),
        NEAREST_ITEM: float((support[1][by_item] == queries[1]).float().mean()),
    }


def together(tasks: Sequence[Task]) -> Task:
    return torch.cat([features for features, _ in tasks]), torch.cat([labels for _, labels in tasks])


def suited_places(
    method: MetaMetric, auxiliaries: Auxiliaries, support: Task, copies: Tensor, setting: Setting
) -> list[int]:
    """The second stage: by the items of the support, and by copies of them, as the network takes them."""
    features, labels = support
    both = torch.cat([features, pooled(method, copies)])
    return method.suited(auxiliaries.metrics, both, labels.repeat(2), setting.n_auxiliary)


def best_rates(
    method: MetaMetric, tasks: list[Task], domains: Domains, seed: int, setting: Setting
) -> dict[str, float]:
    """For each of MEASURES one of RATES; the smallest of equals."""
    features = pooled_features(method, domains)
    scores: dict[str, dict[float, float]] = {name: {} for name in MEASURES}
    for rate in RATES:
        tuned = with_rate(method, rate, setting)
        auxiliaries = fitted_auxiliaries(tuned, tasks)
        for name, found in scores.items():
            asked = (name, features, domains, seed, setting.n_validated, setting)
            found[rate] = accuracies(tuned, auxiliaries, *asked)[OWN]
    return {name: max(RATES, key=lambda rate: found[rate]) for name, found in scores.items()}
