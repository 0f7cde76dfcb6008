"""Look at datasets, and convert between their formats.

elvsm_dataset inspect PATH                            what it is, and what is wrong with it
elvsm_dataset convert RECORDING OUT --to chunks       a robot's bag into training data, and any format into another
elvsm_dataset formats                                 which formats can be read
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from .data import formats
from .data.conversion import Report, to_chunks, to_folders
from .data.export import WRITERS, FlatKeys, Smaller, to_files
from .data.readers.chunks import ChunkError
from .data.store import DatasetError, Store

TARGETS = ("chunks", "folders", *WRITERS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="elvsm_dataset", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="say what a dataset is, and what is wrong with it")
    convert = commands.add_parser(
        "convert", help="write a dataset in another format; resumes what was interrupted"
    )
    commands.add_parser("formats", help="list the formats that can be read")
    for command in (inspect, convert):
        command.add_argument("path", type=Path, help="dataset, or folder of folders with scenes")
        command.add_argument(
            "--store", default=formats.AUTO, help="format (auto), or a Python file that defines one"
        )
        command.add_argument(
            "--option",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="option of the format; may be repeated",
        )
    inspect.add_argument("--scenes", type=int, default=20, help="scenes to look at, evenly spread (20)")
    inspect.add_argument(
        "--sheet",
        type=Path,
        default=Path("contact_sheet.jpg"),
        help="where the contact sheet goes (contact_sheet.jpg)",
    )
    inspect.add_argument("--no-sheet", action="store_true", help="write no contact sheet")
    inspect.add_argument("--json", type=Path, metavar="FILE", help="write what was found there as well")
    convert.add_argument("out", type=Path, help="folder to write to; what is complete in it is kept")
    convert.add_argument(
        "--to", choices=TARGETS, required=True, help="chunks and folders are RealEstate10K's"
    )
    convert.add_argument("--height", type=int, help="make larger images this high, pixels")
    convert.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="threads that encode images"
    )
    convert.add_argument("--encoding", choices=("jpeg", "png"), default="jpeg", help="of images in chunks")
    usages = (command.format_usage().removeprefix("usage: ") for command in (inspect, convert))
    parser.epilog = "\n".join(usages) + "\nelvsm_dataset COMMAND --help says what each option means."
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0, 1 where something is wrong with the data, 2 where they cannot be used."""
    args = _parser().parse_args(arguments)
    try:
        if args.command == "formats":
            return _formats()
        with _Progress() as progress:
            store = formats.open_store(args.path, args.store, _options(args.option))
            return (
                _inspect(args, store, progress)
                if args.command == "inspect"
                else _convert(args, store, progress)
            )
    except (DatasetError, ChunkError) as error:
        print(f"elvsm_dataset: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk
        reason = error.strerror or str(error)
        print(
            f"elvsm_dataset: {error.filename or args.path}: {reason}; what is written stays, the same command resumes",
            file=sys.stderr,
        )
        return 2


def _options(texts: Sequence[str]) -> dict[str, Any]:
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise DatasetError(f"--option {text!r} is not of the form NAME=VALUE")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise DatasetError(f"--option {name}: {value!r} is no YAML value") from error
    return options


def _formats() -> int:
    for name in formats.names():
        try:
            summary = getattr(formats.find_format(name), "SUMMARY", "")
        except DatasetError as error:
            summary = f"unusable: {error}"
        print(f"{name:<12}{summary}")
    return 0


def _inspect(args: argparse.Namespace, store: Store, progress: _Progress) -> int:
    from .data.inspection import contact_sheet, inspect_store

    name = (
        args.store
        if args.store != formats.AUTO
        else formats.detect(args.path.expanduser()) or "folder of scenes"
    )
    found, pictures = inspect_store(store, f"{args.path}: {name}", args.scenes, progress.counter("scenes"))
    progress.stop()
    print("\n".join(found.lines()))
    if args.json is not None:
        args.json.write_text(json.dumps(found.to_json(), indent=1))
    if pictures and not args.no_sheet:
        contact_sheet(pictures).save(args.sheet, quality=90)
        print(f"contact sheet: {args.sheet}")
    return 0 if found.healthy else 1


def _convert(args: argparse.Namespace, store: Store, progress: _Progress) -> int:
    if args.height is not None:
        store = Smaller(store, args.height)
    store = FlatKeys(store)
    report: Report
    if args.to == "chunks":
        report = to_chunks(store, args.out, args.encoding, progress=progress.track)
    elif args.to == "folders":
        report = to_folders(store, args.out, args.workers, progress.track)
    else:
        report = to_files(store, args.out, args.to, args.workers, progress.track)
    progress.stop()
    print(report)
    return 1 if report.failed else 0


class _Progress:
    """Bars on a terminal, nothing elsewhere. Formats that read for long show theirs through it, too."""

    def __enter__(self) -> _Progress:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._bars = Progress(console=console, disable=not console.is_terminal)
        self._bars.start()
        self._tasks: dict[str, Any] = {}
        self._before = formats.on_progress
        formats.on_progress = self._advance
        return self

    def __exit__(self, *_: object) -> None:
        formats.on_progress = self._before
        self.stop()

    def stop(self) -> None:
        """Leave the terminal to what is printed next."""
        self._bars.stop()

    def _advance(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def counter(self, stage: str) -> Any:
        """Return a function of (done, total) that moves a bar."""
        return lambda done, total: self._advance(stage, done, total)

    def track(self, keys: Iterable[str], stage: str) -> Iterable[str]:
        """Yield keys, moving a bar."""
        every = list(keys)
        for done, key in enumerate(every):
            self._advance(stage, done, len(every))
            yield key
        self._advance(stage, len(every), len(every))


if __name__ == "__main__":
    sys.exit(main())
