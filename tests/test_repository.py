"""What a stranger finds in a clone: nothing of the machine it was written on."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP = {"README.md", "amux_asgi", "benchmarks", "examples", "pyproject.toml", "tests"}
MADE = {
    "__pycache__",
    "amux-pictures",
    "build",
    "dist",
    "lantern.png",
    "node_modules",
    "sandbox.png",
}  # by running things; git does not know them
KEPT = {".ci", ".gitignore"}  # what may begin with a dot and is not made by running things

INDEX = re.compile(r"\b(?:pypi|npmjs|pythonhosted)\.(?:org|com)\b|\bindex-url\b")
PLACE = re.compile(r"(?<![\w.:})])/(?:home|root|work)/")
STRANGE = [
    pytest.param(INDEX, "https://files.python" + "hosted.org/packages/x.whl", id="a package index"),
    pytest.param(INDEX, "pip install --extra-index" + "-url=https://a.example", id="an option that names an index"),
    pytest.param(PLACE, 'open("/wo' + 'rk/main/x.py")', id="a place on a machine"),
    pytest.param(PLACE, "cd /ho" + "me/me/amux", id="a person's folder"),
]


def files(folder: Path) -> Iterator[Path]:
    """List the files that belong to the repository."""
    for path in sorted(folder.iterdir()):
        if path.name in MADE or (path.name.startswith(".") and path.name not in KEPT):
            continue
        if path.is_dir():
            yield from files(path)
        else:
            yield path


def test_no_file_names_a_package_index_or_a_place_on_a_machine() -> None:
    """Everything works from any clone at any path, with whichever index pip is set to."""
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in files(ROOT)}

    found = [str(path.relative_to(ROOT)) for path, text in texts.items() if INDEX.search(text) or PLACE.search(text)]

    assert found == []


@pytest.mark.parametrize(("pattern", "text"), STRANGE)
def test_what_must_not_stand_in_a_file_would_be_noticed(pattern: re.Pattern[str], text: str) -> None:
    """The guard above knows what it looks for."""
    assert pattern.search(text)


@pytest.mark.parametrize("text", ["https://a.example/work/1", "/v1/home/", "../root/x", "homework/"])
def test_an_ordinary_path_is_no_place_on_a_machine(text: str) -> None:
    """Parts of URLs and of relative paths are left in peace."""
    assert not PLACE.search(text)


def test_the_top_holds_only_what_belongs_there() -> None:
    """The project's folder is easy to take in."""
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}

    assert names - MADE <= TOP


def test_what_ci_calls_can_be_executed() -> None:
    """`.ci/run` is a program."""
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
