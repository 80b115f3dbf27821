"""`reid adapt`: the metric of a place, the file it writes, and when it writes none."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import onnx
import pytest
import torch

from reid_training import adapt as adapting
from reid_training import site_metric
from reid_training.adapt import (
    adapt,
    append_metric,
    check_gain,
    fine_tuned,
    measured_thresholds,
    split_support,
    thinned,
)
from reid_training.cli import SITE_METRICS, main
from reid_training.config import from_dict
from reid_training.data import csv_table, market1501
from reid_training.data.base import Dataset, Samples, read_images
from reid_training.data.synthetic import write_market_folder
from reid_training.data.transforms import normalise, to_tensor
from reid_training.embedders import OnnxEmbedder, embed_samples
from reid_training.errors import ConfigError, DataError, ModelError
from reid_training.evaluate import Calibration, Ranking, rank_held_out
from reid_training.export import export
from reid_training.methods.meta_metric import left_out_loss
from reid_training.methods.mip_mahalanobis import MIPMahalanobis
from reid_training.methods.odml import ODML
from reid_training.runs import load_method, new_method
from reid_training.site_metric import (
    METRICS,
    carried_over,
    choose_strength,
    mapped,
    rank_at_place,
    whitening,
    within_people,
)
from reid_training.train import train
from tests.synthetic.mot import make_scene, write_sequence
from tracker.appearance.encoder import read_card
from tracker.commands.track import main as track
from tracker.settings import to_dict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Eighteen people that the networks have not seen, nine crops each."""
    folder = tmp_path_factory.mktemp("place") / "drawn"
    write_market_folder(folder, n_train=18, n_test=0, n_distractors=0, n_per_camera=3, seed=5)
    people = market1501.read_people(folder / "bounding_box_train")
    names = [path.relative_to(folder).as_posix() for path in people.paths]
    rows = zip(names, people.pids, people.camids, strict=True)
    (folder / "people.csv").write_text("".join(["image,id,camera\n", *(f"{p},{i},{c}\n" for p, i, c in rows)]))
    return folder / "people.csv"


@pytest.fixture(scope="module")
def support(table):
    return csv_table.read(table)


def trained(market, tiny, folder, method):
    config = dataclasses.replace(tiny, schedule=dataclasses.replace(tiny.schedule, epochs=2))
    train(from_dict({**to_dict(config), "method": method}), market1501.read(market), folder)
    return folder


@pytest.fixture(scope="module")
def run(market, tiny, tmp_path_factory):
    return trained(market, tiny, tmp_path_factory.mktemp("runs") / "siamese", {"name": "siamese"})


@pytest.fixture(scope="module")
def meta_run(market, tiny, tmp_path_factory):
    return trained(market, tiny, tmp_path_factory.mktemp("runs") / "meta", {"name": "meta_metric"})


@pytest.fixture(scope="module")
def exported(market, run, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export(run, market1501.read(market), path)
    return path


def samples_of(pids, camids=None):
    n = len(pids)
    return Samples(tuple(range(n)), np.array(pids), np.arange(n) if camids is None else np.array(camids))


def disturbed(rng, n_people=40, n_each=6, size=12):
    """Unit rows; the first three coordinates carry no identity and vary more than all others."""
    pids = np.repeat(np.arange(1, n_people + 1), n_each)
    emb = rng.normal(size=(n_people, size))[pids - 1] + 0.4 * rng.normal(size=(len(pids), size))
    emb[:, :3] = 3.0 * rng.normal(size=(len(pids), 3))
    return (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32), pids


# The linear metric


def test_covariance_agrees_with_one_person_at_a_time():
    emb, pids = disturbed(np.random.default_rng(0), n_people=7, n_each=3)
    total = sum(np.cov(emb[pids == pid].T, ddof=0) * 3 for pid in np.unique(pids)) / (len(pids) - 7)
    np.testing.assert_allclose(within_people(emb, pids), total / np.trace(total) * 12, atol=1e-9)


def test_whitening_equalises_the_variance_of_all_directions():
    emb, pids = disturbed(np.random.default_rng(0))
    matrix = whitening(emb, pids, 1e-9)
    np.testing.assert_allclose(matrix @ within_people(emb, pids) @ matrix, np.eye(12), atol=1e-6)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)


