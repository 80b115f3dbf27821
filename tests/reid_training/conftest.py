from __future__ import annotations

from pathlib import Path

import pytest

from reid_training.config import RunConfig, from_dict
from reid_training.data import market1501
from reid_training.data.base import Dataset
from reid_training.data.synthetic import write_market_folder
from tracker.settings import to_toml


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn people to train on, eight as queries and gallery."""
    return write_market_folder(tmp_path_factory.mktemp("market") / "drawn")


@pytest.fixture(scope="session")
def tiny() -> RunConfig:
    """A network and a schedule that train in a second."""
    return from_dict(
        {
            "data": {"val_fraction": 0.25, "height": 64, "width": 32, "n_ids": 4, "n_per_id": 4},
            "net": {"channels": [8, 16, 24], "last_channels": 32, "width": 1.0, "blocks": 1, "embedding_size": 16},
            "schedule": {
                "epochs": 4,
                "warmup_epochs": 1,
                "validate_every": 2,
                "ema_decay": 0.9,
                "precision": "fp32",
                "threads": 1,
            },
        }
    )


@pytest.fixture(scope="session")
def data(market: Path) -> Dataset:
    return market1501.read(market)


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory, tiny: RunConfig) -> str:
    """The path of `tiny` as TOML."""
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(to_toml(tiny))
    return str(path)
