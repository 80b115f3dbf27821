"""The settings module alone: conversion, ranges, `--set` texts, TOML there and back, one line for every mistake."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import pytest

from tracker.api import Tracker
from tracker.config import TrackerConfig
from tracker.errors import ConfigError
from tracker.settings import (
    Count,
    OneOf,
    Range,
    Settings,
    Share,
    from_table,
    load,
    naming,
    override,
    pairs,
    require,
    to_dict,
    to_toml,
)


@dataclass(frozen=True, slots=True)
class Part(Settings):
    n: Count = 2
    share: Share = 0.5
    limit: Annotated[float, Range("(0, inf]")] | None = None
    free: float = 0.0
    on: bool = True
    kind: Annotated[str, OneOf(("a", "b"))] = "a"
    name: str = ""
    sizes: tuple[Count, ...] = (1, 2)
    ends: tuple[Share, Share] = (0.1, 0.2)

    def check_together(self) -> None:
        require(self.ends[0] <= self.ends[1], f"part.ends must ascend, got {self.ends}")


@dataclass(frozen=True, slots=True)
class Needy(Settings):
    path: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Whole(Settings):
    seed: int = 0
    part: Part = field(default_factory=Part)
    method: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, Needy] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("[0, 1]", (0, 0.5, 1), (-0.1, 1.1, math.nan, math.inf)),
        ("[0, 1)", (0, 0.999), (1,)),
        ("(0, 1]", (1e-9, 1), (0,)),
        ("(-1, 1)", (-0.9, 0.9), (-1, 1)),
        ("(0, inf)", (1e300,), (0, math.inf, math.nan)),
        ("[1, inf]", (1, math.inf), (0.9, math.nan)),
    ],
)
def test_range_contains_what_its_brackets_say(text, inside, outside):
    assert all(value in Range(text) for value in inside)
    assert not any(value in Range(text) for value in outside)


# name, text after the "=", value
TEXTS = [
    ("part.n", "3", 3),
    ("part.n", " 1_000 ", 1000),
    ("part.n", "0x10", 16),
    ("part.n", "4.0", 4),
    ("part.share", "1", 1.0),
    ("part.share", ".5", 0.5),
    ("part.share", "1e-3", 1e-3),
    ("part.limit", "inf", math.inf),
    ("part.limit", "None", None),
    ("part.on", "yes", True),
    ("part.on", "OFF", False),
    ("part.on", "true", True),
    ("part.on", "0", False),
    ("part.kind", "b", "b"),
    ("part.kind", '"b"', "b"),
    ("part.name", "5", "5"),
    ("part.name", "yes", "yes"),
    ("part.name", "", ""),
    ("part.sizes", "[4, 5, 6]", (4, 5, 6)),
    ("part.ends", "[0, 1]", (0.0, 1.0)),
]


@pytest.mark.parametrize(("name", "text", "value"), TEXTS)
def test_override_text_gives_typed_value(name, text, value):
    changed = getattr(override(Whole(), pairs([f"{name}={text}"])).part, name.split(".")[1])
    assert changed == value
    assert type(changed) is type(value)


def test_override_table_without_known_names_takes_toml_or_words():
    changed = override(Whole(method={"name": "x"}), pairs(["method.rate=0.5", "method.kind=word", "method.n=[1, 2]"]))
    assert changed.method == {"name": "x", "rate": 0.5, "kind": "word", "n": [1, 2]}


def test_override_several_at_once_checks_them_together():
    assert override(Part(), {"ends": "[0.3, 0.4]", "n": 5}).ends == (0.3, 0.4)


# name, value, message
MISTAKES = [
    ("part.n", 0, "part.n must be >= 1, got 0"),
    ("part.n", 2.5, "part.n must be a whole number, got 2.5"),
    ("part.n", True, "part.n must be a whole number, got True"),
    ("part.n", 10**16, "part.n must be a number below 1e+15, got 10000000000000000"),
    ("part.n", None, "part.n must be a whole number, got None"),
    ("part.share", "soon", "part.share must be a number, got 'soon'"),
    ("part.share", 1.5, "part.share must be in [0, 1], got 1.5"),
    ("part.free", math.nan, "part.free must be finite, got nan"),
    ("part.on", "maybe", "part.on must be true or false, got 'maybe'"),
    ("part.kind", "c", "part.kind must be one of a, b, got 'c'"),
    ("part.name", 5, "part.name must be a text, got 5"),
    ("part.sizes", 5, "part.sizes must be a list, got 5"),
    ("part.sizes", [1, 0], "part.sizes must be >= 1, got 0"),
    ("part.ends", [1], "part.ends must be a list of 2, got [1]"),
    ("part.ends", [0.5, 0.1], "part.ends must ascend, got (0.5, 0.1)"),
    ("part.m", 1, "unknown setting part.m; there are: part.n, part.share"),
    ("port.n", 1, "unknown setting port.n (did you mean part.n?); there are: seed, part, method, sources"),
    ("part.n.deep", 1, "unknown setting part.n.deep"),
    ("part", 1, "part must be a table, got 1"),
    ("seed.a", 1, "unknown setting seed.a"),
    ("method", {"x": {"y": None}}, "method.x.y must be a text, got None"),
]


@pytest.mark.parametrize(("name", "value", "said"), MISTAKES)
def test_override_bad_value_names_setting_value_and_rule(name, value, said):
    with pytest.raises(ConfigError) as error:
        override(Whole(), {name: value})
    assert str(error.value).startswith(said)


# What is typed, the settings of a tracker that are meant.
MEANT = [
    ("lost_s", "lifecycle.lost_s"),
    ("lst_s", "lifecycle.lost_s"),
    ("Lost_S", "lifecycle.lost_s"),
    ("lifecycle.lost", "lifecycle.lost_s"),
    ("lifecycl.lost_s", "lifecycle.lost_s"),
    ("detection.lost_s", "lifecycle.lost_s"),
    ("lifecyle", "lifecycle"),
    ("max_s", "proposals.max_s or occlusion.max_s"),
    ("occlusions.max_s", "occlusion.max_s or proposals.max_s"),
]


@pytest.mark.parametrize(("typed", "meant"), MEANT)
def test_unknown_setting_names_what_is_meant(typed, meant):
    for act in (
        lambda: TrackerConfig().override(pairs([f"{typed}=5"])),
        lambda: Tracker(**{typed.replace(".", "__"): 5}),
    ):
        with pytest.raises(ConfigError, match=f"^unknown setting {typed} \\(did you mean {meant}\\?\\); there are: "):
            act()


def test_unknown_setting_of_a_file_names_what_is_meant(tmp_path):
    file = tmp_path / "mine.toml"
    for text, meant in (
        ("lost_s = 5", "lifecycle.lost_s"),
        ("[lifecycle]\nlost = 5", "lifecycle.lost_s"),
        ('"lifecycle.lost_s" = 5', "lifecycle.lost_s"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=f"mine.toml: unknown setting .* \\(did you mean {meant}\\?\\)"):
            TrackerConfig.load(file)


def test_unknown_setting_like_no_other_lists_all():
    with pytest.raises(ConfigError, match=r"^unknown setting colour; there are: seed, part, method, sources$"):
        override(Whole(), {"colour": 1})


def test_direct_construction_is_checked_and_converted():
    part = Part(n=np.int64(3), share=np.float64(0.25), sizes=[7])
    assert (part.n, part.share, part.sizes) == (3, 0.25, (7,))
    assert [type(value) for value in (part.n, part.share)] == [int, float]
    with pytest.raises(ConfigError, match=r"^Part.n must be >= 1, got 0$"):
        Part(n=0)


@pytest.mark.parametrize("text", ["n", "=1", " = 1", ""])
def test_pairs_without_name_or_equals_is_refused(text):
    with pytest.raises(ConfigError, match="--set takes NAME=VALUE, got"):
        pairs([text])


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 3000, "0x" + "f" * 5000])
def test_override_endless_text_gives_one_short_line(text):
    with pytest.raises(ConfigError) as error:
        override(Whole(), {"part.n": text})
    assert len(str(error.value)) < 200


def test_toml_there_and_back_is_equal(tmp_path):
    whole = Whole(
        seed=3,
        part=Part(limit=math.inf, name='ä "\x7f\t𝄞\\', on=False, sizes=(9,), free=1e-7),
        method={"name": "x", "odd key": [1, 2.5, "b"], "flag": True, "inner": {"a": 1, "b": {"c": "d"}}},
        sources={"one": Needy("a"), "two words": Needy("b", 2.0)},
    )
    path = tmp_path / "whole.toml"
    path.write_text(to_toml(whole), encoding="utf-8")
    assert load(Whole, path) == whole
    assert from_table(Whole, to_dict(whole)) == whole
    path.write_text(to_toml(whole), encoding="utf-8-sig")  # as Notepad may save it
    assert load(Whole, path) == whole


def test_missing_setting_without_default_is_named():
    with pytest.raises(ConfigError, match=r"^sources.one.path is missing$"):
        from_table(Whole, {"sources": {"one": {}}})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[part]\nn = 0", "part.n must be >= 1, got 0"),
        (b"[part", "is it a settings file?"),
        (b"\xff\xfe", "is it a settings file?"),
        (b"a = " + b"[" * 3000, "is it a settings file?"),
    ],
)
def test_load_bad_file_names_the_file(tmp_path, text, said):
    path = tmp_path / "bad.toml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=r"bad\.toml: .*") as error:
        load(Whole, path)
    assert said in str(error.value)


def test_load_missing_file_is_named(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match=f"cannot read settings from {path}: "):
            load(Whole, path)


def test_naming_puts_the_file_before_the_message():
    with pytest.raises(ConfigError, match=r"^last.pt: seed must be a whole number, got 'x'$"), naming("last.pt"):
        from_table(Whole, {"seed": "x"})
