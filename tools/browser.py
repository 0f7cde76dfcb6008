#!/usr/bin/env python3
"""Find a Chromium for the tests of the viewer, or fetch one, and write how to start it.

python tools/browser.py FOLDER: FOLDER/chromium starts a browser afterwards. Tried in this order: one that is
installed (ELVSM_BROWSER names another); Playwright's (110 MB, from its own server); the npm package
@sparticuz/chromium (65 MB, brings its libraries along) where npm is installed. Without any of them the tests of the
page are skipped; this ends with status 0 either way, and says what it found. Status 2: FOLDER is somebody else's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

INSTALLED = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PACKAGE = "@sparticuz/chromium@147.0.0"
# npm's packages are compressed in a way that Python does not know, and node does.
UNPACK = (
    "const fs=require('fs'),z=require('zlib');"
    "fs.writeFileSync(process.argv[2],z.brotliDecompressSync(fs.readFileSync(process.argv[1])))"
)

MARKER = ".elvsm-browser"
"""Marks a folder as one that this program filled and may delete."""
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{home}/fonts</dir><dir>/usr/share/fonts</dir><cachedir>{home}/fontcache</cachedir></fontconfig>
"""


def works(command: Path | str) -> bool:
    """Tell whether a browser starts."""
    try:
        return not subprocess.run([str(command), "--version"], capture_output=True, timeout=30).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def installed() -> str | None:
    """Return the command of a browser that is installed."""
    names = [os.environ["ELVSM_BROWSER"]] if os.environ.get("ELVSM_BROWSER") else INSTALLED
    return next((found for found in map(shutil.which, names) if found and works(found)), None)


def playwrights(folder: Path) -> Path | None:
    """Fetch the browser of the installed Playwright."""
    environment = dict(os.environ, PLAYWRIGHT_BROWSERS_PATH=str(folder / "playwright"))
    command = [sys.executable, "-m", "playwright", "install", "--only-shell", "chromium"]
    try:
        subprocess.run(command, env=environment, capture_output=True, timeout=300, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = sorted(folder.glob("playwright/*/*/chrome-headless-shell")) + sorted(
        folder.glob("playwright/*/*/headless_shell")
    )
    return found[0] if found and works(found[0]) else None


def npms(folder: Path) -> Path | None:
    """Fetch the browser of the npm package and put a script beside it that finds its libraries."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        return None
    try:
        command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
        subprocess.run(command, capture_output=True, timeout=300, check=True)
        (archive,) = folder.glob("*.tgz")
        with tarfile.open(archive) as files:
            _extract(files, folder)
        archive.unlink()
        home = folder / "package"
        for packed in (home / "bin").glob("*.br"):
            plain = home / packed.stem
            subprocess.run([node, "-e", UNPACK, packed, plain], timeout=120, check=True, capture_output=True)
            packed.unlink()
            if plain.suffix == ".tar":
                with tarfile.open(plain) as files:
                    _extract(files, home)
                plain.unlink()
    except (OSError, ValueError, tarfile.TarError, subprocess.SubprocessError):
        return None
    (home / "chromium").chmod(0o755)
    # The one that comes along looks for fonts elsewhere, and without any the browser dies at the first text field.
    (home / "fonts.conf").write_text(FONTS.format(home=home))
    script = folder / "with_libraries"
    script.write_text(
        f'#!/bin/sh\nexport LD_LIBRARY_PATH="{home}/lib:{home}" FONTCONFIG_PATH="{home}"\n'
        f'exec "{home}/chromium" "$@"\n'
    )
    script.chmod(0o755)
    return script if works(script) else None


def _extract(files: tarfile.TarFile, folder: Path) -> None:
    if hasattr(tarfile, "data_filter"):
        files.extractall(folder, filter="data")
    else:
        files.extractall(folder)


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    script = folder / "chromium"
    found: str | Path | None = installed()
    if found is None and script.exists() and works(script):
        return 0  # fetched before
    marker = folder / MARKER
    if marker.is_file() and not folder.is_symlink():  # one that this program filled, and that does not work
        shutil.rmtree(folder)
    elif folder.exists() and any(folder.iterdir()):
        print(f"elvsm: {folder} was not made by {Path(__file__).name}: move it away, or name another folder")
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()
    if found is None:
        print("elvsm: fetching a browser for the tests of the viewer", flush=True)
        found = playwrights(folder) or npms(folder)
    if found is None:
        print("elvsm: no browser: the tests of the viewer's page are skipped (apt-get install chromium)")
        return 0
    script.write_text(f'#!/bin/sh\nexec "{found}" "$@"\n')
    script.chmod(0o755)
    return 0


if __name__ == "__main__":
    sys.exit(main())
