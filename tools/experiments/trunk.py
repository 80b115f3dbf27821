"""Images as EfficientNet-Lite0 from ImageNet sees them, computed once per data set.

frozen: the whole network stays as it is; what is trained takes its 1280 pooled features.
tuned:  the stages of 192 and 320 channels and the last convolution are trained too, at a tenth of the rate, on the maps
        of the stage before them.
A training image has several views, one as it is and the others augmented; a run draws one of them for each batch.
Held-out images have one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from tqdm import tqdm

from reid_training.config import AugmentConfig, NetConfig, from_dict
from reid_training.data.base import ByteArray, HalfArray, Samples, read_images
from reid_training.data.transforms import augment, network_input
from reid_training.errors import ConfigError
from reid_training.evaluate import FloatArray, Ranking
from reid_training.nets import build
from reid_training.nets.layers import PooledNet
from tools.experiments.protocols import ALONE, PARTS, Protocol, Settings, TrunkInput, write_whole

# Layers of EfficientNet-Lite0 that are not trained: its 18, or those before the stage of 192 channels.
FROZEN = {"frozen": 18, "tuned": 12}
# As in its paper; a last stride of 1 would take three times as long.
NET: Mapping[str, Any] = {"name": "efficientnet_lite0", "width": 1.0, "last_stride": 2, "start": "imagenet"}
EMBEDDING_SIZE = 512  # of BIER, ABE and DREML's tables
UNCHANGED = dict.fromkeys(("flip", "zoom", "shift", "brightness", "contrast", "saturation", "erase"), 0.0)
BATCH = 64
REASONS = {
    ("triplet_vae", "frozen"): "it draws images, and the cache holds features",
    ("triplet_vae", "tuned"): "it draws images, and the cache holds features",
    ("abe", "frozen"): "its masks need maps and layers behind them; --trunk tuned has both",
}


@dataclass(frozen=True, slots=True)
class OnTrunk(Protocol):
    """Another protocol's images and parts, on a network from ImageNet."""

    images: Protocol
    trunk: str  # of FROZEN

    @property
    def name(self) -> str:
        return f"{self.images.name}_{self.trunk}"

    @property
    def input(self) -> TrunkInput:
        if self.images.trunk_input is None:
            raise ConfigError(f"{self.images.name} has no form for a network from ImageNet")
        return self.images.trunk_input

    @property
    def settings(self) -> Settings:
        rates = {"learning_rate": 1e-3, "body_rate": 0.1 if self.trunk == "tuned" else 1.0}
        times = {"epochs": self.input.epochs[self.trunk], "warmup_epochs": 1, "ema_decay": 0.98}
        size = {"height": self.input.height_px, "width": self.input.width_px}
        return {
            "data": {"val_fraction": 0.0, **size, "n_ids": 16, "n_per_id": 4},
            "net": {**NET, "embedding_size": EMBEDDING_SIZE, "frozen": FROZEN[self.trunk], "cached": True},
            "schedule": {**ALONE, **rates, **times},
        }

    def refuses(self, method: str) -> str | None:
        """Why a method cannot be trained so; None if it can."""
        return REASONS.get((method, self.trunk))

    def prepare(self, data: Path, folder: Path) -> Path:
        """Computes the features of both ways at once."""
        seen = {name: value for name, value in asdict(self.input).items() if name != "epochs"}
        facts = [self.images.key(), seen, dict(NET), BATCH]
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
        root = self.images.prepare(data, folder.with_name(f"{self.images.name}-{self.images.key()}"))
        return write_whole(
            folder.with_name(f"{self.images.name}_trunk-{key}"),
            lambda draft: self._write(self.images.read(root), draft),
        )

    def read(self, root: Path) -> dict[str, Samples]:
        parts = {}
        for part in PARTS:
            with np.load(root / f"{part}.npz", allow_pickle=False) as table:
                paths = tuple(Path(name) for name in table["paths"])
                maps = np.load(root / f"{part}_{self.trunk}.npy", mmap_mode="r", allow_pickle=False)
                parts[part] = Samples(paths, table["pids"], table["camids"], maps)
        return parts

    def untrained(self, root: Path, part: str) -> FloatArray | None:
        """Unit rows (N, 1280): pooled features of the whole network from ImageNet, whatever `trunk` is."""
        maps = np.load(root / f"{part}_frozen.npy", mmap_mode="r", allow_pickle=False)
        rows = maps[:, 0].reshape(len(maps), -1).astype(np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    def rank(self, embeddings: FloatArray, samples: Samples) -> Ranking:
        return self.images.rank(embeddings, samples)

    def _write(self, parts: Mapping[str, Samples], folder: Path) -> None:
        net = build(NetConfig(**NET, frozen=FROZEN["frozen"]), start=True).eval()
        assert isinstance(net, PooledNet)
        changes = from_dict({"augment": {**UNCHANGED, **self.input.augment}}).augment
        for number, (part, samples) in enumerate(parts.items()):
            paths = np.array([str(path) for path in samples.paths])
            np.savez(folder / f"{part}.npz", paths=paths, pids=samples.pids, camids=samples.camids)
            n_views = self.input.views if part == "train" else 1
            files: dict[str, HalfArray] = {}
            title = f"features of {self.images.name}, {part}"
            for start in tqdm(range(0, len(samples), BATCH), desc=title, disable=None):
                rows = np.arange(start, min(start + BATCH, len(samples)))
                images = read_images(samples.take(rows), self.input.height_px, self.input.width_px)
                for view in range(n_views):
                    rng = np.random.default_rng([number, view, start]) if view else None
                    for trunk, maps in features(net, images, rng, changes).items():
                        if trunk not in files:
                            shape = (len(samples), n_views, *maps.shape[1:])
                            files[trunk] = open_memmap(folder / f"{part}_{trunk}.npy", "w+", np.float16, shape)
                        files[trunk][rows, view] = maps


@torch.inference_mode()
def features(
    net: PooledNet, images: ByteArray, rng: np.random.Generator | None, changes: AugmentConfig
) -> dict[str, HalfArray]:
    """What both ways to use the network take: of images (B, H, W, 3) uint8, augmented if there is an `rng`.

    tuned (B, 112, h, w); frozen (B, 1280, 1, 1), the mean over the picture. The body of `net` has all its layers.
    """
    pixels = torch.from_numpy(images)
    batch = network_input(pixels) if rng is None else augment(pixels, rng, changes)
    maps = net.body[: FROZEN["tuned"]](batch)
    pooled = net.body[FROZEN["tuned"] :](maps).mean((2, 3), keepdim=True)
    return {"tuned": maps.half().numpy(), "frozen": pooled.half().numpy()}
