"""Catalogue of the experiments: TOML files, each with a method and its own baseline.

    title = "Triplet loss, hardest triplet of a batch"
    claim = "..."                       # the paper's claim on its data, with its source; or "not available"
    [common]                            # optional: settings of both, in the sections of a run config
    data = { n_ids = 32, n_per_id = 2 }
    [baseline]
    method = { name = "siamese", pair_loss = "contrastive", id_weight = 0.0 }
    [method]
    method = { name = "siamese", pair_loss = "triplet", id_weight = 0.0 }
    [choose]                            # optional: values to try on validation; the best go into the test
    "method.margin" = [0.1, 0.3]
    [on.cifar100_tuned.method]          # optional: settings of a role for one setting (a protocol's name) alone
    method = { margin = 0.2 }

`measures` (optional) names those of MEASURES that the rows show; R@1 and mAP otherwise. A role's settings go over
[common], those of [on] over them, and all over the protocol's (`protocols`), key by key. A teacher of the section
distil is the name of another experiment: its method, with the same seed. Values of [choose], and of --grid, are the
method's; a setting that [common] has they change in both roles.
"""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reid_training.config import RunConfig
from reid_training.errors import ConfigError

FOLDER = Path(__file__).parent / "configs"
ROLES = ("baseline", "method")
TEXTS = ("title", "claim")
# Every run has all of them; an experiment says which its rows show.
MEASURES = {
    **{"rank1": "R@1", "rank5": "R@5", "rank10": "R@10", "mean_ap": "mAP"},
    **{"auc": "AUC of pairs", "tpr_1e2": "TPR at FPR 1e-2", "tpr_1e3": "TPR at FPR 1e-3"},
    "pair_accuracy": "pair accuracy, ten folds",
}
USUAL_MEASURES = ("rank1", "mean_ap")
Table = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Experiment:
    name: str  # of its file, without .toml
    title: str
    claim: str
    roles: Mapping[str, Table]  # of each role: what it sets over the protocol, [common] included
    on: Mapping[str, Mapping[str, Table]] = field(default_factory=dict)  # protocol -> role -> what goes over that
    measures: tuple[str, ...] = USUAL_MEASURES
    common: Table = field(default_factory=dict)  # settings of both roles that a grid changes in both
    choose: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # "section.name" -> values

    def settings(self, role: str, protocol: str) -> dict[str, Any]:
        return merged(self.roles[role], self.on.get(protocol, {}).get(role, {}))


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
    roles = {role: merged(common, table[role]) for role in ROLES}
    measures = tuple(table.get("measures", USUAL_MEASURES))
    texts = (table["title"], table["claim"])
    return Experiment(name, *texts, roles, table.get("on", {}), measures, common, table.get("choose", {}))


def variants(experiment: Experiment, grid: Mapping[str, Sequence[Any]]) -> list[Experiment]:
    """The experiment with each combination of values; grid: "section.name" -> values."""
    found = []
    for values in itertools.product(*grid.values()):
        changes: dict[str, dict[str, dict[str, Any]]] = {role: {} for role in ROLES}
        for dotted, value in zip(grid, values, strict=True):
            section, _, name = dotted.partition(".")
            for role in ROLES if name in experiment.common.get(section, {}) else ("method",):
                changes[role].setdefault(section, {})[name] = value
        said = ", ".join(f"{dotted} = {value}" for dotted, value in zip(grid, values, strict=True))
        on = {
            name: {role: merged(roles.get(role, {}), changes[role]) for role in ROLES}
            for name, roles in experiment.on.items()
        }
        roles = {role: merged(experiment.roles[role], changes[role]) for role in ROLES}
        named = f"{experiment.name}: {said}"
        found.append(replace(experiment, name=named, title=named, roles=roles, on=on))
    return found


def merged(*tables: Table) -> dict[str, Any]:
    """Sections of settings over each other, key by key; the later ones win."""
    result: dict[str, Any] = {}
    for table in tables:
        for section, values in table.items():
            result[section] = {**result.get(section, {}), **values}
    return result


def _check(table: Table, path: Path) -> None:
    _check_keys(table, (*TEXTS, *ROLES), ("common", "choose", "on", "measures"), str(path))
    for key in TEXTS:
        if not isinstance(table[key], str) or not table[key].strip():
            raise ConfigError(f"{path}: {key} must be a text, got {table[key]!r}")
    measures = table.get("measures", [])
    if not isinstance(measures, list) or not all(measure in MEASURES for measure in measures):
        raise ConfigError(f"{path}: measures must be some of {', '.join(MEASURES)}, got {measures!r}")
    for part in ("common", *ROLES):
        _check_sections(table.get(part, {}), f"{path}: {part}")
    for dotted, values in _checked_table(table.get("choose", {}), f"{path}: choose").items():
        if "." not in dotted or not isinstance(values, list) or not values:
            raise ConfigError(f'{path}: choose needs lines like "method.margin" = [0.1, 0.3], got {dotted} = {values}')
    for name, roles in _checked_table(table.get("on", {}), f"{path}: on").items():
        _check_keys(_checked_table(roles, f"{path}: on.{name}"), (), ROLES, f"{path}: on.{name}")
        for role, sections in roles.items():
            _check_sections(sections, f"{path}: on.{name}.{role}")


def _check_sections(sections: Any, where: str) -> None:
    """Sections of a run's config, each a table."""
    known = [f.name for f in dataclasses.fields(RunConfig) if f.name != "seed"]
    _check_keys(_checked_table(sections, where), (), known, where)
    for section, values in sections.items():
        _checked_table(values, f"{where}.{section}")


def _checked_table(value: Any, where: str) -> Table:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a table, got {value!r}")
    return value


def _check_keys(table: Table, needed: Sequence[str], optional: Sequence[str], where: str) -> None:
    for key in table:
        if key not in (*needed, *optional):
            raise ConfigError(f"{where}: {key} is unknown; known: {', '.join((*needed, *optional))}")
    for key in needed:
        if key not in table:
            raise ConfigError(f"{where}: {key} is missing")
