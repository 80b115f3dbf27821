"""Precision and recall of links between cameras, on Market-1501 made into tracks.

    python -m tools.benchmarks.cross_camera --market MARKET [--reid fast accurate] [--held-out] [--draws 1000]
    python -m tools.benchmarks.cross_camera --market MARKET --fit

A track is a run of the images of one person in one sequence of one camera, at most GAP_S apart; each of the six cameras
is a video, and times of different cameras say nothing. All tracks of the test split (query and bounding_box_test, 750
people) are linked at the default threshold of `track-link`; junk and distractors (persons -1 and 0) are left out, and
every track is of one person, which tracks of a real tracker are not always.

Precision: share of the pairs of tracks of different cameras under one identity that are of one person. Recall: share of
the pairs of tracks of different cameras of one person that are under one identity. Standard errors: --draws bootstrap
samples of the people, whose tracks were linked once; a wrong pair counts half for each of its two people.

Known again: half of the people are in the gallery of `track --people`, each by the tracks of one camera, and a track of
every person in another camera is looked up; SEEDS halves. The share of known people who get their number, of known
people who get another one, and of strangers who get one.

--held-out: the same for the 75 people of the training part that no bundled network was trained on, on which the
constants were chosen; --fit: the line of `tracker.association.tracklets` and precision and recall of thresholds, there.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from reid_training.data import market1501
from reid_training.data.base import Samples, split_identities
from reid_training.embedders import OnnxEmbedder, embed_samples
from tracker.appearance.encoder import read_card
from tracker.association.evidence import posterior
from tracker.association.tracklets import log_ratio, mean_dist
from tracker.config import TrackerConfig
from tracker.offline.linking import Tracklets, link_tracks
from tracker.runtime.weights import reid_file
from tracker.types import BoolArray, FloatArray, IntArray

NAME = re.compile(r"(\d+)_c(\d+)s(\d+)_(\d+)_")
FPS = 25.0
GAP_S = 10.0
SEQUENCE_S = 1e6  # the sequences of a camera follow each other
SEEDS = 20
TRIED = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="cross_camera", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--market", type=Path, required=True, help="folder of Market-1501")
    parser.add_argument("--reid", nargs="+", default=["fast", "accurate"], help="re-ID networks (default: both)")
    parser.add_argument("--held-out", action="store_true", help="people on whom constants were chosen, not the test")
    parser.add_argument("--fit", action="store_true", help="choose the constants on the held-out people")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap samples (default: 1000)")
    args = parser.parse_args(argv)
    samples = read_samples(args.market, held_out=args.held_out or args.fit)
    found = [(name, *embedded(name, samples)) for name in args.reid]
    if args.fit:
        print_fit(found)
        return 0
    for name, tau_same, embeddings, names in found:
        tracks, pids = tracks_of(embeddings, names)
        person = link_tracks(tracks, tau_same).person
        right, wrong, missed = pair_counts(person, pids, tracks.camera)
        precision, recall = scores(right, wrong, missed)
        errors = standard_errors(right, wrong, missed, args.draws)
        hit, other, false = known_again(embeddings, names, tau_same)
        print(
            f"{name}: {len(tracks)} tracks of {len(np.unique(pids))} people -> {person.max() + 1} identities; "
            f"precision {precision:.3f} +- {errors[0]:.3f}, recall {recall:.3f} +- {errors[1]:.3f}; "
            f"known again {hit:.3f}, under another number {other:.3f}, strangers with a number {false:.3f}"
        )
    return 0


def read_samples(root: Path, held_out: bool) -> list[Samples]:
    """The images of the people to link."""
    dataset = market1501.read(root)
    if held_out:  # as in the configurations of both bundled networks
        return [split_identities(dataset.train, 0.1, seed=0)[1]]
    return [dataset.query, dataset.gallery]


def embedded(name: str, samples: Sequence[Samples]) -> tuple[float, FloatArray, list[str]]:
    """tau_same of the network, embeddings (N, D) of all people's images, and the names of their files."""
    path = reid_file(name)
    embedder = OnnxEmbedder(path)
    kept = [part.take(np.flatnonzero(part.pids > market1501.DISTRACTOR)) for part in samples]
    embeddings = np.concatenate([embed_samples(embedder, part) for part in kept]).astype(np.float64)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    names = [Path(str(path)).name for part in kept for path in part.paths]
    return read_card(embedder.metadata, path).calibration.tau_same, embeddings, names


def tracks_of(embeddings: FloatArray, names: Sequence[str]) -> tuple[Tracklets, IntArray]:
    """The tracks, and the person of each; see the top of this file."""
    matches = [NAME.match(name) for name in names]
    facts = np.array([[int(word) for word in match.groups()] for match in matches if match is not None])
    order = np.lexsort(facts.T[::-1])
    facts, embeddings = facts[order], embeddings[order]
    time_s = facts[:, 2] * SEQUENCE_S + facts[:, 3] / FPS
    new = (np.diff(facts[:, :3], axis=0) != 0).any(axis=1) | (np.diff(time_s) > GAP_S)
    starts = np.r_[0, np.flatnonzero(new) + 1]
    ends = np.r_[starts[1:], len(facts)]
    means = np.add.reduceat(embeddings, starts) / (ends - starts)[:, None]
    tracks = Tracklets(facts[starts, 1], time_s[starts], time_s[ends - 1], means, [""] * len(starts))
    return tracks, facts[starts, 0]


