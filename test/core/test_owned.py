"""What may be deleted: folders with this program's marker and their exact name, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from elvsm_core.files import owned

KIND = "test"


def marked(folder: Path, kind: str = KIND) -> Path:
    owned.claim(folder, kind)
    (folder / "inside").mkdir()
    (folder / "inside" / "file").write_text("x")
    (folder / "file").write_text("x")
    return folder


def content(root: Path) -> dict[str, object]:
    def one(path: Path) -> object:
        if path.is_symlink():
            return os.readlink(path)
        return path.read_bytes() if path.is_file() else path.is_dir()

    return {str(path.relative_to(root)): one(path) for path in root.rglob("*")}


def unmarked(folder: Path) -> None:
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(b"mine")


def renamed(folder: Path) -> None:
    marked(folder.with_name("before")).rename(folder)


def of_another_kind(folder: Path) -> None:
    marked(folder, "another kind")


def with_a_marker_of_somebody_else(folder: Path) -> None:
    unmarked(folder)
    (folder / owned.MARKER).write_text('{"name": "folder"}')


def with_a_marker_that_is_a_link(folder: Path) -> None:
    real = marked(folder.with_name("other") / folder.name)
    unmarked(folder)
    (folder / owned.MARKER).symlink_to(real / owned.MARKER)


def with_a_marker_that_is_a_fifo(folder: Path) -> None:
    unmarked(folder)
    os.mkfifo(folder / owned.MARKER)


def a_link_to_a_marked_one(folder: Path) -> None:
    folder.symlink_to(marked(folder.with_name("other") / folder.name))


def a_dangling_link(folder: Path) -> None:
    folder.symlink_to(folder.with_name("nowhere"))


def a_file(folder: Path) -> None:
    folder.write_text("mine")


@pytest.mark.parametrize(
    "make",
    [unmarked, renamed, of_another_kind, with_a_marker_of_somebody_else, with_a_marker_that_is_a_link,
     with_a_marker_that_is_a_fifo, a_link_to_a_marked_one, a_dangling_link, a_file],
)  # fmt: skip
def test_what_is_not_the_programs_own_stays_and_is_named(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    make(folder)
    before = content(tmp_path)
    assert not owned.is_owned(folder, KIND)
    for action in (owned.remove, owned.claim):
        with pytest.raises(owned.ForeignFolderError, match=str(folder)):
            action(folder, KIND)
    assert content(tmp_path) == before


def test_what_is_the_programs_own_goes_without_what_it_links_to(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    unmarked(mine)
    folder = marked(tmp_path / "deep" / "folder")
    (folder / "link").symlink_to(mine)
    (folder / "inside" / "link").symlink_to(mine)
    owned.claim(folder, KIND)  # again: it stays as it is
    assert (folder / "file").exists()
    owned.remove(folder, KIND)
    owned.remove(folder, KIND)  # none is no error
    assert content(tmp_path) == {"deep": True, "mine": True, "mine/photo.jpg": b"mine"}


def test_an_empty_folder_and_one_whose_claim_was_killed_can_be_claimed(tmp_path: Path) -> None:
    for name in ("empty", "killed"):
        (tmp_path / name).mkdir()
    (tmp_path / "killed" / owned.MARKER).touch()
    for name in ("empty", "killed"):
        owned.claim(tmp_path / name, KIND)
        assert owned.is_owned(tmp_path / name, KIND)


@pytest.mark.slow
def test_temporary_folders_of_killed_programs_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    foreign = tmp_path / f".target.abcdefgh{owned.SUFFIX}"
    unmarked(foreign)
    program = (
        "import sys, pathlib; from elvsm_core.files import owned\n"
        f"with owned.temporary(pathlib.Path(sys.argv[1]) / 'target', {KIND!r}) as folder:\n"
        "    (folder / 'file').write_text('x'); print(folder, flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    theirs = Path(process.stdout.readline().strip())
    with owned.temporary(tmp_path / "target", KIND) as mine:
        assert theirs.exists() and mine.exists() and foreign.exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert theirs.exists() and not mine.exists()
    with owned.temporary(tmp_path / "target", KIND):
        assert not theirs.exists()
    assert list(tmp_path.iterdir()) == [foreign]


def test_a_folder_for_output_is_new_empty_or_was_made_for_the_same_output(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    owned.claim_output(out, KIND)
    (out / "index.html").write_text("results")
    owned.claim_output(out, KIND)
    link = tmp_path / "link"
    link.symlink_to(out)
    owned.claim_output(link, KIND)
    with pytest.raises(owned.ForeignFolderError, match=r"index\.html.*another kind"):
        owned.claim_output(out, "another kind")
    moved = out.rename(tmp_path / "moved")
    file = tmp_path / "file"
    file.write_text("mine")
    for taken in (moved, file):
        with pytest.raises(owned.ForeignFolderError, match=str(taken)):
            owned.claim_output(taken, KIND)
    assert file.read_text() == "mine"
