"""Images, cameras and poses between messages and arrays, over whichever provider this installation has."""

from __future__ import annotations

import array
import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from geometry_msgs.msg import Pose
from PIL import Image as PillowImage
from rig import picture, pose_at
from scipy.spatial.transform import Rotation, Slerp
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from elvsm_core import limits
from elvsm_ros import conversions
from elvsm_ros.conversions import ConversionError, Intrinsics


def image(data: np.ndarray, encoding: str, width: int, height: int, step: int | None = None) -> Image:
    """Make an Image of bytes laid out by hand, not by the code under test."""
    raw = array.array("B", data.tobytes())
    step = step or len(raw) // height
    return Image(width=width, height=height, encoding=encoding, step=step, data=raw)


COLOURS = np.array([[[200, 30, 60], [10, 220, 90]], [[40, 50, 240], [128, 128, 128]]], dtype=np.uint8)
GREY = np.array([[0, 100], [200, 255]], dtype=np.uint8)
ALPHA = np.full((2, 2, 1), 77, dtype=np.uint8)


@pytest.mark.parametrize(
    ("encoding", "data", "expected"),
    [
        ("rgb8", COLOURS, COLOURS),
        ("bgr8", COLOURS[..., ::-1], COLOURS),
        ("rgba8", np.concatenate([COLOURS, ALPHA], -1), COLOURS),
        ("bgra8", np.concatenate([COLOURS[..., ::-1], ALPHA], -1), COLOURS),
        ("mono8", GREY, np.repeat(GREY[..., None], 3, -1)),
        ("mono16", GREY.astype("<u2") * 257, np.repeat(GREY[..., None], 3, -1)),
        ("rgb16", COLOURS.astype("<u2") * 257, COLOURS),
        ("bgr16", COLOURS[..., ::-1].astype("<u2") * 257, COLOURS),
    ],
)
def test_colours_arrive_where_they_belong(encoding: str, data: np.ndarray, expected: np.ndarray) -> None:
    rgb = conversions.image_to_rgb(image(np.ascontiguousarray(data), encoding, 2, 2))
    assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous
    np.testing.assert_allclose(rgb.astype(int), expected, atol=1)


@pytest.mark.parametrize(
    ("encoding", "tile"),
    [  # of the colour (200, 100, 50), as the sensor has it in every 2x2 tile
        ("bayer_rggb8", [[200, 100], [100, 50]]),
        ("bayer_bggr8", [[50, 100], [100, 200]]),
        ("bayer_gbrg8", [[100, 50], [200, 100]]),
        ("bayer_grbg8", [[100, 200], [50, 100]]),
    ],
)
@pytest.mark.parametrize("bits", [8, 16])
def test_bayer(encoding: str, tile: list[list[int]], bits: int) -> None:
    mosaic = np.tile(np.array(tile, dtype=np.uint8), (4, 4))
    data = mosaic if bits == 8 else mosaic.astype("<u2") * 257
    rgb = conversions.image_to_rgb(image(data, encoding.replace("8", str(bits)), 8, 8))
    np.testing.assert_allclose(rgb[2:-2, 2:-2].reshape(-1, 3), [[200, 100, 50]] * 16, atol=1)


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")],
)
def test_yuv422(encoding: str, order: str) -> None:
    # BT.601, video range: Y = 81, U = 90, V = 240 is pure red.
    values = {"y": 81, "u": 90, "v": 240}
    row = np.array([values[c] for c in order] * 2, dtype=np.uint8)
    rgb = conversions.image_to_rgb(image(np.tile(row, (2, 1)), encoding, 4, 2))
    np.testing.assert_allclose(rgb.reshape(-1, 3).astype(int), [[254, 0, 0]] * 8, atol=3)


def test_big_endian_16_bit() -> None:
    message = image(GREY.astype(">u2") * 257, "mono16", 2, 2)
    message.is_bigendian = 1
    np.testing.assert_allclose(conversions.image_to_rgb(message)[..., 0].astype(int), GREY, atol=1)


