"""The documentation site: mkdocs over the repository's pages, and pdoc's API reference beside it.

    python -m tools.docs_site                   # build/docs/index.html, and docs/api.md again

mkdocs wants all pages below one folder. They are copied with the paths that they have in the repository, together with
the files that they link to, so that every relative link works in the repository and on the site.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from tools import api_docs

ROOT = Path(__file__).resolve().parents[1]
STAGED, SITE = ROOT / "build" / "pages", ROOT / "build" / "docs"
FOLDERS = ("docs", "weights")  # of pages, besides those at the root
_LINK = re.compile(r"\]\(([^)\s#]+)[^)\s]*\)")
_REFERENCE = "[Open the reference with all arguments](../reference/index.html){: .md-button }\n\n"


def main() -> int:
    argparse.ArgumentParser(description="Build the documentation site into build/docs.").parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")  # the theme's notice about its successor
    api_docs.PAGE.write_text(api_docs.page(), encoding="utf-8")
    build(SITE)
    problems = api_docs.build_site(SITE / "reference")
    print("\n".join([*problems, f"written: {SITE / 'index.html'}"]))
    return 1 if problems else 0


def build(out: Path, staged: Path = STAGED) -> None:
    """Write the site without the API reference. Raises mkdocs' Abort for a link or an anchor that does not exist."""
    from mkdocs.commands.build import build as build_pages
    from mkdocs.config import load_config

    stage(staged)
    build_pages(load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(staged), site_dir=str(out), strict=True))


def stage(target: Path) -> None:
    """Copy the pages, and what they link to, below an empty `target`."""
    shutil.rmtree(target, ignore_errors=True)
    for page in pages():
        text = page.read_text(encoding="utf-8")
        copy = target / page.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")
        for linked in linked_files(page, text):
            (target / linked.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(linked, target / linked.relative_to(ROOT))
    shutil.copyfile(ROOT / "docs" / "site.css", target / "docs" / "site.css")
    names = target / "docs" / "api.md"
    names.write_text(names.read_text(encoding="utf-8").replace("## ", _REFERENCE + "## ", 1), encoding="utf-8")
    reference = target / "reference" / "index.html"
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.touch()  # pdoc writes it after mkdocs, which checks that the link leads somewhere


def pages() -> list[Path]:
    """All pages of the site."""
    return sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])


def linked_files(page: Path, text: str) -> Iterable[Path]:
    """Files of the repository, other than pages, that a page links to."""
    for target in _LINK.findall(text):
        linked = (page.parent / target).resolve()
        if "://" not in target and linked.is_file() and linked.suffix != ".md":
            yield linked


if __name__ == "__main__":
    raise SystemExit(main())
