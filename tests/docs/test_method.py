"""docs/method.md: its tables name every setting of the tracker, with the default that it has."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from tracker.config import TrackerConfig

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "method.md").read_text(encoding="utf-8")


def settings_on_page() -> Iterator[tuple[str, str]]:
    """(section.name, value as written) of the rows of all tables of settings."""
    section = None
    for line in PAGE.splitlines():
        head = re.match(r"\| setting \(`(\w+)\.`\)", line)
        if head or not line.startswith("|"):
            section = head[1] if head else None
        elif section and line.startswith("| `"):
            names, values = line.split("|")[1:3]
            names, values = re.findall(r"`(\w+)`", names), [value.strip() for value in values.split(",")]
            values = values * len(names) if len(values) == 1 else values
            yield from ((f"{section}.{name}", value) for name, value in zip(names, values, strict=True))


def same(written: str, value: object) -> bool:
    if value is None or isinstance(value, bool | str):
        return written == str(value).lower()
    return abs(Fraction(written) - Fraction(value)) < 1e-9


def test_method_page_settings_have_their_defaults():
    config = TrackerConfig()
    wrong = []
    for dotted, written in settings_on_page():
        section, name = dotted.split(".")
        value = getattr(getattr(config, section), name)
        if not same(written, value):
            wrong.append(f"{dotted}: the page has {written}, the default is {value}")
    assert not wrong


def test_method_page_names_every_setting():
    config = dataclasses.asdict(TrackerConfig())
    on_page = {name for name, _ in settings_on_page()} | set(re.findall(r"`(\w+\.\w+)`", PAGE))
    inside = {f"{section}.{name}" for section, part in config.items() if isinstance(part, dict) for name in part}
    assert inside - on_page == set()
