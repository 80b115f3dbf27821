"""The triplet VAE: its two limiting cases, losses against slow loops and finite differences, gradient flow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reid_training.config import from_dict
from reid_training.data.transforms import normalise
from reid_training.errors import ConfigError, DataError
from reid_training.export import write_onnx
from reid_training.methods.triplet_vae import (
    TripletVAEConfig,
    kl_divergence,
    negative_elbo,
    random_triplets,
    reconstruction_error,
    sample,
    small_pixels,
    triplet_on_means,
)
from reid_training.runs import new_method
from tools.experiments.mnist import DigitVAE

N_CLASSES, PER_CLASS = 4, 4


@pytest.fixture
def batch():
    """Images (16, 3, 32, 16) with pixels in [0, 1] before they were normalised, and labels (16,)."""
    torch.manual_seed(0)
    labels = torch.arange(N_CLASSES).repeat_interleave(PER_CLASS)
    return normalise(torch.rand(len(labels), 3, 32, 16) * torch.rand(N_CLASSES, 3, 1, 1)[labels]), labels


def method_of(name="triplet_vae", **options):
    config = from_dict(
        {
            "data": {"height": 32, "width": 16},
            "net": {"channels": [8, 16, 24], "last_channels": 32, "width": 1.0, "blocks": 1, "embedding_size": 24},
            "method": {"name": name, **options},
        }
    )
    torch.manual_seed(1)
    return new_method(config, N_CLASSES, start=True).train(), config


def loss_of(method, batch, seed=0):
    return method.loss(*batch, np.random.default_rng(seed))


def gradients(method, batch):
    method.zero_grad()
    loss_of(method, batch).total.backward()
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def latents(n=6, size=3, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(torch.tensor(rng.normal(size=(n, size)), requires_grad=True) for _ in range(2))


def slow_negative_elbo(logits, targets, means, log_variances):
    total = 0.0
    for i in range(len(means)):
        for logit, target in zip(logits[i].flatten().tolist(), targets[i].flatten().tolist(), strict=True):
            p = 1.0 / (1.0 + math.exp(-logit))
            total -= target * math.log(p) + (1.0 - target) * math.log(1.0 - p)
        for mean, log_variance in zip(means[i].tolist(), log_variances[i].tolist(), strict=True):
            total -= 0.5 * (1.0 + log_variance - mean**2 - math.exp(log_variance))
    return total / len(means)


def test_negative_elbo_agrees_with_one_pixel_at_a_time():
    means, log_variances = latents()
    logits = torch.randn(6, 3, 2, 4, dtype=torch.float64)
    targets = torch.rand(6, 3, 2, 4, dtype=torch.float64)
    expected = slow_negative_elbo(logits, targets, means, log_variances)
    assert negative_elbo(logits, targets, means, log_variances).item() == pytest.approx(expected, rel=1e-12)


def test_divergence_equals_that_of_the_densities():
    """Against the mean of log q - log p on a fine grid of one dimension."""
    mean, log_variance = 0.7, -0.9
    z = torch.linspace(-12, 12, 200001, dtype=torch.float64)
    q = torch.distributions.Normal(mean, math.exp(0.5 * log_variance))
    prior = torch.distributions.Normal(0.0, 1.0)
    log_q = q.log_prob(z)
    expected = torch.trapezoid(log_q.exp() * (log_q - prior.log_prob(z)), z)
    got = kl_divergence(torch.tensor([[mean]]).double(), torch.tensor([[log_variance]]).double())
    torch.testing.assert_close(got[0], expected, rtol=1e-5, atol=0)


def test_divergence_is_non_negative_and_zero_at_the_prior():
    torch.manual_seed(0)
    for scale in (1e-4, 1e-2, 1.0):
        assert (kl_divergence(scale * torch.randn(100, 20), scale * torch.randn(100, 20)) >= 0).all()
    assert torch.equal(kl_divergence(torch.zeros(3, 20), torch.zeros(3, 20)), torch.zeros(3))


def test_perfect_decoder_has_zero_reconstruction_error():
    targets = (torch.arange(24).reshape(2, 12) % 2).double()
    assert float(reconstruction_error(80.0 * (2 * targets - 1), targets).max()) < 1e-30
    wrong = reconstruction_error(-80.0 * (2 * targets - 1), targets)
    torch.testing.assert_close(wrong, torch.full((2,), 12 * 80.0, dtype=torch.float64))


def test_samples_have_the_given_mean_and_variance():
    means = torch.tensor([[0.5, -2.0]]).double().expand(20000, 2)
    log_variances = torch.tensor([[0.0, -1.0]]).double().expand(20000, 2)
    drawn = sample(means, log_variances, np.random.default_rng(0))
    torch.testing.assert_close(drawn.mean(0), means[0], atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.var(0), log_variances[0].exp(), atol=0, rtol=0.03)


@pytest.mark.parametrize("what", ["elbo", "triplet", "sample"])
def test_gradients_agree_with_finite_differences(what):
    means, log_variances = latents()
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(6, 4, dtype=torch.float64)
    triplets = tuple(torch.tensor(rows) for rows in ([0, 1, 2], [3, 4, 5], [5, 3, 4]))

    def value(means, log_variances, logits):
        if what == "elbo":
            return negative_elbo(logits, targets, means, log_variances)
        if what == "triplet":
            return triplet_on_means(means, triplets, 5.0)
        return sample(means, log_variances, np.random.default_rng(0)).pow(2).sum()

    assert torch.autograd.gradcheck(value, (means, log_variances, logits))


def test_triplet_loss_uses_unsquared_distances():
    means, _ = latents()
    rows = ([0, 1, 2, 0], [3, 4, 5, 1], [5, 3, 4, 2])
    terms = []
    for a, p, n in zip(*rows, strict=True):
        far, near = (math.dist(means[a].tolist(), means[i].tolist()) for i in (n, p))
        terms.append(max(0.0, near - far + 0.2))
    got = triplet_on_means(means, tuple(torch.tensor(r) for r in rows), 0.2)
    assert got.item() == pytest.approx(sum(terms) / 4, rel=1e-9)


def test_positive_equal_to_negative_costs_the_margin():
    means, _ = latents()
    twice = torch.cat([means, means[3:4]])
    triplets = (torch.tensor([0, 1]), torch.tensor([3, 3]), torch.tensor([6, 6]))
    assert triplet_on_means(twice, triplets, 0.2).item() == pytest.approx(0.2, abs=1e-12)


def test_random_triplets_are_valid_and_uniform():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    rng = np.random.default_rng(0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(3000):
        anchors, positives, negatives = random_triplets(labels, rng)
        assert anchors.tolist() == [0, 1, 2, 3, 4]  # the last class has one sample
        assert (labels[anchors] == labels[positives]).all()
        assert (anchors != positives).all()
        assert (labels[anchors] != labels[negatives]).all()
        first = (int(positives[0]), int(negatives[0]))
        counts[first] = counts.get(first, 0) + 1
    assert set(counts) == {(p, n) for p in (1, 2) for n in (3, 4, 5)}
    assert max(abs(count - 500) for count in counts.values()) < 100  # five standard deviations


@pytest.mark.parametrize("miner", ["hard", "all"])
@pytest.mark.parametrize("id_weight", [0.0, 1.0])
def test_without_vae_equals_the_triplet_network_to_the_bit(batch, miner, id_weight):
    ours, _ = method_of(vae_weight=0.0, miner=miner, id_weight=id_weight)
    plain, _ = method_of("siamese", pair_loss="triplet", miner=miner, id_weight=id_weight)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    got, expected = loss_of(ours, batch), loss_of(plain, batch)
    assert torch.equal(got.total, expected.total)
    assert torch.equal(got.embeddings, expected.embeddings)
    theirs = gradients(plain, batch)
    assert all(torch.equal(gradient, theirs[name]) for name, gradient in gradients(ours, batch).items())


def test_without_triplet_equals_the_vae_to_the_bit(batch):
    images = batch[0]
    method, _ = method_of(vae_weight=1.0, triplet_weight=0.0)
    pooled = method.net.body(images).mean((2, 3))
    means, log_variances = method.net.project(pooled), method.log_variance(pooled)
    targets = small_pixels(images, 4)
    logits = method.decoder(sample(means, log_variances, np.random.default_rng(7)), 8, 4)
    assert torch.equal(loss_of(method, batch, seed=7).total, negative_elbo(logits, targets, means, log_variances))
    # A VAE asks for no labels.
    assert torch.equal(loss_of(method, (images, torch.arange(16)), seed=7).total, loss_of(method, batch, seed=7).total)


def test_triplet_trains_neither_log_variance_nor_decoder(batch):
    both, _ = method_of(vae_weight=1.0)
    vae, _ = method_of(vae_weight=1.0, triplet_weight=0.0)
    with_triplet, without = gradients(both, batch), gradients(vae, batch)
    assert with_triplet.keys() == without.keys()
    for name, gradient in with_triplet.items():
        # The gradient of the trunk and of the means comes from both.
        assert torch.equal(gradient, without[name]) != name.startswith("net."), name


def test_triplet_uses_means_not_samples(batch):
    first, second = (loss_of(method_of(vae_weight=1.0)[0], batch, seed) for seed in (0, 1))
    assert first.parts["triplet"] == second.parts["triplet"]
    assert first.parts["kl"] == second.parts["kl"]
    assert first.parts["bce"] != second.parts["bce"]


@pytest.mark.slow
def test_training_improves_reconstruction_and_separation(batch):
    method, _ = method_of(vae_weight=0.001)
    optimiser = torch.optim.Adam(method.parameters(), lr=3e-3)
    history = []
    for step in range(60):
        loss = loss_of(method, batch, step)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        history.append(loss.parts)
    assert history[-1]["bce"] < 0.95 * history[0]["bce"]
    assert history[-1]["triplet"] < 0.5 * history[0]["triplet"]


def test_divergence_weight_is_inside_the_elbo(batch):
    whole, none = (
        loss_of(method_of(vae_weight=0.5, triplet_weight=0.0, kl_weight=weight)[0], batch) for weight in (1.0, 0.0)
    )
    assert whole.parts == none.parts
    torch.testing.assert_close(whole.total - none.total, torch.tensor(0.5 * whole.parts["kl"]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("size", [(32, 16), (32, 32), (16, 64)])
def test_decoded_images_are_smaller_by_the_reduction(size):
    method, _ = method_of(reduction=8)
    with torch.no_grad():
        pictures = method.eval().reconstruct(torch.zeros(2, 3, *size))
    assert pictures.shape == (2, 3, size[0] // 8, size[1] // 8)
    assert ((pictures > 0) & (pictures < 1)).all()


def test_targets_are_the_pixels_before_normalisation():
    pixels = torch.rand(2, 3, 16, 32)
    small = small_pixels(normalise(pixels), 4)
    by_hand = torch.stack(
        [pixels[..., y : y + 4, x : x + 4].mean((2, 3)) for y in range(0, 16, 4) for x in range(0, 32, 4)]
    )
    torch.testing.assert_close(small.flatten(2).permute(2, 0, 1), by_hand)


def test_digit_vae_has_the_layers_of_the_experiment():
    vae = DigitVAE()
    shapes = [tuple(p.shape) for p in vae.parameters() if p.ndim == 2]
    assert shapes == [(400, 784), (20, 400), (20, 400), (400, 20), (784, 400)]
    means, log_variances = vae.encode(torch.rand(3, 784))
    assert means.shape == log_variances.shape == (3, 20)
    assert vae.decode(means).shape == (3, 784)


def test_exported_file_computes_means_only(tmp_path):
    onnx = pytest.importorskip("onnx")
    method, config = method_of()
    properties = {
        "input_height": "32", "input_width": "16", "mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225",
        "pixel_scale": repr(1 / 255), "embedding_size": "24", "color_order": "RGB", "tracklet.format": "reid/1",
        "normalized": "true", "distance": "cosine",
    }  # fmt: skip
    write_onnx(method.eval(), config, properties, tmp_path / "net.onnx")
    n_weights = sum(math.prod(t.dims) for t in onnx.load(tmp_path / "net.onnx").graph.initializer)
    assert n_weights <= sum(t.numel() for t in method.net.state_dict().values())


def test_noise_without_a_generator_is_refused(batch):
    for options in ({}, {"vae_weight": 0.0, "miner": "random"}):
        with pytest.raises(ValueError, match="needs an rng"):
            method_of(**options)[0].loss(*batch)


def test_pictures_without_a_decoder_are_refused(batch):
    with pytest.raises(ValueError, match="no decoder"):
        method_of(vae_weight=0.0)[0].reconstruct(batch[0])


def test_vae_refuses_non_finite_pixels(batch):
    method, _ = method_of(triplet_weight=0.0)
    with pytest.raises(DataError, match="not finite"):
        loss_of(method, (batch[0] * float("inf"), batch[1]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"miner": "soft"}, r"miner must be one of random, hard, all, got 'soft'"),
        ({"margin": 0.0}, r"margin must be > 0, got 0\.0"),
        ({"vae_weight": -1.0}, "vae_weight must be >= 0, got -1.0"),
        ({"vae_weight": 0.0, "triplet_weight": 0.0}, "must not all be 0"),
        ({"kl_weight": -0.5}, r"kl_weight must be >= 0, got -0\.5"),
        ({"reduction": 3}, "reduction must be one of 1, 2, 4, 8, got 3"),
        ({"decoder_channels": 0}, r"decoder_channels must be >= 1, got 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1\.0"),
    ],
)
def test_bad_settings_are_named(options, said):
    with pytest.raises(ConfigError, match=said):
        TripletVAEConfig(**options)
