"""Triplet VAE: a variational autoencoder with a triplet loss on its mean vectors.

TVAE: Triplet-Based Variational Autoencoder using Metric Learning. Haque Ishfaq, Assaf Hoogi, Daniel Rubin. ICLR 2018
workshop, https://arxiv.org/abs/1802.04403.
Auto-Encoding Variational Bayes. Diederik P. Kingma, Max Welling. ICLR 2014, https://arxiv.org/abs/1312.6114: the
bound, its noise, and the KL divergence of two Gaussians (appendix B).

What we take:
(1) The loss is the negative ELBO plus a triplet loss.
(2) The triplet loss sees the *means* of the encoder, never samples, by distances that are not squared.
(3) The mean is the embedding.
(4) The measure of quality: the share of triplets of unseen images in the right order (see tools/experiments).
Where we differ:
(1) The abstract weighs both parts equally; the triplet loss is then tiny beside hundreds of nats of pixels. The weights
    are options. A `kl_weight` below 1 makes latents cheaper (beta-VAE: Higgins et al. ICLR 2017, there with weights
    above 1): a small picture, whose greys a Bernoulli decoder can hardly tell apart, justifies few latents.
(2) Triplets may be mined in the batch. By default the loss sees the means at unit length, because the tracker compares
    embeddings by cosine: an order that Euclidean distances keep only by the length of a mean would be lost in `embed`.
(3) For crops the encoder is the configured network, the log-variance a second linear map of the same pooled features.
    The decoder draws a picture a few times smaller, with pixels in [0, 1]: identity is not in single pixels. Its target
    is the augmented crop, erased rectangles included.
The gradient of the triplet loss reaches the encoder's trunk and the map to the means; log-variance and decoder learn
from the ELBO alone. Optional: identity classification behind a BN-neck, on the means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from reid_training import distances, losses, mining
from reid_training.data.transforms import MEAN, STD
from reid_training.methods.base import IdentityMethod, Loss, check_batch
from reid_training.nets.heads import unit_rows
from reid_training.nets.layers import conv_bn
from reid_training.nets.projected import ProjectedNet
from tracker.settings import BelowOne, Count, NotNegative, OneOf, Positive, Settings, require

MINERS = ("random", "hard", "all")
# Height and width that the decoder starts from: a quarter of those of a 128x64 crop's picture, 32x16. For crops of
# another shape the grid is stretched.
GRID = (8, 4)
# Ours: sigma starts at 0.14, below the spread of the first means. With 64 latents of sigma 1 the decoder sees
# only noise, and training first switches the latents off.
START_LOG_VARIANCE = -4.0


@dataclass(frozen=True, slots=True)
class TripletVAEConfig(Settings):
    """Settings of `TripletVAE`."""

    vae_weight: NotNegative = 0.001  # of the negative ELBO in nats; 0 = a plain triplet network, without a decoder
    triplet_weight: NotNegative = 1.0  # 0 = a plain VAE
    kl_weight: NotNegative = 1.0  # inside the ELBO, 1 = the bound itself; less draws more of each crop
    unit_means: bool = True  # the triplet sees means of length 1; False is the paper's
    miner: Annotated[str, OneOf(MINERS)] = "hard"  # the paper draws at random
    margin: Positive = 0.3  # Siamese's, for unit means; public MNIST code has 0.2 for free ones
    reduction: Annotated[int, OneOf((1, 2, 4, 8))] = 4  # the decoder's picture is smaller by this much on each side
    decoder_channels: Count = 32  # of the decoder's layers
    id_weight: NotNegative = 0.0  # 0 = no classification; 1 with label smoothing is the Siamese network's recipe
    label_smoothing: BelowOne = 0.1  # Luo et al. 2019, section 3.4, as in the Siamese network

    def check_together(self) -> None:
        total = self.vae_weight + self.triplet_weight + self.id_weight
        require(total > 0, "method.vae_weight, method.triplet_weight and method.id_weight must not all be 0")


def reconstruction_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Bernoulli cross-entropy of every image, summed over its pixels. In nats.

    logits (B, ...), before the sigmoid; targets of the same shape in [0, 1]. Returns (B,). Where targets are between 0
    and 1 the least value is their own entropy, not 0.
    """
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1).sum(1)


