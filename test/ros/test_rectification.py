"""Lens distortion, taken out again: against the textbook's formulas, not against OpenCV."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rig import CAMERA, NodeProcess, Peer, header, pixels, pose_at, wait_until
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_srvs.srv import Trigger

from elvsm_core.keyframes import admit
from elvsm_ros import conversions
from elvsm_ros.conversions import ConversionError, Intrinsics
from elvsm_ros.input import rectification
from elvsm_ros.input.image_intake import Candidate, Intake
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.parameters.table import Settings

RAW = Intrinsics(210.0, 205.0, 163.0, 117.0, 320, 240)
LENSES = {
    "plumb_bob": [-0.28, 0.09, 0.001, -0.0007, -0.01],
    "rational_polynomial": [0.4, 0.05, 0.0005, -0.0004, 0.002, 0.7, 0.12, 0.01],
    "equidistant": [-0.01, 0.004, -0.002, 0.0004],
}


def distort(model: str, d: list[float], x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Apply the published formulas of a model to directions x/z, y/z."""
    r2 = x * x + y * y
    if model == "equidistant":
        r = np.sqrt(r2)
        theta = np.arctan(r)
        bent = theta * (1 + sum(k * theta ** (2 * i + 2) for i, k in enumerate(d)))
        scale = np.where(r > 1e-12, bent / np.maximum(r, 1e-12), 1.0)
        return x * scale, y * scale
    k1, k2, p1, p2, k3, k4, k5, k6 = [*d, 0.0, 0.0, 0.0][:8]
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def undistort(model: str, d: list[float], xd: np.ndarray, yd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Invert `distort` by Newton steps with numerical derivatives, from the undistorted guess."""
    x, y = xd.copy(), yd.copy()
    for _ in range(50):
        fx, fy = distort(model, d, x, y)
        h = 1e-6
        ax, ay = distort(model, d, x + h, y)
        bx, by = distort(model, d, x, y + h)
        J = np.stack([np.stack([ax - fx, bx - fx], -1), np.stack([ay - fy, by - fy], -1)], -2) / h
        step = np.linalg.solve(J, np.stack([xd - fx, yd - fy], -1)[..., None])[..., 0]
        x, y = x + step[..., 0], y + step[..., 1]
    return x, y


def scenery(x: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
    """Return what is seen in directions x/z, y/z, float [H, W, 3]: 10 grey levels a pixel where it is steep.

    scale: of directions to pixels.
    """
    u, v = x * scale, y * scale
    waves = [np.sin(0.1 * u), np.sin(0.1 * v), np.sin(0.07 * (u + v))]
    return np.stack([127.0 + 100.0 * wave for wave in waves], axis=-1)


def directions(camera: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
    v, u = np.mgrid[: camera.height, : camera.width].astype(float)
    return (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy


def raw_picture(model: str, camera: Intrinsics, scale: float = 210.0) -> np.ndarray:
    """Return what a camera with the lens LENSES[model] sees of the scenery, uint8 RGB."""
    x, y = undistort(model, LENSES[model], *directions(camera))
    assert np.isfinite(x).all()
    return np.rint(scenery(x, y, scale)).astype(np.uint8)


def pinhole_picture(camera: Intrinsics, scale: float = 210.0) -> np.ndarray:
    return scenery(*directions(camera), scale)


def info(model: str, camera: Intrinsics = RAW, d: list[float] | None = None, **fields: Any) -> CameraInfo:
    message = conversions.camera_info(camera, header(0, "camera"))
    message.distortion_model, message.d = model, LENSES[model] if d is None else d
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def assert_same_picture(rectified: np.ndarray, expected: np.ndarray) -> None:
    """Hold two pictures of the scenery against each other: a grey level is a tenth of a pixel in them."""
    error = np.abs(rectified - expected)
    assert error.mean() < 0.5 and error.max() < 1.8, f"{error.mean():.2f} {error.max():.2f} grey levels"


@pytest.mark.slow
@pytest.mark.parametrize("model", LENSES)
def test_a_lens_is_taken_out_to_a_tenth_of_a_pixel(model: str) -> None:
    calibration = rectification.read(info(model))
    assert calibration.lens is not None
    rectified = calibration.lens.rectify(raw_picture(model, RAW))
    assert_same_picture(rectified, pinhole_picture(calibration.camera))
    # What this is for: without it the picture is off by far more.
    raw_error = np.abs(raw_picture(model, RAW) - pinhole_picture(RAW))
    assert raw_error.max() > 20


@pytest.mark.parametrize("model", LENSES)
def test_the_picture_is_the_widest_without_blank_pixels(model: str) -> None:
    calibration = rectification.read(info(model))
    camera = calibration.camera
    assert (camera.width, camera.height, camera.cx, camera.cy) == (320, 240, RAW.cx, RAW.cy)
    assert camera.fx / camera.fy == pytest.approx(RAW.fx / RAW.fy)

    def outside(camera: Intrinsics) -> bool:
        xd, yd = distort(model, LENSES[model], *directions(camera))
        u, v = xd * RAW.fx + RAW.cx, yd * RAW.fy + RAW.cy
        slack = 0.01  # a hundredth of a pixel, because the border is sampled
        return bool(min(u.min(), v.min()) < -slack or u.max() > 319 + slack or v.max() > 239 + slack)

    assert not outside(camera)
    assert outside(dataclasses.replace(camera, fx=camera.fx * 0.97, fy=camera.fy * 0.97))


def test_a_fisheye_shows_120_degrees_at_most() -> None:
    wide = Intrinsics(100.0, 100.0, 160.0, 120.0, 320, 240)  # 183 degrees across
    camera = rectification.read(info("equidistant", wide, d=[0.001, 0.0, 0.0, 0.0])).camera
    assert np.degrees(2 * np.arctan(160 / camera.fx)) == pytest.approx(120, abs=1)


def test_binning_and_region_of_interest() -> None:
    roi = RegionOfInterest(x_offset=40, y_offset=20, width=240, height=200)
    message = info("plumb_bob", binning_x=2, binning_y=2, roi=roi)
    raw = conversions.intrinsics(message)
    assert raw == Intrinsics(105.0, 102.5, (163.0 - 40) / 2, (117.0 - 20) / 2, 120, 100)
    calibration = rectification.read(message)
    assert calibration.lens is not None
    rectified = calibration.lens.rectify(raw_picture("plumb_bob", raw, scale=105.0))
    assert_same_picture(rectified, pinhole_picture(calibration.camera, scale=105.0))
    for bad, text in (
        ({"roi": RegionOfInterest(x_offset=200, width=240, height=200)}, "region of interest"),
        ({"binning_x": 400}, "nothing is left"),
    ):
        with pytest.raises(ConversionError, match=text):
            conversions.intrinsics(info("plumb_bob", **bad))


@pytest.mark.parametrize(
    ("model", "d", "text"),
    [
        ("kannala_brandt8", [0.1] * 4, "distortion model 'kannala_brandt8', which is none of plumb_bob"),
        ("", [0.1] * 5, "distortion model ''"),
        ("plumb_bob", [0.1] * 8, "must be 4 or 5 numbers"),
        ("plumb_bob", [0.1, float("nan"), 0.0, 0.0, 0.0], "plumb_bob coefficients"),
        ("plumb_bob", [-1e5, 0.0, 0.0, 0.0, 0.0], "leave nothing of a picture"),
    ],
)
def test_lenses_that_cannot_be_are_refused(model: str, d: list[float], text: str) -> None:
    with pytest.raises(ConversionError, match=text):
        rectification.read(info(model, d=d))


def test_without_coefficients_the_model_does_not_matter() -> None:
    for d in ([], [0.0] * 5):
        calibration = rectification.read(info("whatever", d=d))
        assert calibration.lens is None and calibration.camera == RAW


def test_rectified_images_have_the_camera_of_p() -> None:
    message = info("plumb_bob")
    message.p = [150.0, 0.0, 158.0, 0.0, 0.0, 151.0, 121.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    calibration = rectification.read(message, rectified=True)
    assert calibration.lens is None and calibration.camera == Intrinsics(150.0, 151.0, 158.0, 121.0, 320, 240)
    message.p = [0.0] * 12
    assert rectification.read(message, rectified=True).camera == RAW


# Over the intake


class Desk:
    """An intake that is shown pictures, with what it says."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.intake = Intake(Settings(), admit, Reports(self.lines.append, period=0.0))
        self._count = 0

    def show(self, message: CameraInfo, rgb: np.ndarray) -> list[Candidate]:
        self._count += 1
        stamp = header(self._count * 10**9, "camera")
        message.header = stamp
        self.intake.add_camera_info(message)
        self.intake.add_pose(stamp.stamp, "map", conversions.matrix_to_pose(pose_at(float(self._count))))
        self.intake.add_image(conversions.rgb_to_image(rgb, stamp), 0.0)
        return self.intake.poll(0.0)


@pytest.mark.slow
def test_candidates_come_rectified_and_each_lens_is_worked_out_once() -> None:
    desk, lenses = Desk(), set()
    for model in [*LENSES, *LENSES]:
        (candidate,) = desk.show(info(model), raw_picture(model, RAW))
        assert_same_picture(candidate.picture(), pinhole_picture(candidate.camera))
        assert desk.intake.camera == candidate.camera
        lenses.add(id(candidate.lens))
    assert len(lenses) == len(LENSES) and desk.lines == []


def test_lens_and_size_may_change_while_images_arrive() -> None:
    desk = Desk()
    desk.show(info("plumb_bob"), raw_picture("plumb_bob", RAW))
    half = RAW.stretched(160, 120)
    (candidate,) = desk.show(info("plumb_bob", half), raw_picture("plumb_bob", half, scale=105.0))
    assert candidate.picture().shape == (120, 160, 3)
    assert_same_picture(candidate.picture(), pinhole_picture(candidate.camera, scale=105.0))
    (candidate,) = desk.show(info("plumb_bob", half, d=[]), raw_picture("plumb_bob", half))
    assert candidate.lens is None and candidate.camera == half
    # An image of the old size after that is refused, and says why.
    (candidate,) = desk.show(info("plumb_bob"), np.zeros((120, 160, 3), np.uint8))
    with pytest.raises(ConversionError, match="image is 160x120 but its camera is calibrated for 320x240"):
        candidate.picture()


# Over DDS


def test_the_node_renders_the_same_from_raw_and_from_rectified_images(
    start_node: Callable[..., NodeProcess], peer: Peer
) -> None:
    node = start_node(log_period=0.0, status_period=0.1)
    node.wait_for("active")
    wait_until(peer.connected, "the node and its peer to find each other")
    lens = rectification.read(info("plumb_bob")).lens
    assert lens is not None

    def show(message: CameraInfo, rgb: np.ndarray, x: float) -> None:
        stamp = peer.next_stamp()
        message.header = header(stamp, "camera")
        peer.info.publish(message)
        peer.send_image(stamp, rgb)
        peer.fresh_status()  # topics keep no order among each other: the pose sets the image free
        peer.send_pose(stamp, pose_at(x))

    def keyframes(count: int) -> None:
        peer.wait_for_status(lambda s: s.keyframes_inserted == count, f"{count} keyframes inserted")

    pictures = []
    target = conversions.camera_info(CAMERA, header(0, ""))
    raw = raw_picture("plumb_bob", RAW)
    shown = {
        "raw": (info("plumb_bob"), raw),
        "rectified": (info("plumb_bob", lens.camera, d=[]), lens.rectify(raw)),
        "raw, but said to be rectified": (info("plumb_bob", d=[]), raw),
    }
    for count, (message, rgb) in enumerate(shown.values(), 1):
        assert peer.call(Trigger, "/elvsm/reset", Trigger.Request()).success
        show(message, rgb, 1.0)
        keyframes(count)
        answer = peer.render([pose_at(1.1)], camera_info=target)
        assert answer.success, answer.message
        pictures.append(pixels(answer.images[0]).astype(int))
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert np.abs(pictures[0] - pictures[2]).max() > 5
    show(info("kannala_brandt8", d=[0.1] * 4), raw, 50.0)
    node.wait_for("distortion model 'kannala_brandt8'")
    show(info("plumb_bob"), raw, 60.0)
    keyframes(4)
    assert not any("Traceback" in line for line in node.lines)


def test_a_topic_of_rectified_images_is_noticed(start_node: Callable[..., NodeProcess]) -> None:
    remap = ("-r", "/image:=/camera/image_rect")
    node = start_node(*remap)
    assert "set images_rectified if it is one" in node.wait_for("/camera/image_rect looks like")
    node = start_node(*remap, images_rectified=True)
    node.wait_for("active: watching /camera/image_rect")
    assert not any("looks like" in line for line in node.lines)
