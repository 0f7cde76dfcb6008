"""Videos decode, in the format that browsers play."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from elvsm_report.video import write_video
from elvsm_ros.tools.image_grid import row

pytestmark = pytest.mark.slow


def frames(count: int) -> list[np.ndarray]:
    y, x = np.mgrid[0:48, 0:64]
    return [np.stack([x * 3, y * 4, np.full_like(x, 20 * k)], -1).astype(np.uint8) for k in range(count)]


def test_what_was_written_decodes(tmp_path: Path) -> None:
    path, written = tmp_path / "film.mp4", frames(8)
    assert write_video(path, iter(written), 12) == 8
    reader = imageio_ffmpeg.read_frames(str(path))
    info = next(reader)
    assert info["codec"] == "h264"
    assert info["pix_fmt"].startswith("yuv420p")
    assert info["size"] == (64, 48)
    assert info["fps"] == 12
    decoded = [np.frombuffer(data, np.uint8).reshape(48, 64, 3) for data in reader]
    assert len(decoded) == 8
    for before, after in zip(written, decoded, strict=True):
        assert np.abs(before.astype(int) - after).mean() < 12
    assert list(tmp_path.iterdir()) == [path]


def test_the_index_comes_first(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", frames(3), 10)
    data = (tmp_path / "film.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_no_frames_no_file(tmp_path: Path) -> None:
    assert write_video(tmp_path / "film.mp4", [], 10) == 0
    assert list(tmp_path.iterdir()) == []


def test_frames_that_do_not_fit_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even sides"):
        write_video(tmp_path / "film.mp4", [np.zeros((47, 64, 3), np.uint8)], 10)
    with pytest.raises(ValueError, match="frame 2"):
        write_video(tmp_path / "film.mp4", [*frames(2), np.zeros((48, 32, 3), np.uint8)], 10)
    assert list(tmp_path.iterdir()) == []


def test_rows_of_pictures_fit_into_a_video() -> None:
    for height in (99, 100, 101):
        made = row(frames(3), [("a", ""), ("b", "1 dB"), ("c", "2 dB")], height)
        assert made.shape[0] % 2 == made.shape[1] % 2 == 0
        assert made.dtype == np.uint8
    # The pictures stand in order, at the top.
    np.testing.assert_allclose(made[50, made.shape[1] // 2], frames(3)[1][24, 32], atol=6)
