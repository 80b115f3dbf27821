"""The documentation site has every page and no dead link or anchor."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tools.docs_site import ROOT, build, linked_files, pages


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material is not installed: it is in the extra docs")
    folder = tmp_path_factory.mktemp("site")
    build(folder / "site", folder / "pages")  # strict: raises for a broken link
    return folder / "site"


@pytest.mark.slow
def test_site_every_page_written(site):
    for page in pages():
        name = page.relative_to(ROOT).with_suffix(".html").as_posix()
        assert (site / name.replace("README.html", "index.html")).is_file(), name


@pytest.mark.slow
def test_site_pages_load_nothing_from_network(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert 'src="http' not in text, page
        assert "fonts.googleapis" not in text, page


def test_nav_every_page_listed_once():
    listed: list[str] = []

    def walk(entry) -> None:
        if isinstance(entry, str):
            listed.append(entry)
        for inner in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            walk(inner)

    walk(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(listed) == sorted(page.relative_to(ROOT).as_posix() for page in pages())


def test_linked_files_image_and_code_found_page_and_address_left_out():
    text = "![x](images/vtest.jpg) [y](../tracker/engine.py#L3) [z](api.md) [w](https://a.b/c.png)"
    found = [path.relative_to(ROOT).as_posix() for path in linked_files(ROOT / "docs" / "x.md", text)]
    assert found == ["docs/images/vtest.jpg", "tracker/engine.py"]
