"""Commands in README.md and docs/ exist, and their programs know the options."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import re
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("rclpy", reason="needs the ROS packages: run make")

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "elvsm_core/weights/MODEL_CARD.md",
    ROOT / "elvsm_core/weights/MODEL_CARD_256.md",
]
SCRIPTS = dict(re.findall(r'^(elvsm_\w+) = "([\w.:]+)"$', (ROOT / "pyproject.toml").read_text(), re.M))
COMMAND = re.compile(
    r"(?:-m (?P<module>(?:elvsm_core|elvsm_ros|training)[\w.]*)|python (?P<file>\w+/\w+\.py)"
    rf"|(?:(?<=bin/)|(?<![\w/.-]))(?P<script>{'|'.join(SCRIPTS)})(?![\w/.:]))(?P<rest>[^`|#\n]*)"
)
WITHOUT_OPTIONS = {"elvsm_node", "elvsm_ros.parameters.page", "elvsm_ros.parameters.yaml_file"}
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def code(page: Path) -> list[str]:
    """Return what a page shows as code: the lines of its shell blocks and what stands between backticks."""
    text = page.read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()] + inline


def commands(page: Path) -> list[tuple[str, set[str]]]:
    """Return the programs of this project in a page's code, each with the options that are given to it."""
    found = []
    for line in code(page):
        for match in COMMAND.finditer(line):
            program = match["module"] or match["file"] or match["script"]
            own = match["rest"].partition("--ros-args")[0]
            found.append((program, set(OPTION.findall(own))))
    return found


@functools.cache
def options(program: str) -> frozenset[str]:
    """Return the options that a program's --help names."""
    if program in WITHOUT_OPTIONS:
        return frozenset()
    out = io.StringIO()
    paths = [str(ROOT / "benchmarks"), *sys.path]
    with (
        mock.patch.object(sys, "argv", [program, "--help"]),
        mock.patch.object(sys, "path", paths),
        contextlib.redirect_stdout(out),
        pytest.raises(SystemExit) as end,
    ):
        if program in SCRIPTS:
            module, _, function = SCRIPTS[program].partition(":")
            getattr(importlib.import_module(module), function)(["--help"])
        elif program.endswith(".py"):
            runpy.run_path(str(ROOT / program), run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__")
    assert not end.value.code, program
    return frozenset(OPTION.findall(out.getvalue()))


def exists(program: str) -> bool:
    if program.endswith(".py"):
        return (ROOT / program).is_file()
    return program in SCRIPTS or importlib.util.find_spec(program) is not None


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_exist_and_know_their_options(page: Path) -> None:
    for program, given in commands(page):
        assert exists(program), program
        assert given <= options(program), f"{program}: {given - options(program)}"


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_options_that_are_named_alone_are_those_of_some_program() -> None:
    known = frozenset().union(*(options(program) for page in PAGES for program, _ in commands(page)))
    for page in PAGES:
        alone = {o for text in code(page) if text.startswith("--") for o in OPTION.findall(text)}
        assert alone <= known, f"{page.name}: {alone - known}"


def test_every_program_is_described() -> None:
    named = {program for page in PAGES for program, _ in commands(page)}
    assert named >= set(SCRIPTS)
    files = {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.py")}
    # What others share.
    more = {"benchmarks/harness.py", "benchmarks/soak_results.py"}
    assert files - named <= more, "a benchmark whose figures stand nowhere?"
