"""The pages in docs/ are in step with what they are about."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs the ROS packages: run make")

from elvsm_ros.parameters import page as parameter_page
from elvsm_ros.parameters import table

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "elvsm_core/weights/MODEL_CARD.md",
    ROOT / "elvsm_core/weights/MODEL_CARD_256.md",
]


@pytest.fixture(scope="module", params=PAGES, ids=lambda path: path.stem)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_the_page_of_parameters_is_in_step(repository: Path) -> None:
    text = (repository / "docs" / "parameters.md").read_text()
    assert text == parameter_page.page(), "run: python -m elvsm_ros.parameters.page > docs/parameters.md"


def test_every_parameter_has_a_line(repository: Path) -> None:
    named = re.findall(r"^\| `(\w+)`", (repository / "docs" / "parameters.md").read_text(), re.M)
    assert named == [row.name for row in table.table()]


def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in headings(target), link


def headings(page: Path) -> set[str]:
    """Return the anchors of a page, as GitHub and GitLab make them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_parameters_that_are_named_exist(page: Path) -> None:
    """Names in code style that look like `name: value` or `-p name:=value` are parameters of the node."""
    known = {row.name for row in table.table()} | {"use_sim_time"}
    named = set(re.findall(r"-p (\w+):=", page.read_text()))
    named |= set(re.findall(r"`(\w+): [^`]*`", page.read_text()))
    assert not named - known


def spoken(folder: Path) -> list[str]:
    """Return the texts in a package's code, with all that is chosen between; names and numbers are left out."""
    texts = []
    for path in folder.rglob("*.py"):
        tree = ast.parse(path.read_text())
        docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in set(ast.walk(tree)) - docstrings:
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            choices = [
                [x.value for x in ast.walk(part) if isinstance(x, ast.Constant)] or ["\n"] for part in parts
            ]
            if isinstance(node, ast.JoinedStr | ast.Constant):
                texts += ["".join(map(str, words)) for words in itertools.product(*choices)]
    return texts


@pytest.mark.slow
def test_messages_that_are_explained_are_those_of_the_node(repository: Path) -> None:
    page = (repository / "docs" / "troubleshooting.md").read_text()
    tables = re.findall(r"^\| message \|.*\n\| ---.*\n((?:\|.*\n)+)", page, re.M)
    cells = [line.split(" | ")[0] for table in tables for line in table.splitlines()]
    quoted = [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]
    # Python says this one. And of each message the words count, not the names and numbers in it.
    own = [text for text in quoted if not text.startswith("No module named")]
    assert len(tables) == 3 and len(own) > 12
    texts = spoken(repository / "elvsm_ros") + spoken(repository / "elvsm_core")
    for text in own:
        for words in re.split(r"'[^']*'|\b[\d.]+\b|\S+/\S+|\.\.\.|[():]", text):
            assert any(words.strip() in said for said in texts), text
