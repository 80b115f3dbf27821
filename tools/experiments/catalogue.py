"""Catalogue of the experiments: TOML files, each with a method and its own baseline.

    title = "Triplet loss, hardest triplet of a batch"
    claim = "..."                       # the paper's claim on its data, with its source; or "not available"
    [common]                            # optional: settings of both, in the sections of a run config
    data = { n_ids = 32, n_per_id = 2 }
    [baseline]
    method = { name = "siamese", pair_loss = "contrastive", id_weight = 0.0 }
    [method]
    method = { name = "siamese", pair_loss = "triplet", id_weight = 0.0 }

A role's settings go over [common], and both over the protocol's (`protocols`), key by key. A teacher of the section
distil is the name of another experiment: its method, with the same seed.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reid_training.config import RunConfig
from reid_training.errors import ConfigError

FOLDER = Path(__file__).parent / "configs"
ROLES = ("baseline", "method")
TEXTS = ("title", "claim")
Table = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Experiment:
    name: str  # of its file, without .toml
    title: str
    claim: str
    roles: Mapping[str, Table]  # of each role: what it sets over the protocol, [common] included


def names(folder: Path = FOLDER) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.toml"))


def read(name: str, folder: Path = FOLDER) -> Experiment:
    path = folder / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no experiment {name}; there are {', '.join(names(folder)) or 'none'}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    _check(table, path)
    common = table.get("common", {})
    return Experiment(name, table["title"], table["claim"], {role: merged(common, table[role]) for role in ROLES})


def merged(*tables: Table) -> dict[str, Any]:
    """Sections of settings over each other, key by key; the later ones win."""
    result: dict[str, Any] = {}
    for table in tables:
        for section, values in table.items():
            result[section] = {**result.get(section, {}), **values}
    return result


def _check(table: Table, path: Path) -> None:
    _check_keys(table, (*TEXTS, *ROLES), ("common",), str(path))
    for key in TEXTS:
        if not isinstance(table[key], str) or not table[key].strip():
            raise ConfigError(f"{path}: {key} must be a text, got {table[key]!r}")
    for part in ("common", *ROLES):
        sections = table.get(part, {})
        if not isinstance(sections, dict):
            raise ConfigError(f"{path}: {part} must be a table, got {sections!r}")
        _check_keys(
            sections, (), [f.name for f in dataclasses.fields(RunConfig) if f.name != "seed"], f"{path}: {part}"
        )
        for section, values in sections.items():
            if not isinstance(values, dict):
                raise ConfigError(f"{path}: {part}.{section} must be a table, got {values!r}")


def _check_keys(table: Table, needed: Sequence[str], optional: Sequence[str], where: str) -> None:
    for key in table:
        if key not in (*needed, *optional):
            raise ConfigError(f"{where}: {key} is unknown; known: {', '.join((*needed, *optional))}")
    for key in needed:
        if key not in table:
            raise ConfigError(f"{where}: {key} is missing")