def test_share_one_is_the_metric_of_the_model():
    emb, pids = disturbed(np.random.default_rng(0))
    assert np.array_equal(whitening(emb, pids, 1.0), np.eye(12))
    np.testing.assert_allclose(mapped(emb, np.eye(12)), emb, atol=1e-7)


@pytest.fixture
def quick_program(monkeypatch):
    monkeypatch.setattr(site_metric, "MIP_TIME_S", 0.0)


@pytest.mark.parametrize(("name", "least", "gain"), [("whitening", 0.5, 0.2), ("odml", 0.01, 0.05), ("mip", 0.5, 0.2)])
def test_metric_helps_on_unseen_people(name, least, gain, quick_program):
    emb, pids = disturbed(np.random.default_rng(0))
    fit, held = pids <= 25, pids > 25
    strength = choose_strength(METRICS[name], emb[fit], samples_of(pids[fit]), 0)
    assert strength >= least
    (matrix,) = METRICS[name].maps(emb[fit], pids[fit], (strength,), 0)
    after = mapped(emb[held], matrix)
    before_after = [rank_held_out(rows, samples_of(pids[held])).rank1 for rows in (emb[held], after)]
    assert before_after[1] > before_after[0] + gain


@pytest.mark.parametrize("name", METRICS)
def test_maps_are_symmetric_and_strength_zero_is_the_identity(name, quick_program):
    emb, pids = disturbed(np.random.default_rng(0), n_people=8)
    maps = METRICS[name].maps(emb, pids, METRICS[name].strengths, 0)
    assert METRICS[name].strengths[0] == 0.0
    np.testing.assert_allclose(maps[0], np.eye(12), atol=1e-12)
    for matrix in maps:
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-9)
        assert np.linalg.eigvalsh(matrix)[0] > -1e-9


def test_mixed_integer_map_is_the_metric_on_principal_components_and_leaves_the_others(quick_program, monkeypatch):
    monkeypatch.setattr(site_metric, "N_COMPONENTS", 5)
    emb, pids = disturbed(np.random.default_rng(0), n_people=9)
    (matrix,) = METRICS["mip"].maps(emb, pids, (1.0,), 0)
    center = emb.mean(0)
    axes = np.linalg.svd(emb - center)[2]
    model = MIPMahalanobis(k=3, time_limit_s=0.0).fit((emb - center) @ axes[:5].T, pids)
    within = model.distances((emb[:1] - center) @ axes[:5].T, (emb - center) @ axes[:5].T)[0]
    outside = np.linalg.norm((emb - emb[0]) @ axes[5:].T, axis=1)
    np.testing.assert_allclose(np.linalg.norm((emb - emb[0]) @ matrix, axis=1), np.hypot(within, outside), atol=1e-6)


def test_online_layer_map_gives_the_distances_of_the_layer():
    emb, pids = disturbed(np.random.default_rng(0), n_people=9)
    (matrix,) = METRICS["odml"].maps(emb, pids, (0.03,), 0)
    order = np.random.default_rng([0, 3]).permutation(len(pids))
    model = ODML(gamma=0.03).fit(emb[order], pids[order])
    pairs = np.stack([emb[:-1], emb[1:]], axis=1)
    np.testing.assert_allclose(
        np.linalg.norm((emb[:-1] - emb[1:]) @ matrix, axis=1), model.score_pairs(pairs), atol=1e-6
    )


def test_metric_without_possible_gain_hardly_changes():
    rng = np.random.default_rng(0)
    pids = np.repeat(np.arange(1, 13), 2)  # few crops, and noise that is the same in all directions
    emb = rng.normal(size=(12, 30))[pids - 1] + 0.6 * rng.normal(size=(24, 30))
    emb = (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32)
    assert choose_strength(METRICS["whitening"], emb, samples_of(pids), 0) <= 0.3


def test_equal_crops_are_an_error():
    with pytest.raises(DataError, match="no person has two different crops"):
        within_people(np.ones((6, 4), np.float32), np.array([1, 1, 2, 2, 3, 3]))


