"""The demo with the viewer beside it."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from recordings import write_walk

pytestmark = pytest.mark.ros

pytest.importorskip("viser", reason="needs the extra [viewer]: run make")


def test_the_page_is_there_until_somebody_has_seen_enough(tmp_path: Path, blind_model: Path) -> None:
    bag = write_walk(tmp_path / "walk")
    command = [sys.executable, "-m", "elvsm_ros.demo", "--out", str(tmp_path / "out"), "--bag", str(bag)]
    command += ["--model", str(blind_model), "--film-frames", "0", "--view", "18100"]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert demo.stdout is not None
        lines: list[str] = []
        for line in demo.stdout:
            lines.append(line)
            if "Ctrl-C ends them" in line:
                break
        else:
            pytest.fail("".join(lines))
        url = next(word for word in lines[-1].split() if word.startswith("http://127.0.0.1:"))
        assert any("the scene while it grows: " + url in line for line in lines)
        assert any("PSNR of the render" in line for line in lines)
        with urllib.request.urlopen(url, timeout=10) as page:
            assert b"<html" in page.read().lower()
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == 0
        with pytest.raises(OSError):
            urllib.request.urlopen(url, timeout=2)
    finally:
        demo.kill()
