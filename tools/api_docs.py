"""The API reference: HTML pages that pdoc makes from the docstrings, and docs/api.md, which lists the names.

    python -m tools.api_docs                    # build/docs/reference/index.html, and docs/api.md
    python -m tools.api_docs --site somewhere

`tools.docs_site` builds them into the documentation site.

The comments beside the fields of a dataclass describe them. pdoc reads docstrings only, so the comments become these.
"""

from __future__ import annotations

import argparse
import inspect
import re
import warnings
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tracker.settings import field_comments

if TYPE_CHECKING:
    from pdoc import doc

ROOT = Path(__file__).resolve().parents[1]
SITE, PAGE = ROOT / "build" / "docs" / "reference", ROOT / "docs" / "api.md"
# The public modules; everything else is internal.
TRACKER = ("tracker", "tracker.config", "tracker.detector.base", "tracker.sinks.base")
METHODS = tuple(
    f"reid_training.methods.{name}"
    for name in (
        "base", "siamese", "hdml", "dreml", "abe", "bier", "cosine_constraint", "triplet_vae", "large_margin_few_shot",
        "meta_metric", "odml", "mip_mahalanobis",
    )
)  # fmt: skip
LIBRARY = ("reid_training.train", "reid_training.data.from_python", "reid_training.data.base", "reid_training.nets")
LOSSES = tuple(f"reid_training.{name}" for name in ("losses", "mining", "distances", "pml", "evaluate"))
MODULES = (*TRACKER, *LIBRARY, *METHODS, *LOSSES)

HEAD = """# API reference

This page lists the names, one line each. All arguments, units and errors are in the reference, which is made from the
docstrings:

```
make docs
```

writes it to `build/docs/reference/index.html`, together with the site of all pages, `build/docs/index.html`. Without
make: `pip install ".[docs,train]"`, then `python -m tools.docs_site`. The same command writes this page.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the API reference.")
    parser.add_argument("--site", type=Path, default=SITE, help="folder of the pages (default: build/docs/reference)")
    site = parser.parse_args().site
    problems = build_site(site)
    PAGE.write_text(page(), encoding="utf-8")
    print("\n".join([*problems, f"written: {site / 'index.html'}, {PAGE.relative_to(ROOT)}"]))
    return 1 if problems else 0


def build_site(out: Path, *, sources: bool = True) -> list[str]:
    """Write the pages below `out`, with or without source code; returns the warnings of pdoc."""
    from pdoc import doc, render

    render.configure(docformat="markdown", footer_text="Tracklet", show_source=sources)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        modules = {name: doc.Module(_loaded(name)) for name in MODULES}
        for module in modules.values():
            _describe_fields(module)
        for name, module in modules.items():
            target = out / f"{name.replace('.', '/')}.html"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(render.html_module(module, all_modules=modules), encoding="utf-8")
        (out / "index.html").write_text(render.html_index(modules), encoding="utf-8")
        (out / "search.js").write_text(render.search_index(modules), encoding="utf-8")
    return [str(warning.message) for warning in said if "pdoc" in warning.filename]


def _loaded(name: str) -> ModuleType:
    """The module, with the names that it loads on first use."""
    module = import_module(name)
    for public in getattr(module, "__all__", ()):
        setattr(module, public, getattr(module, public))
    return module


def _describe_fields(module: doc.Module) -> None:
    """Comments of fields become their docstrings."""
    from pdoc import doc

    for cls in module.classes:
        comments = field_comments(cls.obj)
        for member in cls.members.values():
            if isinstance(member, doc.Variable) and not member.docstring and member.name in comments:
                member.__dict__["docstring"] = _literal(comments[member.name])  # a cached property


def _literal(comment: str) -> str:
    """Comments are no markdown: what would be a list, a table or emphasis stays as typed."""
    return re.sub(r"([*_<>|#\[\]])", r"\\\1", comment)


def page() -> str:
    """The text of docs/api.md."""
    before, after = (map(_loaded, names) for names in ((*TRACKER, *LIBRARY), LOSSES))
    return HEAD + "".join([*map(_section, before), _methods(), *map(_section, after)])


def _section(module: ModuleType) -> str:
    return _table(module.__name__, first_sentence(module), public_names(module))


def _methods() -> str:
    """The class of each module that trains or is fitted; its functions are on the HTML pages."""
    offered = [(name, cls) for cls, name in _trainers()]
    title = "One module for each method: a class, its settings (`...Config`) and its steps as functions"
    return _table("reid_training.methods", title, offered)


def _trainers() -> Iterator[tuple[ModuleType, str]]:
    """(object with the docstring, name) of the classes for `reid train --method` and of the two estimators."""
    from reid_training.methods import METHODS as BY_NAME

    for method, _ in BY_NAME.values():
        yield import_module(method.__module__), f"{method.__module__.rpartition('.')[2]}.{method.__name__}"
    for module, name in (("odml", "ODML"), ("mip_mahalanobis", "MIPMahalanobis")):
        yield getattr(import_module(f"reid_training.methods.{module}"), name), f"{module}.{name}"
    yield import_module("reid_training.methods").register_method, "register_method"
    base = import_module("reid_training.methods.base")
    yield base.Method, "base.Method"
    yield base.Loss, "base.Loss"


def _table(name: str, title: str, rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| `{public}` | {first_sentence(thing)} |" for public, thing in rows]
    return "\n".join(["", f"## {name}", "", f"{title}.", "", "| name | |", "|---|---|", *lines, ""])


def public_names(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Classes and functions that a module offers: those of `__all__`, else its own in the order of the file."""
    if hasattr(module, "__all__"):
        yield from ((name, getattr(module, name)) for name in module.__all__)
        return
    for name, thing in vars(module).items():
        own = getattr(thing, "__module__", None) == module.__name__
        if own and not name.startswith("_") and (inspect.isclass(thing) or inspect.isfunction(thing)):
            yield name, thing


def first_sentence(thing: Any) -> str:
    """First sentence of the docstring, on one line, escaped for a table. Empty if there is no own docstring."""
    written = thing.__doc__ or ""
    if inspect.isclass(thing) and written.startswith(f"{thing.__name__}("):  # a dataclass's own signature
        return ""
    words = " ".join(inspect.cleandoc(written).split("\n\n")[0].split())
    sentence = re.split(r"(?<=\.)\s+(?=[A-Z(`])", words)[0].rstrip(":;.")
    return sentence.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    raise SystemExit(main())