@pytest.mark.parametrize("camera", [1, -1])
def test_one_camera_neighbouring_crops_of_a_track_do_not_count(camera):
    """Ten crops of each of four people; in a third of a track each person changes more than people differ."""
    pids, times = np.tile(np.arange(4), 10), np.repeat(np.arange(10), 4)  # frame by frame
    angles = (0.05 * times, np.pi / 2 * pids)
    emb = np.concatenate(
        [size * np.stack([np.cos(a), np.sin(a)]) for size, a in zip((1.0, 0.1), angles, strict=True)]
    ).T
    emb = (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32)
    camids = np.full(40, 1) if camera == 1 else -1 - np.arange(40)
    samples = samples_of(pids, camids)
    right = []
    for i in range(40):  # a third of a track of ten crops is three of them
        others = [j for j in range(40) if pids[j] != pids[i] or abs(times[j] - times[i]) >= 3]
        right.append(pids[max(others, key=lambda j: emb[i] @ emb[j])] == pids[i])
    assert rank_at_place(emb, samples).rank1 == np.mean(right) < 0.1
    assert rank_at_place(emb, samples_of(pids, 1 + times)).rank1 == 1.0, "by other cameras every answer counts"


def test_track_of_two_crops_counts():
    emb = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2]]
    found = rank_at_place(emb, samples_of([1, 1, 2, 2, 3], [1] * 5))
    assert (found.rank1, found.n_queries) == (1.0, 4)


def test_carried_over_thresholds_accept_the_same_share():
    emb, pids = disturbed(np.random.default_rng(0))
    after = mapped(emb, whitening(emb, pids, 0.3))
    old = Calibration(0.4, 0.9, 0.3, float("nan"), 0, 0)
    new = carried_over(old, emb, after, pids)
    pairs = np.triu_indices(len(emb), k=1)
    for name in ("tau_same", "tau_diff"):
        shares = [np.mean((1 - e @ e.T)[pairs] <= getattr(c, name) + 1e-6) for e, c in ((emb, old), (after, new))]
        assert shares[0] == pytest.approx(shares[1], abs=1e-3)
    same = carried_over(old, emb, emb, pids)
    assert (same.tau_same, same.tau_diff, same.sigma_same) == pytest.approx((0.4, 0.9, 0.3), abs=2e-3)


# People for fitting, and people for validation


def test_fit_and_validation_people_are_disjoint(support):
    parts = split_support(support, 0)
    fit, held = set(parts.fit.pids.tolist()), set(parts.held.pids.tolist())
    assert not fit & held
    assert len(held) == 6
    assert len(fit) == 12
    assert split_support(support, 0).held.paths == parts.held.paths
    assert split_support(support, 1).held.paths != parts.held.paths


def test_people_with_one_crop_are_in_the_fit_part():
    dataset = Dataset("t", "", samples_of([1, 1, 2, 2, 3, 3, 4, 4, 5]), samples_of([]), samples_of([]))
    assert all(5 in split_support(dataset, seed).fit.pids for seed in range(8))


def test_long_tracks_are_thinned_evenly():
    found = thinned(samples_of([1] * 100 + [2] * 3 + [1] * 5, [1] * 100 + [-3, -4, -5] + [2] * 5), most=4)
    assert found.paths == (0, 33, 66, 99, 100, 101, 102, 103, 104, 106, 107)


def test_thresholds_need_enough_people():
    emb, pids = disturbed(np.random.default_rng(0), n_people=12, n_each=8)
    assert measured_thresholds(emb, samples_of(pids)) is not None
    few = pids <= 4
    assert measured_thresholds(emb[few], samples_of(pids[few])) is None


def test_thresholds_of_perfectly_separated_people_are_ordered():
    emb = np.repeat(np.eye(8, dtype=np.float32), 8, axis=0)
    found = measured_thresholds(emb, samples_of(np.repeat(np.arange(8), 8)))
    assert 0 <= found.tau_same <= found.tau_diff
    assert found.sigma_same >= 1e-6


# Files


