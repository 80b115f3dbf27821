"""Dependencies: lower bounds that `make oldest` tests, versions that CI pins, permissive licences."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CI = {"python_version": "3.11", "sys_platform": "linux", "platform_machine": "x86_64"}
PERMISSIVE = re.compile(r"\b(0?BSD|MIT|Apache|Python Software Foundation|PSF|HPND|ISC|Zlib|MPL)", re.IGNORECASE)


def direct(*extras: str) -> list[Requirement]:
    """What pyproject.toml names, for all platforms; an extra that names others of ours brings them."""
    texts = list(PROJECT["dependencies"])
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    found = []
    for requirement in map(Requirement, texts):
        if requirement.name == PROJECT["name"]:
            found += direct(*requirement.extras)
        else:
            found.append(requirement)
    return found


def pins(name: str) -> dict[str, tuple[str, Requirement]]:
    """Canonical name -> version of a constraints file, for where CI runs, and its line."""
    lines = (ROOT / ".ci" / name).read_text(encoding="utf-8").splitlines()
    found = {}
    for requirement in (Requirement(line) for line in lines if line and not line.startswith("#")):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        if requirement.marker is None or requirement.marker.evaluate(CI):
            found[canonicalize_name(requirement.name)] = specifier.version, requirement
    return found


def needed(requirements: list[Requirement], seen: set[str] | None = None) -> Iterator[str]:
    """Canonical names of these, and of all that they need in turn, as far as they are installed."""
    seen = set() if seen is None else seen
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        extras = ["", *requirement.extras]
        if name in seen or not (requirement.marker is None or requirement.marker.evaluate({**CI, "extra": ""})):
            continue
        seen.add(name)
        yield name
        if version_of(name) is None:
            continue
        inner = [Requirement(text) for text in distribution(name).requires or []]
        wanted = [i for i in inner if i.marker is None or any(i.marker.evaluate({**CI, "extra": e}) for e in extras)]
        for one in wanted:
            one.marker = None
        yield from needed(wanted, seen)


def version_of(name: str) -> str | None:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


def test_dependencies_have_lower_bounds_only():
    for requirement in direct(*PROJECT["optional-dependencies"]):
        assert [s.operator for s in requirement.specifier] == [">="], requirement


def test_headless_requirements_equal_the_dependencies():
    """But for windows of OpenCV, and for the runtime of ONNX, which the command names."""
    lines = (ROOT / "requirements-headless.txt").read_text(encoding="utf-8").splitlines()
    found = {str(Requirement(line)) for line in lines if not line.startswith("#")}
    usual = [text.replace("opencv-python", "opencv-python-headless") for text in PROJECT["dependencies"]]
    assert found == {str(Requirement(text)) for text in usual if not text.startswith("onnxruntime")}


def test_image_gets_all_that_the_install_needs():
    """What setup.py and pyproject.toml name is let into the build by .dockerignore, and the Dockerfile copies it."""
    given = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    needed_here = {"setup.py", "pyproject.toml", "tracker", "reid_training", "weights", PROJECT["readme"]}
    assert given == needed_here | {*PROJECT["license-files"], "requirements-headless.txt"}
    assert "COPY . /src" in (ROOT / "Dockerfile").read_text("utf-8").splitlines()


def test_oldest_versions_equal_the_lower_bounds():
    oldest = {name: version for name, (version, _) in pins("oldest.txt").items()}
    bounds = {
        canonicalize_name(r.name): Version(next(iter(r.specifier)).version)
        for r in direct("train", "tensorboard", "imagenet", "ray")
    }
    for name in {canonicalize_name(r.name) for r in direct()}:
        assert name in oldest
    for name, version in oldest.items():
        # The first release that the bound lets in: 4.8.0.74 for 4.8, for there is no 4.8.0.
        assert Version(version) >= bounds[name], name
        assert version.startswith(f"{bounds[name]}"), name


def test_ci_pins_every_version():
    fixed = {name: version for name, (version, _) in pins("constraints.txt").items()}
    here = {name: version_of(name) for name in needed(direct())}
    if {name: fixed.get(name) for name in here} != here:
        pytest.skip("other versions are installed; what they need may differ")
    assert set(needed(direct("dev"))) - fixed.keys() == set()


def test_ci_versions_satisfy_the_requirements():
    fixed = {name: version for name, (version, _) in pins("constraints.txt").items()}
    for requirement in direct("dev"):
        if requirement.marker is None or requirement.marker.evaluate(CI):
            name = canonicalize_name(requirement.name)
            assert requirement.specifier.contains(fixed[name]), requirement


def test_constraints_do_not_bind_other_platforms():
    """A version pinned for CI may not exist for another Python or processor."""
    for requirement in [line for name, (_, line) in pins("constraints.txt").items() if name != "torch"]:
        assert requirement.marker is not None
        assert not requirement.marker.evaluate({**CI, "python_version": "3.15"})
        assert not requirement.marker.evaluate({**CI, "sys_platform": "darwin", "platform_machine": "arm64"})


@pytest.mark.parametrize("name", sorted(needed(direct())))
def test_runtime_dependencies_have_permissive_licences(name):
    if version_of(name) is None:
        pytest.skip(f"{name} is not installed")
    metadata = distribution(name).metadata
    classifiers = [text for text in metadata.get_all("Classifier") or [] if text.startswith("License")]
    said = metadata.get("License-Expression") or " ".join([*classifiers, (metadata.get("License") or "")[:200]])
    assert PERMISSIVE.search(said), said
    assert "GPL" not in said
