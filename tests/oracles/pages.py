"""The documentation's pages, split into shell commands, Python snippets, data and output.

A fence without a language is for the shell; `python` is a snippet; `sql` a query of tracks.db; `toml` and `json` are
data; `text` is the output of a program or a drawing, without commands.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = tuple(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"])
FOLDERS = ("docs", "reid_training", "tools", "tracker", "weights")
SHELL = ("", "bash", "console", "sh", "shell")

_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fence: `line` is the number of its first line of content, `language` the word after the opening marks."""

    page: str
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command; `text` without its comment, on one line."""

    where: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def pages() -> list[str]:
    """All pages, as paths from the root."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *found])


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        indent, language, body = match.groups()
        body = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
        found.append(Block(page, text[: match.start(3)].count("\n") + 1, language.strip(), body))
    return found


def commands(block: Block) -> list[Command]:
    """Commands of a shell block; a backslash continues a line, comments are left out."""
    found = []
    typed, start = "", 0
    for number, line in enumerate(block.text.splitlines(), block.line):
        typed, start = typed + line.removeprefix("$ "), start or number
        if typed.endswith("\\"):
            typed = typed[:-1]
            continue
        bare = re.sub(r"(^|\s)#.*", "", typed).strip()
        if bare:
            found.append(Command(f"{block.page}:{start}", " ".join(bare.split())))
        typed, start = "", 0
    return found


def inline_commands(page: str) -> list[Command]:
    """Code in running text and tables that begins with the name of a program and has more words."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    found = []
    for match in _SPAN.finditer(text):
        code = " ".join(match[1].split())
        if is_ours(code) and " " in code:
            found.append(Command(f"{page}:{text[: match.start()].count(chr(10)) + 1}", code))
    return found


def is_ours(line: str) -> bool:
    """Whether a line begins as a command of this project does."""
    return (
        re.match(rf"(?:{'|'.join(PROGRAMS)}|python -m (?:tools|tests)\.[\w.]+|make|torchrun)(?:\s|$)", line) is not None
    )