def kl_divergence(means: Tensor, log_variances: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) = 1/2 sum (mu^2 + sigma^2 - 1 - log sigma^2) of every image, >= 0. In nats.

    means, log_variances (B, D). Returns (B,).
    """
    # expm1: near sigma = 1 the difference of exp and 1 would be rounded away.
    return 0.5 * (means.pow(2) + torch.expm1(log_variances) - log_variances).sum(1)


def negative_elbo(logits: Tensor, targets: Tensor, means: Tensor, log_variances: Tensor) -> Tensor:
    """Mean over images of reconstruction error + KL: a bound on -log p(x) from above. In nats.

    logits, targets (B, ...), the decoder's output for one sample per image; means, log_variances (B, D).
    """
    return reconstruction_error(logits, targets).mean() + kl_divergence(means, log_variances).mean()


def sample(means: Tensor, log_variances: Tensor, rng: np.random.Generator) -> Tensor:
    """mu + sigma * noise, noise from N(0, 1). means, log_variances (B, D); returns (B, D)."""
    noise = torch.from_numpy(rng.standard_normal(means.shape)).to(means)
    return means + (0.5 * log_variances).exp() * noise


def triplet_on_means(means: Tensor, triplets: mining.Triplets, margin: float, *, active_only: bool = False) -> Tensor:
    """Mean over triplets of max(0, margin + |mu_a - mu_p| - |mu_a - mu_n|).

    means (B, D); triplets: rows of it, 3 x (M,). `active_only`: see `losses.triplet_loss`.
    """
    return losses.triplet_loss(distances.euclidean(means, means), triplets, margin, active_only=active_only)


def random_triplets(labels: Tensor, rng: np.random.Generator) -> mining.Triplets:
    """For every image that has both, a positive and a negative of the batch, each equally likely.

    labels (B,). Returns anchors, positives, negatives, each (A,) with A <= B.
    """
    positive = mining.same_identity(labels)
    negative = labels[:, None] != labels[None]
    order = torch.from_numpy(rng.random((2, *positive.shape))).to(labels.device)  # the first of a random order
    anchors = torch.nonzero(positive.any(1) & negative.any(1)).squeeze(1)
    positives = order[0].masked_fill(~positive, -1.0).argmax(1)
    negatives = order[1].masked_fill(~negative, -1.0).argmax(1)
    return anchors, positives[anchors], negatives[anchors]


class CropDecoder(nn.Module):
    """Latent vectors (B, D) to logits of pictures (B, 3, h, w) of any size: a small grid, enlarged twice."""

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.start = nn.Linear(size, channels * GRID[0] * GRID[1])
        self.coarse = conv_bn(channels, channels, 3)
        self.fine = nn.Sequential(conv_bn(channels, channels, 3), nn.Conv2d(channels, 3, 3, padding=1))

    def forward(self, latent: Tensor, height: int, width: int) -> Tensor:
        grid = torch.relu(self.start(latent)).view(len(latent), -1, *GRID)
        half = F.interpolate(grid, (max(1, height // 2), max(1, width // 2)))
        logits: Tensor = self.fine(F.interpolate(self.coarse(half), (height, width)))
        return logits


class TripletVAE(IdentityMethod):
    """Embedding: the means at unit length, behind the BN-neck where there is one."""

    net: ProjectedNet

    def __init__(self, net: ProjectedNet, size: int, config: TripletVAEConfig) -> None:
        super().__init__(net, size, config.id_weight, config.label_smoothing)
        self.config = config
        self.log_variance: nn.Linear | None = None
        self.decoder: CropDecoder | None = None
        if config.vae_weight > 0:
            self.log_variance = nn.Linear(net.project.in_features, size)
            nn.init.normal_(self.log_variance.weight, std=0.01)
            nn.init.constant_(self.log_variance.bias, START_LOG_VARIANCE)
            self.decoder = CropDecoder(size, config.decoder_channels)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W), normalised. Returns what the means decode to, (B, 3, h, w) in [0, 1]."""
        height, width = (side // self.config.reduction for side in images.shape[2:])
        return self.decode(self.net(images).float(), height, width)

    @torch.no_grad()
    def decode(self, latent: Tensor, height: int, width: int) -> Tensor:
        """latent (B, D). Returns pictures (B, 3, height, width) in [0, 1]; one from N(0, 1) is a sample."""
        if self.decoder is None:
            raise ValueError("a triplet_vae with vae_weight 0 has no decoder")
        return torch.sigmoid(self.decoder(latent, height, width))

    def loss(self, images: Tensor, labels: Tensor, rng: np.random.Generator | None = None) -> Loss:
        needed = 2 if self.config.triplet_weight > 0 else 1  # the ELBO and the classifier learn from any image
        check_batch("triplet_vae", images, labels, n_ids=needed, n_per_id=needed)
        pooled = self.net.pooled(images)
        means = self.net.project(pooled).float()  # (B, D)
        with torch.autocast(means.device.type, enabled=False):
            return self._loss(images, pooled.float(), means, labels, rng)

    def _loss(
        self, images: Tensor, pooled: Tensor, means: Tensor, labels: Tensor, rng: np.random.Generator | None
    ) -> Loss:
        config = self.config
        parts: dict[str, float] = {}
        total = means.new_zeros(())
        if config.vae_weight > 0:
            error, divergence = self._elbo_terms(images, pooled, means, rng)
            total = total + config.vae_weight * (error + config.kl_weight * divergence)
            parts["bce"], parts["kl"] = float(error.detach()), float(divergence.detach())
        if config.triplet_weight > 0:
            value = self._triplet(means, labels, rng)
            total = total + config.triplet_weight * value
            parts["triplet"] = float(value.detach())
        necked = self.neck(means)
        total = total + self.identity_loss(necked, labels, parts)
        return Loss(total, parts, unit_rows(necked))

    def _elbo_terms(
        self, images: Tensor, pooled: Tensor, means: Tensor, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Reconstruction error and KL, their means over the batch: the two terms of `negative_elbo`."""
        assert self.log_variance is not None
        assert self.decoder is not None
        if rng is None:
            raise ValueError("a VAE samples at random: loss() needs an rng")
        targets = small_pixels(images.float(), self.config.reduction)
        log_variances = self.log_variance(pooled)
        logits = self.decoder(sample(means, log_variances, rng), *targets.shape[2:])
        return reconstruction_error(logits, targets).mean(), kl_divergence(means, log_variances).mean()

    def _triplet(self, means: Tensor, labels: Tensor, rng: np.random.Generator | None) -> Tensor:
        config = self.config
        points = unit_rows(means) if config.unit_means else means
        triplets = self._triplets(points.detach(), labels, rng)
        return triplet_on_means(points, triplets, config.margin, active_only=config.miner == "all")

    def _triplets(self, points: Tensor, labels: Tensor, rng: np.random.Generator | None) -> mining.Triplets:
        if self.config.miner == "all":
            return mining.batch_all(labels)
        if self.config.miner == "hard":
            return mining.batch_hard(distances.euclidean(points, points), labels)
        if rng is None:
            raise ValueError("the random miner draws at random: loss() needs an rng")
        return random_triplets(labels, rng)


def small_pixels(images: Tensor, reduction: int) -> Tensor:
    """Targets of the decoder: normalised images (B, 3, H, W) as pixels in [0, 1], averaged over squares.

    Returns (B, 3, H / reduction, W / reduction).
    """
    mean, std = images.new_tensor(MEAN), images.new_tensor(STD)
    pixels = images * std[:, None, None] + mean[:, None, None]
    return F.avg_pool2d(pixels.clamp(0.0, 1.0), reduction)
