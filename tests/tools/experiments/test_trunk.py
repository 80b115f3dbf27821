"""Comparisons on a network from ImageNet: the cache, what is trained on it, and which methods cannot be."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
import torch

from reid_training.config import AugmentConfig, NetConfig, ScheduleConfig
from reid_training.data.base import Dataset, read_images
from reid_training.data.transforms import network_input
from reid_training.devices import worker
from reid_training.embedders import TorchEmbedder, embed_samples
from reid_training.errors import ConfigError
from reid_training.methods import METHODS, create
from reid_training.nets import build
from reid_training.runs import load_method
from reid_training.train import Run, parameter_groups, train
from tools.experiments import __main__ as compare_methods
from tools.experiments import trunk
from tools.experiments.protocols import PARTS, Cifar100, Drawn, InShop, Omniglot
from tools.experiments.runs import run_config
from tools.experiments.trunk import FROZEN, NET, OnTrunk, features

pytestmark = pytest.mark.slow  # the network from ImageNet computes features

TRIPLETS = {"method": {"name": "siamese", "id_weight": 0.0}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trunk")
    return OnTrunk(Drawn(), "tuned").prepare(folder, folder / "out")


def cached_net(way, **more):
    return NetConfig(**NET, frozen=FROZEN[way], cached=True, **more)


@pytest.mark.parametrize("way", FROZEN)
def test_network_behind_cached_features_equals_the_whole_network(way):
    whole = build(NetConfig(**NET), start=True).eval()
    rest = build(cached_net(way), start=True).eval()
    rest.project.load_state_dict(whole.project.state_dict())
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = whole(network_input(torch.from_numpy(images)))
        cached = features(whole, images, None, AugmentConfig())[way]
        found = rest(network_input(torch.from_numpy(cached)))
    assert cached.dtype == np.float16
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.9999
    assert (rest.n_in, len(rest.body)) == ({"frozen": 1280, "tuned": 112}[way], 18 - FROZEN[way])


def test_cache_holds_every_view_of_every_image(root):
    protocol = OnTrunk(Drawn(), "frozen")
    assert protocol.prepare(root, root.with_name("out")) == root, "one cache for both ways"
    images = Drawn().read(Drawn().prepare(root, root.with_name(f"drawn-{Drawn().key()}")))
    parts = {way: OnTrunk(Drawn(), way).read(root) for way in FROZEN}
    for part in PARTS:
        n_views = 2 if part == "train" else 1
        for way, shape in (("frozen", (1280, 1, 1)), ("tuned", (112, 4, 2))):
            samples = parts[way][part]
            assert samples.maps.shape == (len(images[part]), n_views, *shape)
            np.testing.assert_array_equal(samples.pids, images[part].pids)
            np.testing.assert_array_equal(samples.camids, images[part].camids)
    # The first view is not augmented.
    net = build(NetConfig(**NET, frozen=18), start=True).eval()
    rows = np.array([0, 5])
    seen = features(net, read_images(images["train"].take(rows), 64, 32), None, AugmentConfig())
    np.testing.assert_allclose(parts["frozen"]["train"].maps[rows, 0], seen["frozen"], atol=5e-3)


@pytest.mark.parametrize("way", FROZEN)
def test_training_on_the_cache_gives_a_network_that_embeds(root, tmp_path, way):
    protocol = OnTrunk(Drawn(), way)
    parts = protocol.read(root)
    config = run_config(protocol, TRIPLETS, 0, "test")
    empty = parts["train"].take(np.empty(0, np.int64))
    rows = train(config, Dataset("drawn", "", parts["train"], empty, empty), tmp_path)
    assert len(rows) == 2
    assert all(np.isfinite(row["loss"]) for row in rows)
    method, _, _ = load_method(tmp_path)
    emb = embed_samples(TorchEmbedder(method, 64, 32), parts["test"])
    length = np.linalg.norm(emb, axis=1)
    # After so few steps the BN statistics, which move by 1 % a step, lag behind the weights: some rows are all zeros.
    np.testing.assert_allclose(length[length > 0], 1.0, atol=1e-5)
    assert (length > 0).mean() > 0.8
    assert protocol.rank(emb, parts["test"]).mean_ap > 0.0


def test_untrained_features_are_those_of_the_whole_network_for_both_ways(root):
    frozen, tuned = (OnTrunk(Drawn(), way).untrained(root, "test") for way in ("frozen", "tuned"))
    np.testing.assert_array_equal(frozen, tuned)
    pooled = OnTrunk(Drawn(), "frozen").read(root)["test"].maps.astype(np.float64).reshape(len(frozen), 1280)
    np.testing.assert_allclose(frozen, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), atol=1e-6)
    assert Drawn().untrained(root, "test") is None


def test_images_for_a_cached_network_are_refused(tmp_path):
    protocol = Drawn()
    parts = protocol.read(protocol.prepare(tmp_path, tmp_path / "drawn"))
    config = run_config(OnTrunk(protocol, "frozen"), TRIPLETS, 0, "test")
    empty = parts["train"].take(np.empty(0, np.int64))
    with pytest.raises(ConfigError, match=r"net.cached is for data that hold the output of the frozen layers"):
        train(config, Dataset("drawn", "", parts["train"], empty, empty), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"net.cached needs net.frozen"):
        NetConfig(**NET, cached=True)


def test_batch_draws_one_view_of_each_image(root, tmp_path):
    protocol = OnTrunk(Drawn(), "frozen")
    parts = protocol.read(root)
    empty = parts["train"].take(np.empty(0, np.int64))
    data, config = Dataset("", "", parts["train"], empty, empty), run_config(protocol, TRIPLETS, 0, "test")
    with worker("cpu") as me:
        run = Run(config, data, tmp_path, me, resume=False, crops=empty, validation=None)
    rows = np.arange(len(parts["train"]))
    (images,) = run.images.batches([rows])
    batch = run.batch(images, np.random.default_rng(0)).half().numpy()
    hits = np.array([[(batch[i] == parts["train"].maps[i, v]).all() for v in range(2)] for i in rows])
    assert hits.any(1).all()
    assert hits[:, 0].any()
    assert hits[:, 1].any()


@pytest.mark.parametrize("way", FROZEN)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_on_the_cache_or_says_why_not(name, way):
    if OnTrunk(Drawn(), way).refuses(name) is not None:
        return
    method = create({"name": name}, build, cached_net(way, embedding_size=64))
    torch.manual_seed(0)
    method.prepare(16)
    shape = (1280, 1, 1) if way == "frozen" else (112, 4, 2)
    maps = torch.randn(32, *shape)
    loss = method.loss(maps, torch.arange(16).repeat_interleave(2), np.random.default_rng(0))
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in method.parameters())


def test_body_learns_at_its_own_rate():
    method = create(dict(TRIPLETS["method"]), build, cached_net("tuned", embedding_size=16))
    groups = parameter_groups(method, 0.05, 0.1)
    rate_of = {id(parameter): group["rate"] for group in groups for parameter in group["params"]}
    assert {rate_of[id(parameter)] for parameter in method.net.body.parameters()} == {0.1}
    assert rate_of[id(method.net.project.weight)] == 1.0
    assert sum(len(group["params"]) for group in groups) == len([p for p in method.parameters() if p.requires_grad])
    assert ScheduleConfig().body_rate == 1.0
    assert len(parameter_groups(method, 0.05)) == 2, "checkpoints of runs without it have two groups"


def test_reduced_command_on_a_trunk_leaves_out_what_it_cannot_train(tmp_path, capsys):
    table = tmp_path / "table.csv"
    command = ["--reduced", "--trunk", "frozen", "--jobs", "1", "--seeds", "1", "--out", str(tmp_path / "out")]
    assert compare_methods.main(["--method", "siamese_miner", "abe", *command, "--table", str(table)]) == 0
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [(row["name"], row["setting"]) for row in rows] == [("siamese_miner", "drawn_frozen")] * 4
    alone = " of ImageNet alone"
    assert [row["measure"] for row in rows] == [
        "R@1",
        "mAP",
        *(f"{m}, against the features{alone}" for m in ("R@1", "mAP")),
    ]
    assert [row["method_values"] for row in rows[2:]] == [row["method_values"] for row in rows[:2]]
    assert rows[0]["command"].endswith("--method siamese_miner --trunk frozen --seeds 1 --reduced")
    assert "abe is left out: its masks need maps" in capsys.readouterr().err


def test_characters_have_no_form_for_it(tmp_path):
    with pytest.raises(ConfigError, match="omniglot has no form for a network from ImageNet"):
        OnTrunk(Omniglot(), "frozen").prepare(tmp_path, tmp_path / "out")


def test_cifar_classes_are_in_one_part_each(tmp_path):
    for number in range(9):
        folder = tmp_path / "cifar100" / "train" / f"class_{number}"
        folder.mkdir(parents=True)
        for image in range(4):
            (folder / f"{image}.png").touch()
    protocol = Cifar100(n_train=4, n_validation=2, n_test=3, n_images=3)
    parts = protocol.read(protocol.prepare(tmp_path, tmp_path / "out"))
    assert [len(parts[part]) for part in PARTS] == [12, 6, 9]
    folders = [{path.parent.name for path in parts[part].paths} for part in PARTS]
    assert len(set.union(*folders)) == sum(map(len, folders)) == 9


def test_inshop_ranks_queries_against_the_gallery(tmp_path):
    rows = [f"img/a/id_{item:08d}/{k}.jpg id_{item:08d} train" for item in range(1, 6) for k in range(2)]
    rows += [f"img/a/id_{item:08d}/{k}.jpg id_{item:08d} {part}" for item in (8, 9) for k, part in
             enumerate(("query", "gallery", "gallery"))]  # fmt: skip
    (tmp_path / "Eval").mkdir()
    (tmp_path / "Eval" / "list_eval_partition.txt").write_text("\n".join([str(len(rows)), "names", *rows]))
    protocol = InShop()
    parts = protocol.read(protocol.prepare(tmp_path, tmp_path / "out"))
    assert [np.unique(parts[part].pids).tolist() for part in PARTS] == [[1, 2, 3, 4], [5], [8, 9]]
    # The two queries are alike: they would be each other's nearest, but are not in the gallery.
    emb = np.array([[1, 0], [1, 0], [0.9, 0.1], [0.9, 0.1], [0, 1], [0, 1]], np.float32)
    emb /= np.linalg.norm(emb, axis=1, keepdims=True)
    order = np.argsort(parts["test"].camids, kind="stable")
    assert order.tolist() == [0, 1, 2, 3, 4, 5]
    scores = protocol.rank(emb, parts["test"])
    assert (scores.n_queries, scores.rank1) == (2, 0.5)


def test_key_depends_on_the_way_and_the_images():
    keys = {OnTrunk(Cifar100(n_images=n), way).key() for n in (10, 20) for way in FROZEN}
    assert len(keys) == 4
    assert dataclasses.asdict(OnTrunk(Drawn(), "tuned"))["trunk"] == "tuned"
    assert trunk.EMBEDDING_SIZE == 512
