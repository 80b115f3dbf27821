"""The API reference: pdoc builds it without a complaint, every public name is in it, and docs/api.md is up to date."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import tracker
from tools.api_docs import MODULES, PAGE, build_site, first_sentence, page
from tracker.settings import field_comments


class _Docstrings(HTMLParser):
    """id of a section -> the text of the docstring that stands in it first."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._section = ""
        self._depth = 0  # of <div>s inside a docstring

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in ("section", "div") and attributes.get("id"):
            self._section = attributes["id"]
        if tag == "div":
            starts = "docstring" in (attributes.get("class") or "").split()
            self._depth += 1 if self._depth or starts else 0

    def handle_endtag(self, tag):
        self._depth -= 1 if tag == "div" and self._depth else 0

    def handle_data(self, data):
        if self._depth:
            self.found[self._section] = self.found.get(self._section, "") + data


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> tuple[Path, list[str]]:
    pytest.importorskip("pdoc", reason="pdoc is not installed: it is of the extra docs")
    folder = tmp_path_factory.mktemp("site")
    return folder, build_site(folder, sources=False)


def docstrings(path: Path) -> dict[str, str]:
    reader = _Docstrings()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader.found


@pytest.mark.slow
def test_pdoc_warns_of_nothing(site):
    assert site[1] == []


@pytest.mark.slow
def test_site_every_public_name_has_a_docstring(site):
    found = docstrings(site[0] / "tracker.html")
    for name in tracker.__all__:
        assert len(found.get(name, "").strip()) > 10, name


@pytest.mark.slow
def test_site_contains_field_comments(site):
    found = docstrings(site[0] / "tracker.html")
    assert "seconds since the start of the source" in found["Frame.time_s"]
    assert "(N, 4) float64 xyxy" in found["Detections.boxes"]
    assert "Deep SORT" in docstrings(site[0] / "tracker" / "config.html")["LifecycleConfig.confirm_hits"]


@pytest.mark.slow
def test_site_every_module_has_a_page_linked_from_the_index(site):
    index = (site[0] / "index.html").read_text(encoding="utf-8")
    for name in MODULES:
        assert (site[0] / f"{name.replace('.', '/')}.html").is_file()
        assert f"{name.replace('.', '/')}.html" in index


def test_committed_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tools.api_docs"


def test_page_every_name_has_a_description():
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", page(), flags=re.MULTILINE)
    assert {*tracker.__all__} <= {name for name, _ in rows}
    assert [name for name, words in rows if not words.strip()] == []


@dataclasses.dataclass
class Example:
    plain: int
    beside: int = 1  # one
    # two,
    # in lines
    above: int = 2

    # apart

    nothing: int = 3
    long: tuple[int, ...] = (
        1,  # of several lines
    )


def test_comments_belong_to_their_fields():
    assert field_comments(Example) == {"beside": "one", "above": "two, in lines", "long": "of several lines"}


class _Told:
    """Says one thing. Then another | one < two."""


class _Made:
    """a | b e.g. c, and
    more.

    Then the rest.
    """


def test_first_sentence_fits_a_table():
    assert first_sentence(_Told) == "Says one thing"
    assert first_sentence(_Made) == "a \\| b e.g. c, and more"
    assert first_sentence(dataclasses.make_dataclass("Bare", ["x"])) == ""
