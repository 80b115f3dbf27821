"""Every command and snippet of every page runs, in a folder with the files that the pages name.

`oracles.pages` finds the commands, `oracles.page_runner` runs them, shortened where it says so. The exceptions are
below.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import sqlite3
import sys
import tomllib
from pathlib import Path

import pytest

from reid_training import bench
from tests.oracles.material import write_material
from tests.oracles.page_runner import PageRunner, check_make, check_pip, check_words, ultralytics_stub
from tests.oracles.pages import ROOT, SHELL, Block, Command, blocks, commands, inline_commands, is_ours, pages

PAGES = pages()

# Commands with these beginnings are not run: the reason, and what is checked instead (None: nothing).
NOT_RUN = {
    ("pip install", "python -m venv", ". .venv/bin/activate"): ("installs from the network", check_pip),
    ("docker ",): ("CI has no docker; the pip commands of the Dockerfile are those of `make small`", None),
    ("track video.mp4 --device cuda",): ("needs a GPU", check_words),
    ("track video.mp4 --device openvino",): ("needs an optional package; tests/runtime has it", check_words),
    ("make ",): ("installs; CI runs it on a bare machine", check_make),
    ("sudo apt-get install mosquitto", "mosquitto_sub "): ("tests/sinks/test_delivery.py has a broker", None),
    ("yolo export",): ("ultralytics is not installed (AGPL); its files are generated", None),
    ("python -m tests.fuzz all",): ("takes hours, and atheris, which only Linux and macOS have", None),
    ("python tools/export_onnx.py",): ("is a file of YOLOX", None),
    ("track-many /shared/videos",): ("needs a cluster of ray", check_words),
}
# Pages that record how a file was made, in hours and from data that is not here: the commands are only parsed.
RECIPES = ("weights/person.md", "weights/reid_accurate.md", "weights/reid_fast.md")


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Path:
    return write_material(tmp_path_factory.mktemp("material"))


@pytest.fixture
def runner(material, tmp_path, monkeypatch, capsys, registers) -> PageRunner:
    """In its own copy of the material."""
    desk = shutil.copytree(material, tmp_path / "desk")
    monkeypatch.chdir(desk)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # processes that a command starts run this checkout
    monkeypatch.setattr(bench.time_crops, "__defaults__", (0.02,))  # seconds at each size of a batch
    monkeypatch.setitem(sys.modules, "ultralytics", ultralytics_stub())
    return PageRunner(desk, capsys.readouterr)


def exception_of(command: Command):
    """(beginnings, reason, check) where the command is one."""
    return next(((starts, *what) for starts, what in NOT_RUN.items() if f"{command.text} ".startswith(starts)), None)


def missing(error: Exception) -> bool:
    """Whether it is an optional library of another project that a page uses."""
    return isinstance(error, ModuleNotFoundError) and error.name in ("supervision", "pycocotools", "pyarrow")


def run_block(runner: PageRunner, block: Block, absent: list[str]) -> list[str]:
    """Run every command of a block; returns the failures. absent: collects libraries that are not installed."""
    wrong = []

    def attempt(where, text, action, *words):
        try:
            action(*words)
        except (Exception, SystemExit) as error:
            if missing(error):
                absent.append(error.name)
                return
            if absent and isinstance(error, NameError):  # a name that a skipped snippet would have defined
                return
            wrong.append(f"{where}: {text}\n    {type(error).__name__}: {error}")

    if block.language in ("python", "sql"):
        run = runner.run_snippet if block.language == "python" else runner.run_query
        attempt(block.where, block.text.strip().splitlines()[0], run, block)
        return wrong
    for command in commands(block):
        known = exception_of(command)
        if known is not None:
            if known[2] is not None:
                attempt(command.where, command.text, known[2], command)
        elif block.page in RECIPES:
            attempt(command.where, command.text, check_words, command)
        else:
            attempt(command.where, command.text, runner.run_command, command)
    return wrong


@pytest.mark.timeout(900)  # a page of forty commands, on a busy machine
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_page_commands_and_snippets_run(page, runner):
    wrong, absent = [], []
    for block in blocks(page):
        if block.language in (*SHELL, "python", "sql"):
            wrong += run_block(runner, block, absent)
    assert not wrong, "\n".join(wrong)
    if absent:
        pytest.skip(f"{', '.join(absent)} not installed; the rest of the page works")


@pytest.mark.parametrize("page", PAGES)
def test_inline_commands_are_accepted_by_the_parsers(page):
    for command in inline_commands(page):
        check_words(command)


@pytest.mark.parametrize("page", PAGES)
def test_page_blocks_have_a_valid_language(page):
    """A block is shell or Python, or data that parses, or text without a command of ours."""
    for block in blocks(page):
        if block.language in SHELL:
            assert commands(block), f"{block.where}: no command; the output of a program is a block of `text`"
        elif block.language == "python":
            ast.parse(block.text)
        elif block.language == "sql":
            assert sqlite3.complete_statement(block.text), f"{block.where}: no whole statement"
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "json":
            json.loads(block.text)
        else:
            assert block.language == "text", f"{block.where}: no way to check a block of {block.language!r}"
            typed = [line for line in block.text.splitlines() if is_ours(line)]
            assert not typed, f"{block.where}: commands hidden from the test: {typed}"


def anchors(path: Path) -> set[str]:
    """Anchors of the headings of a page, as code hosts make them: lower case, hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_page_links_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), f"{page} links to {target}"
        if heading:
            assert heading in anchors(there), f"{page} links to {target}"


def test_every_exception_has_a_command():
    typed = [
        command for page in PAGES for block in blocks(page) if block.language in SHELL for command in commands(block)
    ]
    used = {known[0] for known in map(exception_of, typed) if known}
    assert used == set(NOT_RUN)
    assert set(RECIPES) <= set(PAGES)