@pytest.mark.parametrize("trailing", [0, 5])
def test_row_padding_is_skipped(trailing: int) -> None:
    padded = np.full((2, 10), 99, dtype=np.uint8)
    padded[:, :6] = COLOURS.reshape(2, 6)
    message = image(padded, "rgb8", 2, 2, step=10)
    message.data.extend([1] * trailing)
    np.testing.assert_array_equal(conversions.image_to_rgb(message), COLOURS)


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "8UC3", "", "nonsense", "RGB8"])
def test_encodings_without_colours_are_refused(encoding: str) -> None:
    with pytest.raises(ConversionError, match=r"encoding.*publish one of mono8, rgb8"):
        conversions.image_to_rgb(image(np.zeros(64, np.uint8), encoding, 4, 4))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"height": 3}, "needs rows"),
        ({"width": 3}, "needs rows"),
        ({"step": 5}, "needs rows"),
        ({"width": 0}, "empty images"),
        ({"height": 0}, "empty images"),
        ({"encoding": "rgba8"}, "needs rows"),
    ],
)
def test_layouts_that_do_not_add_up_are_refused(change: dict, text: str) -> None:
    message = image(COLOURS, "rgb8", 2, 2)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ConversionError, match=text):
        conversions.image_to_rgb(message)


def test_yuv422_of_odd_width_is_refused() -> None:
    with pytest.raises(ConversionError, match="even width"):
        conversions.image_to_rgb(image(np.zeros(12, np.uint8), "yuv422", 3, 2))