def pair_counts(person: IntArray, pids: IntArray, camera: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(P,) right, wrong and missed pairs of tracks of different cameras by person; half of a pair for each track."""
    apart = camera[:, None] != camera
    linked, same = person[:, None] == person, pids[:, None] == pids
    of_person = np.unique(pids, return_inverse=True)[1]

    def by_person(pairs: BoolArray) -> FloatArray:
        return np.asarray(np.bincount(of_person, weights=(pairs & apart).sum(axis=1) / 2.0), np.float64)

    return by_person(linked & same), by_person(linked & ~same), by_person(same & ~linked)


def scores(right: FloatArray, wrong: FloatArray, missed: FloatArray) -> tuple[float, float]:
    """Precision and recall; 1 where there is nothing to count."""
    linked, same = right.sum() + wrong.sum(), right.sum() + missed.sum()
    return float(right.sum() / linked) if linked else 1.0, float(right.sum() / same) if same else 1.0


def standard_errors(right: FloatArray, wrong: FloatArray, missed: FloatArray, draws: int) -> FloatArray:
    """(2,) of precision and recall, over bootstrap samples of the people."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(right), (draws, len(right)))
    drawn = [scores(right[row], wrong[row], missed[row]) for row in rows]
    return np.asarray(np.std(drawn, axis=0, ddof=1))


def known_again(embeddings: FloatArray, names: Sequence[str], tau_same: float) -> FloatArray:
    """(3,) shares: known people under their number, known people under another one, strangers under any."""
    tracks, pids = tracks_of(embeddings, names)
    least = TrackerConfig().association.least_posterior
    counts = np.zeros((SEEDS, 3))
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        people = rng.permutation(np.unique(pids))
        n_known = len(people) // 2
        known, means, looked_up, probes = [], [], [], []
        for place, pid in enumerate(people.tolist()):
            cameras = rng.permutation(np.unique(tracks.camera[pids == pid]))
            if len(cameras) < 2:
                continue
            if place < n_known:
                known.append(pid)
                means.append(tracks.means[(pids == pid) & (tracks.camera == cameras[0])].mean(axis=0))
            looked_up.append(pid if place < n_known else -1)
            probes.append(tracks.means[rng.choice(np.flatnonzero((pids == pid) & (tracks.camera == cameras[1])))])
        odds = log_ratio(mean_dist(np.array(means), np.array(probes)), tau_same) - np.log(len(known))
        belief = posterior(odds)
        given = np.where(belief.max(axis=0) >= least, np.array(known)[belief.argmax(axis=0)], -1)
        truth = np.array(looked_up)
        ours = truth >= 0
        counts[seed] = [
            (given == truth)[ours].mean(), ((given != truth) & (given >= 0))[ours].mean(), (given >= 0)[~ours].mean(),
        ]  # fmt: skip
    return np.asarray(counts.mean(axis=0))


def print_fit(found: Sequence[tuple[str, float, FloatArray, list[str]]]) -> None:
    """The line of each network and of all together, then precision and recall of thresholds."""
    everything = []
    for name, tau_same, embeddings, names in found:
        tracks, pids = tracks_of(embeddings, names)
        i, j = np.nonzero(np.triu(tracks.camera[:, None] != tracks.camera, k=1))
        x = (1.0 - mean_dist(tracks.means, tracks.means)[i, j]) / (1.0 - tau_same)
        everything.append((x, pids[i] == pids[j]))
        print(f"{name}: slope and offset {logistic(*everything[-1]).round(2)}, {len(tracks)} tracks")
    x, same = (np.concatenate(column) for column in zip(*everything, strict=True))
    print(f"together: {logistic(x, same).round(2)}, {same.sum()} pairs of one person, {(~same).sum()} of two")
    for name, tau_same, embeddings, names in found:
        tracks, pids = tracks_of(embeddings, names)
        for least in TRIED:
            person = link_tracks(tracks, tau_same, least_odds=least).person
            precision, recall = scores(*pair_counts(person, pids, tracks.camera))
            print(f"{name}: from log odds {least:g}: precision {precision:.3f}, recall {recall:.3f}")


def logistic(x: FloatArray, same: BoolArray) -> FloatArray:
    """(2,) slope and offset of the log likelihood ratio: logistic regression, less the log odds of the two classes."""
    prior = np.log(same.mean() / (1.0 - same.mean()))
    sign = np.where(same, 1.0, -1.0)

    def loss(line: FloatArray) -> float:
        return float(np.logaddexp(0.0, -sign * (line[0] * x + line[1] + prior)).mean())

    return np.asarray(minimize(loss, np.array([1.0, 0.0])).x)


if __name__ == "__main__":
    sys.exit(main())
