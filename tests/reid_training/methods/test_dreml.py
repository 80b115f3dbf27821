"""DREML: the random maps, the loss and the concatenation against slow loops; one member with every class is softmax."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from reid_training.errors import ConfigError
from reid_training.methods.dreml import DremlConfig, concatenate, id_matrix, joined, meta_class_losses
from reid_training.nets import build
from reid_training.nets.heads import unit_rows
from reid_training.runs import new_method


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(tiny, n_classes=6, seed=0, **options):
    torch.manual_seed(seed)
    return new_method(dataclasses.replace(tiny, method={"name": "dreml", **options}), n_classes, start=True)


@pytest.fixture
def batch():
    """Images (8, 3, 64, 32) of four people."""
    return torch.randn(8, 3, 64, 32, generator=seeded()), torch.arange(4).repeat_interleave(2)


@pytest.mark.parametrize(("n_classes", "n_meta"), [(6, 3), (7, 3), (100, 12), (5, 5), (2, 2)])
def test_meta_class_columns_are_balanced(n_classes, n_meta):
    matrix = id_matrix(n_classes, n_meta, 9, seeded())
    assert matrix.shape == (n_classes, 9)
    for column in matrix.T.tolist():
        counts = Counter(column)
        assert set(counts) == set(range(n_meta))
        assert max(counts.values()) - min(counts.values()) <= 1


def test_same_seed_gives_the_same_maps_members_differ():
    first, again, other = (id_matrix(50, 8, 6, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(column) for column in first.T.tolist()}) == 6


def test_all_balanced_maps_are_equally_likely():
    columns = id_matrix(3, 2, 6000, seeded()).T.tolist()
    counts = Counter(map(tuple, columns))
    assert len(counts) == 6  # one class alone, of three, with either number
    assert all(abs(n - 1000) < 5 * math.sqrt(1000) for n in counts.values())


def test_losses_agree_with_a_slow_loop():
    logits = torch.randn(5, 3, 4, generator=seeded(), dtype=torch.float64)
    labels, meta_of = torch.tensor([0, 6, 2, 2, 5]), id_matrix(7, 4, 3, seeded(1))
    for member, loss in enumerate(meta_class_losses(logits, labels, meta_of).tolist()):
        terms = []
        for image, label in enumerate(labels.tolist()):
            row = [math.exp(float(x)) for x in logits[image, member]]
            terms.append(-math.log(row[int(meta_of[label, member])] / sum(row)))
        assert loss == pytest.approx(sum(terms) / len(terms), abs=1e-12)


def test_gradients_agree_with_finite_differences():
    logits = torch.randn(4, 2, 3, generator=seeded(), dtype=torch.float64, requires_grad=True)
    labels, meta_of = torch.tensor([0, 3, 1, 1]), id_matrix(4, 3, 2, seeded(1))
    assert torch.autograd.gradcheck(lambda x: meta_class_losses(x, labels, meta_of), (logits,))
    assert torch.autograd.gradcheck(concatenate, (logits,))


@pytest.mark.parametrize("meta_classes", [6, 0])
def test_one_member_with_identity_map_equals_softmax(tiny, batch, meta_classes):
    images, labels = batch
    method = make(tiny, n_classes=6, members=1, meta_classes=meta_classes)
    assert sorted(method.meta_of[:, 0].tolist()) == list(range(6))
    method.meta_of.copy_(torch.arange(6)[:, None])
    torch.manual_seed(0)
    plain = build(dataclasses.replace(tiny.net, embedding_size=6), start=True)
    logits = plain(images)
    expected = F.cross_entropy(logits, labels)
    expected.backward()
    loss = method.loss(images, labels)
    loss.total.backward()
    assert torch.equal(loss.total, expected)
    assert torch.equal(loss.embeddings, unit_rows(logits))
    for own, reference in zip(method.nets[0].parameters(), plain.parameters(), strict=True):
        assert torch.equal(own.grad, reference.grad)


def test_similarity_is_the_mean_of_the_members_cosines():
    logits = torch.randn(6, 5, 3, generator=seeded(), dtype=torch.float64)
    emb = concatenate(logits)
    for i in range(6):
        for j in range(6):
            cosines = [
                float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) for a, b in zip(logits[i], logits[j], strict=True)
            ]
            assert float(emb[i] @ emb[j]) == pytest.approx(sum(cosines) / 5, abs=1e-12)
    assert float(torch.cdist(emb, emb).max()) ** 2 <= 4.0


def test_order_of_the_members_changes_no_distance():
    logits = torch.randn(6, 5, 3, generator=seeded(), dtype=torch.float64)
    first, turned = (concatenate(x) for x in (logits, logits[:, [3, 0, 4, 2, 1]]))
    torch.testing.assert_close(torch.cdist(first, first), torch.cdist(turned, turned))


def test_members_start_different_and_train_independently(tiny, batch):
    method = make(tiny, members=3, meta_classes=4)
    assert not torch.equal(method.nets[0].project.weight, method.nets[1].project.weight)
    logits = method.train().logits(batch[0])
    meta_class_losses(logits, batch[1], method.meta_of)[1].backward()
    moved = [any(bool(p.grad is not None and p.grad.any()) for p in net.parameters()) for net in method.nets]
    assert moved == [False, True, False]


def test_total_loss_is_the_sum_over_members(tiny, batch):
    method = make(tiny, members=3, meta_classes=4).eval()
    loss = method.loss(*batch)
    each = [F.cross_entropy(net(batch[0]), method.meta_of[batch[1], i]) for i, net in enumerate(method.nets)]
    torch.testing.assert_close(loss.total, torch.stack(each).sum())
    assert loss.parts["meta"] == pytest.approx(float(loss.total.detach()) / 3)


def test_shared_members_use_one_network(tiny, batch):
    method = make(tiny, members=3, meta_classes=4, shared=True).eval()
    assert len(method.nets) == 1
    with torch.no_grad():
        rows = method.nets[0](batch[0])
        expected = torch.cat([unit_rows(part) for part in rows.split(4, dim=1)], dim=1) / math.sqrt(3)
        torch.testing.assert_close(method.embed(batch[0]), expected)
    assert method.meta_of.shape == (6, 3)


def test_joined_state_equals_the_whole_ensemble(tiny, batch):
    members = [make(tiny, seed=i, members=3, meta_classes=4, member=i).eval() for i in range(3)]
    whole = make(tiny, seed=9, members=3, meta_classes=4).eval()
    whole.load_state_dict(joined([member.state_dict() for member in members]))
    with torch.no_grad():
        each = torch.cat([member.embed(batch[0]) for member in members], dim=1)
        torch.testing.assert_close(whole.embed(batch[0]), each / math.sqrt(3))
        losses = sum(member.loss(*batch).total for member in members)
        torch.testing.assert_close(whole.loss(*batch).total, losses)


@pytest.mark.parametrize(
    ("options", "apart"), [({"members": 3}, 3), ({"members": 3, "member": 2}, 0), ({"shared": True}, 0)]
)
def test_only_separate_networks_are_trained_as_jobs(options, apart):
    assert DremlConfig(**options).n_apart == apart


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": 0}, "members must be >= 1, got 0"),
        ({"meta_classes": 1}, "meta_classes must be 0 or >= 2, got 1"),
        ({"members": 2, "member": 2}, r"member must be in \[-1, members - 1\] = \[-1, 1\], got 2"),
        ({"shared": True, "member": 0}, "method.member must be -1 with method.shared"),
        ({"meta_classes": 7}, "method.meta_classes must be at most 6, the people here, got 7"),
    ],
)
def test_bad_settings_are_named(tiny, options, message):
    with pytest.raises(ConfigError, match=message):
        make(tiny, **options)