def test_metric_in_the_file_equals_the_fitted_one(exported, support, tmp_path):
    rng = np.random.default_rng(0)
    old = OnnxEmbedder(exported)
    matrix = rng.normal(size=(16, 16))
    matrix = matrix @ matrix.T
    model = onnx.load(str(exported))
    properties = old.metadata
    append_metric(model, matrix)
    append_metric(model, np.eye(16))  # a file may be adapted twice
    onnx.helper.set_model_props(model, dict(properties))
    onnx.save(model, str(tmp_path / "new.onnx"))
    new = OnnxEmbedder(tmp_path / "new.onnx")
    for n in (1, 7):
        part = support.train.take(np.arange(n))
        np.testing.assert_allclose(embed_samples(new, part), mapped(embed_samples(old, part), matrix), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("exported", "changed: a linear metric behind the embedding, "),
        ("run", "changed: the last layer, by 20 steps of plain fine-tuning"),
        ("meta_run", "changed: the last layer, by 5 steps of its learned rule"),
    ],
)
def test_adapt_writes_a_model_for_a_place(kind, change, request, table, support, tmp_path, capsys):
    model, out = request.getfixturevalue(kind), tmp_path / "new.onnx"
    source = model if model.is_file() else model / "last.pt"
    before = source.read_bytes()
    # After two epochs a network gains or loses by chance.
    assert main(["adapt", "--support", str(table), str(model), "--out", str(out), "--force"]) == 0
    printed = capsys.readouterr().out
    assert change in printed
    assert "before " in printed
    assert "held back" in printed
    assert source.read_bytes() == before, "never in place"
    card = read_card(OnnxEmbedder(out).metadata, out)  # the embeddings that the tracker reads from it
    assert card.name == "new"
    assert card.embedding_size == 16
    assert "adapted to 108 crops of 12 people of people.csv" in card.trained_on
    assert "that of the user's own images" in card.licence
    emb = embed_samples(OnnxEmbedder(out), support.train)
    np.testing.assert_allclose(np.linalg.norm(emb, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_reported_scores_equal_those_of_the_file(metric, exported, support, tmp_path, quick_program):
    made = adapt(exported, support, tmp_path / "new.onnx", metric=metric, force=True)
    held = split_support(support, 0).held
    for path, expected in ((exported, made.before), (tmp_path / "new.onnx", made.after)):
        found = rank_held_out(embed_samples(OnnxEmbedder(path), held), held)
        assert found.rank1 == pytest.approx(expected.rank1)
        assert found.mean_ap == pytest.approx(expected.mean_ap, abs=1e-4)


@pytest.mark.slow
def test_same_call_gives_the_same_file(run, support, tmp_path):
    for name in ("a", "b"):
        adapt(run, support, tmp_path / name / "new.onnx", force=True)
    assert (tmp_path / "a" / "new.onnx").read_bytes() == (tmp_path / "b" / "new.onnx").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["odml", "mip"])
def test_tracker_runs_with_a_network_of_each_metric(metric, exported, table, tmp_path, monkeypatch, quick_program):
    """The command writes a file with another metric, and `track --reid` re-identifies with it."""
    monkeypatch.setattr(site_metric, "MIP_NEIGHBOURS", 1)  # of three, none is found behind so poor a network
    chosen = METRICS[metric].strengths[-1]
    monkeypatch.setattr(adapting, "choose_strength", lambda *_: chosen)  # two epochs of training decide nothing
    out, video = tmp_path / "here.onnx", tmp_path / "video"
    asked = ["adapt", str(exported), "--support", str(table), "--out", str(out), "--metric", metric, "--force"]
    assert main(asked) == 0
    crops = csv_table.read(table).train.take(np.arange(9))
    before, after = (embed_samples(OnnxEmbedder(file), crops) for file in (exported, out))
    assert np.abs(after - before).max() > 1e-3
    write_sequence(make_scene(0, n_people=3, n_frames=20), video)
    results = tmp_path / "results.txt"
    assert track([str(video), "--detections", "public", "--reid", str(out), "--out", str(results), "--quiet"]) == 0
    assert results.read_text().count("\n") > 5


def test_metric_is_for_files_alone_and_known_by_name(run, exported, support, tmp_path):
    assert tuple(METRICS) == SITE_METRICS
    with pytest.raises(ConfigError, match="--metric is for an ONNX file; of a run such as"):
        adapt(run, support, tmp_path / "new.onnx", metric="odml")
    with pytest.raises(ConfigError, match="--metric must be one of whitening, odml, mip, got 'lmnn'"):
        adapt(exported, support, tmp_path / "new.onnx", metric="lmnn")


def test_worse_model_is_not_written(exported, support, tmp_path, monkeypatch):
    # Every crop equals one crop of each other person, and none of its own.
    monkeypatch.setattr(adapting, "mapped", lambda emb, _: np.eye(16, dtype=np.float32)[np.arange(len(emb)) % 9])
    with pytest.raises(ModelError, match=r"found less well: rank-1 .* before, 0\.0 after.*--force writes it"):
        adapt(exported, support, tmp_path / "new.onnx")
    assert not (tmp_path / "new.onnx").exists()


@pytest.mark.parametrize(
    ("rank1", "mean_ap", "fine"), [(0.8, 0.5, True), (0.9, 0.1, True), (0.7, 0.9, False), (0.8, 0.49, False)]
)
def test_equal_rank1_is_decided_by_map(rank1, mean_ap, fine):
    half = Ranking(**dict.fromkeys((field.name for field in dataclasses.fields(Ranking)), 0.5))
    before = dataclasses.replace(half, rank1=0.8)
    after = dataclasses.replace(before, rank1=rank1, mean_ap=mean_ap)
    check_gain(before, after, force=True)
    with contextlib.nullcontext() if fine else pytest.raises(ModelError, match="nothing was written"):
        check_gain(before, after, force=False)


def test_few_people_keep_the_shares_of_the_old_thresholds(exported, support, tmp_path):
    few = dataclasses.replace(support, train=support.train.take(np.flatnonzero(support.train.pids <= 6)))
    made = adapt(exported, few, tmp_path / "new.onnx", force=True)
    assert not made.measured
    read_card(OnnxEmbedder(tmp_path / "new.onnx").metadata, tmp_path)


def test_few_people_and_a_run_without_thresholds(run, support, tmp_path):
    few = dataclasses.replace(support, train=support.train.take(np.flatnonzero(support.train.pids <= 6)))
    with pytest.raises(DataError, match="too few people to measure thresholds, of which a run has none"):
        adapt(run, few, tmp_path / "new.onnx", force=True)


def test_fine_tuning_trains_the_projection_only_and_helps(run, support):
    method, _, _ = load_method(run)
    samples = split_support(support, 0).fit
    images = normalise(to_tensor(read_images(samples, 64, 32)))
    labels = torch.from_numpy(samples.pids)
    adapted = fine_tuned(method, images, labels)
    old, new = method.state_dict(), adapted.state_dict()
    assert [name for name in old if not torch.equal(old[name], new[name])] == ["net.project.weight"]
    moved = (new["net.project.weight"] - old["net.project.weight"]).abs().max()
    assert 0 < moved <= 1.5 * adapting.STEPS * adapting.RATE, "bounded"
    with torch.no_grad():
        losses = [left_out_loss(net.embed(images), labels, "cosine", adapting.SCALE) for net in (method, adapted)]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("method", [{"name": "dreml", "members": 2, "meta_classes": 2}, {"name": "abe"}])
def test_fine_tuning_trains_every_projection_of_a_method(method, tiny):
    torch.manual_seed(0)
    labels = torch.arange(4).repeat_interleave(3)
    images = torch.randn(12, 3, 64, 32) + torch.randn(4, 3, 1, 1)[labels]
    made = new_method(from_dict({**to_dict(tiny), "method": method}), 4, start=True).eval()
    old, new = made.state_dict(), fine_tuned(made, images, labels).state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {name for name in old if name.endswith("project.weight")}


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{exported}", "--out", "{exported}"], "is never adapted in place"),
        (["{exported}", "--out", "{folder}/new.pt"], "--out must be an ONNX file"),
        (["{folder}/no.onnx", "--out", "{folder}/new.onnx"], "no file"),
        (["{folder}/no", "--out", "{folder}/new.onnx"], "no checkpoint"),
        (["{exported}", "--out", "{folder}/new.onnx", "--seed", "-1"], "--seed must be >= 0"),
    ],
)
def test_invalid_call_gives_one_line(arguments, said, exported, market, tmp_path, capsys):
    filled = [argument.format(exported=exported, folder=tmp_path) for argument in arguments]
    assert main(["adapt", "--support", str(market), *filled]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize(
    ("pids", "said"),
    [
        ([], "0 people with 2 or more crops"),
        ([1, 1, 1, 1], "1 people with 2 or more crops to adapt to; at least 4 are needed"),
        ([1, 2, 3, 4, 5], "0 people with 2 or more crops"),
    ],
)
def test_too_few_tracks(pids, said, exported, tmp_path):
    dataset = Dataset("t", "", samples_of(pids), samples_of([]), samples_of([]))
    with pytest.raises(DataError, match=said):
        adapt(exported, dataset, tmp_path / "new.onnx")


def test_network_with_non_finite_output_is_an_error(exported, support, tmp_path):
    model = onnx.load(str(exported))
    append_metric(model, np.full((16, 16), np.nan))
    onnx.save(model, str(tmp_path / "nan.onnx"))
    with pytest.raises(DataError, match="not finite"):
        adapt(tmp_path / "nan.onnx", support, tmp_path / "new.onnx")
