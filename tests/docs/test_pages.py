"""Every command and snippet of every page: run in a folder with the material that the pages name.

`oracles.pages` finds what there is to run, `oracles.reader` runs it, and says what it shortens. What stands in neither
place, nor among the exceptions below, fails.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from reid_training import bench
from tests.oracles.material import write_material
from tests.oracles.pages import ROOT, SHELL, Block, Command, blocks, commands, inline_commands, is_ours, pages
from tests.oracles.reader import Reader, check_make, check_pip, check_words, ultralytics_stub

PAGES = pages()

# Commands that begin so are not run: the reason, and what is checked of them instead (None: nothing can be).
NOT_RUN = {
    ("pip install", "python -m venv", ". .venv/bin/activate"): ("make an environment from the network", check_pip),
    ("make ",): ("installs; CI runs it on a bare machine", check_make),
    ("yolo export",): ("ultralytics is not installed: AGPL; the files it makes are stood in for", None),
    ("python -m tests.fuzz all",): ("takes hours, and atheris, which is for Linux and macOS alone", None),
    ("python tools/export_onnx.py",): ("stands in a checkout of YOLOX, as the page says", None),
    ("track-many /shared/videos",): ("needs a cluster of ray", check_words),
}
# Pages whose commands made files that took hours, from data that nobody has here: their parsers read them. The same
# commands are run, shortened, for the pages that teach them.
RECIPES = ("weights/person.md", "weights/reid_accurate.md", "weights/reid_fast.md")
SLOW = (
    "README.md", "docs/counting.md", "docs/detectors.md", "docs/live.md", "docs/long_videos.md", "docs/many_videos.md",
    "docs/offline.md", "docs/outputs.md", "docs/own_reid.md", "docs/results.md", "docs/tutorial.md",
    "docs/commands.md", "docs/training.md", "docs/training_results.md",
)  # fmt: skip


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Path:
    return write_material(tmp_path_factory.mktemp("material"))


@pytest.fixture
def reader(material, tmp_path, monkeypatch, capsys) -> Reader:
    """At a desk of their own."""
    desk = shutil.copytree(material, tmp_path / "desk")
    monkeypatch.chdir(desk)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # processes that a command starts run this checkout
    monkeypatch.setattr(bench.time_crops, "__defaults__", (0.02,))  # seconds at each size of a batch
    monkeypatch.setitem(sys.modules, "ultralytics", ultralytics_stub())
    return Reader(desk, capsys.readouterr)


def exception_of(command: Command):
    """(beginnings, reason, check) where the command is one."""
    return next(((starts, *what) for starts, what in NOT_RUN.items() if f"{command.text} ".startswith(starts)), None)


def missing(error: Exception) -> bool:
    """Whether it is the library of another project that a page reads our results with."""
    return isinstance(error, ModuleNotFoundError) and error.name in ("supervision", "pycocotools")


def work_through(reader: Reader, block: Block, absent: list[str]) -> list[str]:
    """What went wrong with a block; each command of it is tried. absent: gets the libraries that are not installed."""
    wrong = []

    def attempt(where, text, action, *words):
        try:
            action(*words)
        except (Exception, SystemExit) as error:
            if missing(error):
                absent.append(error.name)
                return
            if absent and isinstance(error, NameError):  # of what a snippet above would have made
                return
            wrong.append(f"{where}: {text}\n    {type(error).__name__}: {error}")

    if block.language == "python":
        attempt(block.where, block.text.strip().splitlines()[0], reader.paste, block)
        return wrong
    for command in commands(block):
        known = exception_of(command)
        if known is not None:
            if known[2] is not None:
                attempt(command.where, command.text, known[2], command)
        elif block.page in RECIPES:
            attempt(command.where, command.text, check_words, command)
        else:
            attempt(command.where, command.text, reader.type, command)
    return wrong


def to_work_through() -> list:
    """The pages with blocks; those that take more than a few seconds are marked."""
    found = [page for page in PAGES if blocks(page)]
    return [pytest.param(page, marks=pytest.mark.slow if page in SLOW else ()) for page in found]


@pytest.mark.slow
@pytest.mark.timeout(900)  # a page of forty commands, on a busy machine
@pytest.mark.parametrize("page", to_work_through())
def test_what_a_page_says_to_type_and_to_paste_works(page, reader):
    wrong, absent = [], []
    for block in blocks(page):
        if block.language in SHELL or block.language == "python":
            wrong += work_through(reader, block, absent)
    assert not wrong, "\n".join(wrong)
    if absent:
        pytest.skip(f"{', '.join(absent)} not installed; the rest of the page works")


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_running_text_are_ones_that_the_parsers_know(page):
    for command in inline_commands(page):
        check_words(command)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page):
    """What is not typed or pasted is data that reads, or text in which nothing of ours would be typed."""
    for block in blocks(page):
        if block.language in SHELL:
            assert commands(block), f"{block.where}: nothing to type; a program's answer is a block of `text`"
        elif block.language == "python":
            ast.parse(block.text)
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "json":
            json.loads(block.text)
        else:
            assert block.language == "text", f"{block.where}: no way to check a block of {block.language!r}"
            typed = [line for line in block.text.splitlines() if is_ours(line)]
            assert not typed, f"{block.where}: commands hidden from the test: {typed}"


def anchors(path: Path) -> set[str]:
    """Of the headings of a page, as code hosts make them: small letters, hyphens for spaces, nothing else kept."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_to_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), f"{page} links to {target}"
        if heading:
            assert heading in anchors(there), f"{page} links to {target}"


def test_no_exception_outlives_its_command():
    typed = [
        command for page in PAGES for block in blocks(page) if block.language in SHELL for command in commands(block)
    ]
    used = {known[0] for known in map(exception_of, typed) if known}
    assert used == set(NOT_RUN)
    assert set(RECIPES) <= set(PAGES)