def compressed(rgb: np.ndarray, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    PillowImage.fromarray(rgb).save(buffer, kind, **options)
    return buffer.getvalue()


def test_png_and_jpeg_are_decoded() -> None:
    rgb = picture(1)
    png = CompressedImage(format="rgb8; png compressed bgr8", data=compressed(rgb, "png"))
    np.testing.assert_array_equal(conversions.image_to_rgb(png), rgb)
    jpeg = CompressedImage(format="jpeg", data=compressed(rgb, "jpeg", quality=95))
    assert np.abs(conversions.image_to_rgb(jpeg).astype(int) - rgb).mean() < 2
    grey = CompressedImage(format="jpeg", data=compressed(rgb[..., 0], "jpeg", quality=95))
    assert conversions.image_to_rgb(grey).shape == rgb.shape


def test_damaged_files_are_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for kind in ("jpeg", "png"):
        data = compressed(noise, kind)
        middle = len(data) // 2
        damaged = {
            "half": data[:middle],
            "nearly whole": data[: -len(data) // 20],
            "overwritten": data[:middle] + b"\xff" * 2000 + data[middle + 2000 :],
            "header alone": data[:30],
        }
        for what, broken in damaged.items():
            with pytest.raises(ConversionError, match=r"truncated or corrupt|neither JPEG nor PNG"):
                conversions.image_to_rgb(CompressedImage(format=kind, data=broken))
                pytest.fail(f"{kind}, {what}")
    for nothing in (b"", b"not a picture", b"\x00" * 1000):
        with pytest.raises(ConversionError, match="neither JPEG nor PNG"):
            conversions.image_to_rgb(CompressedImage(format="jpeg", data=nothing))


BOMB = """
import io, resource, sys
from PIL import Image
from sensor_msgs.msg import CompressedImage
from elvsm_ros import conversions
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    conversions.image_to_rgb(CompressedImage(format="png", data=data))
except conversions.ConversionError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [(13000, 13000), (65535, 600), (30000, 30000)])
def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(
    size: tuple[int, int], tmp_path: Path
) -> None:
    """A PNG of a few kilobytes can hold gigabytes of pixels."""
    path = tmp_path / "bomb.png"
    PillowImage.new("1", size).save(path)
    run = subprocess.run(
        [sys.executable, "-c", BOMB, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    kilobytes, message = run.stdout.split(" ", 1)
    assert "at most are decoded" in message and str(limits.MAX_PIXELS) in message
    assert int(kilobytes) < 40_000


def test_depth_images_are_refused() -> None:
    with pytest.raises(ConversionError, match="depth"):
        conversions.image_to_rgb(CompressedImage(format="16UC1; compressedDepth png", data=b"1234"))
    png = compressed(np.full((4, 4), 3000, dtype=np.uint16), "png")
    with pytest.raises(ConversionError, match="16-bit grey"):
        conversions.image_to_rgb(CompressedImage(format="png", data=png))


def test_images_survive_the_way_out_and_back() -> None:
    rgb = picture(2)
    assert not rgb[:, ::-1].flags.c_contiguous
    for source in (rgb, rgb[:, ::-1]):
        back = conversions.image_to_rgb(conversions.rgb_to_image(source, Header(frame_id="x")))
        np.testing.assert_array_equal(back, source)
        png = conversions.rgb_to_compressed(source, Header(), "png")
        assert png.format == "png"
        np.testing.assert_array_equal(conversions.image_to_rgb(png), source)
    sizes = [len(conversions.rgb_to_compressed(rgb, Header(), "jpeg", quality=q).data) for q in (20, 95)]
    assert sizes[0] < sizes[1]
    with pytest.raises(ConversionError, match="jpeg or png"):
        conversions.rgb_to_compressed(rgb, Header(), "webp")


def test_intrinsics_and_camera_info() -> None:
    camera = Intrinsics(352.4, 352.3, 191.6, 120.3, 384, 256)
    message = conversions.camera_info(camera, Header(frame_id="camera"))
    assert conversions.intrinsics(message) == camera
    assert not conversions.is_blank(message) and not conversions.is_distorted(message)
    assert conversions.is_blank(CameraInfo())
    message.d = [0.1, 0.0, 0.0, 0.0, 0.0]
    assert conversions.is_distorted(message)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"k": [0.0] * 9}, "not calibrated"),
        ({"k": [-1.0, 0, 1, 0, 1, 1, 0, 0, 1]}, "not calibrated"),
        ({"k": [1.0, 0, float("nan"), 0, 1, 1, 0, 0, 1]}, "NaN"),
        ({"k": [float("inf"), 0, 1, 0, 1, 1, 0, 0, 1]}, "infinite"),
        ({"k": [9.0, 1, 1, 0, 9, 1, 0, 0, 1]}, "skew"),
        ({"width": 0}, "set width and height"),
    ],
)
def test_bad_intrinsics_are_refused(change: dict, text: str) -> None:
    message = conversions.camera_info(Intrinsics(9, 9, 4, 4, 8, 8), Header())
    for name, value in change.items():
        setattr(message, name, [float(v) for v in value] if name == "k" else value)
    with pytest.raises(ConversionError, match=text):
        conversions.intrinsics(message)


@pytest.mark.parametrize("size", [(32, 32), (96, 64), (128, 16), (33, 47)])
def test_fitted_intrinsics_are_those_of_resize_and_crop(size: tuple[int, int]) -> None:
    import elvsm_core as ec

    width, height = size
    camera = Intrinsics(70.0, 71.0, 47.0, 33.0, 96, 64)
    whole = ec.Camera(*(getattr(camera, n) for n in ("fx", "fy", "cx", "cy", "width", "height")), np.eye(4))
    _, cut = ec.resize_and_crop(picture(0), whole, (height, width))
    fitted = camera.fitted(width, height)
    np.testing.assert_allclose([fitted.fx, fitted.fy, fitted.cx, fitted.cy], cut.fxfycxcy, rtol=1e-12)
    assert (fitted.width, fitted.height) == (cut.width, cut.height) == size


def test_poses_survive_the_way_out_and_back() -> None:
    for seed in range(20):
        T = np.eye(4)
        T[:3, :3] = Rotation.random(random_state=seed).as_matrix()
        T[:3, 3] = np.random.default_rng(seed).normal(size=3)
        pose = conversions.matrix_to_pose(T)
        assert pose.orientation.w >= 0
        np.testing.assert_allclose(conversions.pose_to_matrix(pose), T, atol=1e-12)
    np.testing.assert_allclose(conversions.pose_to_matrix(Pose()), np.eye(4))
    # A quarter turn about the vertical axis, by hand.
    pose = Pose()
    pose.orientation.y = pose.orientation.w = np.sqrt(0.5)
    np.testing.assert_allclose(conversions.pose_to_matrix(pose), pose_at(0, np.pi / 2), atol=1e-12)


def test_slightly_unnormalised_quaternions_are_normalised_and_others_refused() -> None:
    pose = Pose()
    pose.orientation.w = 1.005
    np.testing.assert_allclose(conversions.pose_to_matrix(pose), np.eye(4), atol=1e-12)
    for w in (0.0, 0.9, 1.02, 2.0):
        pose.orientation.w = w
        with pytest.raises(ConversionError, match="norm"):
            conversions.pose_to_matrix(pose)
    for field in ("position", "orientation"):
        pose = Pose()
        getattr(pose, field).x = float("nan")
        with pytest.raises(ConversionError, match="NaN"):
            conversions.pose_to_matrix(pose)


def test_slerp_takes_the_shorter_arc() -> None:
    a = np.array([0.0, 0.0, 0.0, 1.0])
    b = Rotation.from_euler("y", 80, degrees=True).as_quat()
    for end in (b, -b):
        between = Rotation.from_quat(conversions.slerp(a, end, 0.25))
        np.testing.assert_allclose(between.as_euler("xyz", degrees=True), [0, 20, 0], atol=1e-9)


def test_the_packages_of_a_ros_installation_are_used_where_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stand-ins with the signatures of cv_bridge and tf_transformations, because PyPI has neither."""
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    for package in ("cv_bridge", "tf_transformations"):
        (index / package).touch()

    class CvBridge:
        def imgmsg_to_cv2(self, message: Image, desired_encoding: str = "passthrough") -> np.ndarray:
            assert message.encoding == "bgr8" and desired_encoding == "rgb8"
            return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)[..., ::-1]

    def matrix(quaternion: np.ndarray) -> np.ndarray:
        T = np.eye(4)
        T[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
        return T

    def interpolate(a: np.ndarray, b: np.ndarray, fraction: float) -> np.ndarray:
        return Slerp([0, 1], Rotation.from_quat([a, b]))(fraction).as_quat()

    bridge, transformations = ModuleType("cv_bridge"), ModuleType("tf_transformations")
    bridge.CvBridge = CvBridge  # type: ignore[attr-defined]
    transformations.quaternion_matrix = matrix  # type: ignore[attr-defined]
    transformations.quaternion_from_matrix = (  # type: ignore[attr-defined]
        lambda T: -Rotation.from_matrix(T[:3, :3]).as_quat(canonical=True)
    )
    transformations.quaternion_slerp = interpolate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv_bridge", bridge)
    monkeypatch.setitem(sys.modules, "tf_transformations", transformations)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "elvsm_ros.providers.ros", raising=False)
    conversions.provider.cache_clear()
    try:
        assert conversions.provider().name == "cv_bridge and tf_transformations"
        test_poses_survive_the_way_out_and_back()
        test_slerp_takes_the_shorter_arc()
        bgr = np.ascontiguousarray(COLOURS[..., ::-1])
        np.testing.assert_array_equal(conversions.image_to_rgb(image(bgr, "bgr8", 2, 2)), COLOURS)
    finally:
        conversions.provider.cache_clear()
        sys.modules.pop("elvsm_ros.providers.ros", None)
