"""What the viewer is made of, without a browser and without ROS traffic."""

from __future__ import annotations

import html
import math
import re
import socket
from pathlib import Path
from types import SimpleNamespace

import msgspec.msgpack
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs the ROS packages: run make")

pytest.importorskip("viser", reason="needs the extra [viewer]: run make")

from elvsm.msg import Status
from elvsm_ros.conversions import ConversionError, Intrinsics
from elvsm_ros.viewer import geometry, guard, status_text
from elvsm_ros.viewer.film import Take
from elvsm_ros.viewer.options import ViewerOptions, parse
from elvsm_ros.viewer.pacer import Pacer


def turned(yaw: float, x: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]]
    T[0, 3] = x
    return T


def test_the_newest_is_sent_and_one_at_a_time() -> None:
    sent: list[int] = []
    pacer = Pacer(sent.append)
    for item in range(5):
        pacer.offer(item)
    assert sent == [0] and pacer.busy and pacer.overtaken == 3
    pacer.done()
    assert sent == [0, 4]
    pacer.done()
    assert sent == [0, 4] and not pacer.busy
    pacer.offer(5)
    assert sent == [0, 4, 5]


def test_a_request_that_ends_at_once_is_followed_by_the_next() -> None:
    sent: list[int] = []

    def send(item: int) -> None:
        sent.append(item)
        pacer.done()

    pacer = Pacer(send)
    pacer.offer(1)
    pacer.offer(2)
    assert sent == [1, 2] and not pacer.busy


def test_a_request_that_fails_does_not_block_the_next() -> None:
    def send(item: int) -> None:
        raise RuntimeError(item)

    pacer = Pacer(send)
    for item in (1, 2):
        with pytest.raises(RuntimeError, match=str(item)):
            pacer.offer(item)
    assert not pacer.busy


def test_quaternions_keep_their_order() -> None:
    T = turned(0.7, 2.0) @ np.array([[1, 0, 0, 0], [0, 0.8, -0.6, 0], [0, 0.6, 0.8, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(geometry.matrix_of(np.array(geometry.wxyz_of(T)), T[:3, 3]), T, atol=1e-12)
    # A quarter about x, written down: w first.
    quarter = geometry.matrix_of(np.array([math.sqrt(0.5), math.sqrt(0.5), 0, 0]), np.zeros(3))
    np.testing.assert_allclose(quarter[:3, 2], [0, -1, 0], atol=1e-12)
    with pytest.raises(ConversionError):
        geometry.matrix_of(np.zeros(4), np.zeros(3))


def test_the_camera_covers_the_page() -> None:
    fov, aspect = math.radians(60), 1.37
    camera = geometry.camera_of(fov, aspect, 101)
    assert (camera.width % 2, camera.height % 2) == (0, 0) and abs(camera.height - 101) <= 1
    # The rays through the picture's corners are those through the page's corners.
    assert camera.height / 2 / camera.fy == pytest.approx(math.tan(fov / 2))
    assert camera.width / 2 / camera.fx == pytest.approx(math.tan(fov / 2) * aspect)
    assert geometry.vertical_fov(camera) == pytest.approx(fov)
    assert camera.fx == pytest.approx(camera.fy, rel=0.02)


def test_up_is_what_the_cameras_hold_upright() -> None:
    optical = np.array(
        [[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]]
    )  # REP 103: map to optical
    assert geometry.up_direction([optical]) == (0, 0, 1)
    assert geometry.up_direction([turned(0.3), turned(2.0)]) == (0, -1, 0)
    assert geometry.up_direction([turned(0.3)], "+x") == (1, 0, 0)
    assert geometry.up_direction(np.zeros((0, 4, 4))) == (0, 0, 1)


def test_a_take_is_resampled_at_an_even_rate() -> None:
    take = Take()
    take.add(turned(0.0, 0.0), 10.0)
    take.add(turned(1.0, 1.0), 11.0)
    take.add(turned(9.0, 9.0), 10.5)  # out of order
    take.add(turned(1.0, 3.0), 11.5)
    poses = take.poses(4)
    assert [T[0, 3] for T in poses] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 2, 3])
    np.testing.assert_allclose(poses[2], turned(0.5, 0.5), atol=1e-9)
    assert Take().poses(4) == []


def test_at_most_so_many_keyframes_are_drawn_and_the_newest_is() -> None:
    assert list(geometry.drawn(0, 3)) == []
    assert list(geometry.drawn(3, 3)) == [0, 1, 2]
    for count in range(4, 30):
        chosen = list(geometry.drawn(count, 3))
        assert len(chosen) <= 3 and chosen[-1] == count - 1


def test_the_page_says_what_is_the_matter() -> None:
    assert "/cam does not answer" in status_text.state("/cam", False, None)
    status = Status(model="demo", device="cpu", paused=True, keyframes=7, insert_ms_p50=math.nan)
    assert "paused" in status_text.state("/cam", True, status)
    text = status_text.numbers(
        (120.0, 100.0, 0.5, 3), 4.0, "no keyframe yet", status, "waiting for images", [("memory", "3 MiB")]
    )
    for part in (
        ">memory</td>",
        ">3 MiB</td>",
        "120 ms",
        "50 %",
        ">7, ",
        "<b>No new picture:</b> no keyframe yet",
        "waiting for images",
    ):
        assert part in text
    assert "nan" not in text


def test_options_and_ros_arguments_are_told_apart() -> None:
    options = parse(["--port", "9000", "--node", "robot/elvsm", "--ros-args", "-r", "camera_info:=/c"])
    assert (options.port, options.node, options.host) == (9000, "/robot/elvsm", "127.0.0.1")
    assert options.ros == ("--ros-args", "-r", "camera_info:=/c")
    assert parse([]) == ViewerOptions()


@pytest.mark.parametrize("bad", [["--port", "0"], ["--up", "north"], ["--max-frusta", "0"], ["--prot", "1"]])
def test_a_wrong_command_line_ends_with_status_2(bad: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(bad)
    assert ended.value.code == 2


def test_the_drawn_camera_is_stretched_to_its_small_picture() -> None:
    camera = Intrinsics(70.0, 70.0, 48.0, 32.0, 96, 64).stretched(144, 96)
    assert geometry.vertical_fov(camera) == pytest.approx(2 * math.atan(32 / 70))


HOSTILE = (
    "<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "</td></table><iframe srcdoc='<b>'>",
    "[x](javascript:alert(1))",
    "| a | b |\n| --- | --- |", "{alert(1)}", "**bold** `code` &lt;", "\x1b[31mred\x00\u202e", "x" * 100_000,
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_from_outside_is_markup_on_the_page(text: str) -> None:
    status = Status(model=text, device=text, paused=True, keyframes=7, insert_ms_p50=math.nan)
    pages = (
        status_text.state(text, False, None),
        status_text.state(text, True, None),
        status_text.state(text, True, status),
        status_text.numbers(None, 0.0, text, status, text + " news", [(text, text)]),
    )
    for page in pages:
        tags = set(re.findall(r"<[^>]*>", page))
        assert all(re.fullmatch(r"</?(p|b|table|tbody|tr|td)( style=\"[^\"<>]*\")?>", tag) for tag in tags), (
            tags
        )
        assert html.unescape(re.sub(r"<[^>]*>", "", page)).isprintable() and len(page) < 6000


@pytest.mark.parametrize(
    ("host", "allowed", "called", "origin", "good"),
    [
        ("127.0.0.1", (), "127.0.0.1:8080", None, True),
        ("127.0.0.1", (), "localhost:9000", "http://localhost:9000", True),  # ssh -L 9000:localhost:8080
        ("127.0.0.1", (), "[::1]:8080", "http://localhost:8080", True),
        ("127.0.0.1", (), "127.0.0.1:8080", "https://evil.example", False),
        ("127.0.0.1", (), "127.0.0.1:8080", "http://localhost:3000", False),  # another program's page
        ("127.0.0.1", (), "127.0.0.1:8080", "null", False),
        ("127.0.0.1", (), "127.0.0.1:8080", "http://localhost.evil.example:8080", False),
        ("127.0.0.1", (), "127.0.0.1:8080", "http://user@127.0.0.1:8080@evil.example:8080", False),
        ("127.0.0.1", (), "127.0.0.1:8080", "http://[", False),
        ("127.0.0.1", (), "127.0.0.1:8080", "", False),
        (
            "127.0.0.1",
            (),
            "evil.example:8080",
            "http://evil.example:8080",
            False,
        ),  # its name server says 127.0.0.1
        ("127.0.0.1", (), "evil.example:8080", None, False),
        ("127.0.0.1", (), "", None, False),
        ("127.0.0.1", (), "192.168.1.5:8080", "http://192.168.1.5:8080", False),
        ("0.0.0.0", (), "192.168.1.5:8080", "http://192.168.1.5:8080", True),
        ("0.0.0.0", (), f"{socket.gethostname()}:8080", f"http://{socket.gethostname()}:8080", True),
        ("0.0.0.0", (), "evil.example:8080", "http://evil.example:8080", False),
        ("0.0.0.0", ("http://robot:8080",), "robot:8080", "http://robot:8080", True),
        ("127.0.0.1", ("https://robot.example",), "robot.example", "https://robot.example", True),  # a proxy
        ("127.0.0.1", ("https://robot.example",), "127.0.0.1:8080", "https://robot.example", True),
        ("127.0.0.1", ("https://robot.example",), "127.0.0.1:8080", "http://robot.example", False),
    ],
)
def test_who_may_connect(
    host: str, allowed: tuple[str, ...], called: str, origin: str | None, good: bool
) -> None:
    headers = {"Host": called} | ({} if origin is None else {"Origin": origin})
    assert (guard.Policy(host, allowed).refusal(headers) == "") is good


def test_what_a_page_may_say() -> None:
    """Values of controls that are there, of their types and ranges; cameras of numbers; nothing else."""
    controls = {
        "slider": SimpleNamespace(value=3, min=0, max=32), "box": SimpleNamespace(value=True),
        "text": SimpleNamespace(value="scene"), "list": SimpleNamespace(value=(1, 2)),
    }  # fmt: skip
    camera = {name: [0.0] * n if n else 1 for name, n in guard.CAMERA.items()}

    def accepted(**message: object) -> bool:
        return guard.accepts(msgspec.msgpack.encode(message), controls.get)

    def update(uuid: object, **updates: object) -> bool:
        return accepted(type="GuiUpdateMessage", uuid=uuid, updates=updates)

    for uuid, value in (("slider", 5), ("slider", 2.5), ("box", False), ("text", "kitchen"), ("text", "")):
        assert update(uuid, value=value)
    for uuid, value in (
        ("slider", 33), ("slider", -1), ("slider", "5"), ("slider", True), ("slider", math.nan), ("slider", [5]),
        ("slider", None), ("slider", {}), ("box", 1), ("box", "x"), ("text", 5), ("text", "x" * 256), ("list", [1, 2]),
        ("none", 5), (5, 5),
    ):  # fmt: skip
        assert not update(uuid, value=value)
    for name in ("sync_cb", "update_cb", "removed", "props", "min", "__class__"):
        assert not update("slider", **{name: "x"}) and not update("slider", value=5, **{name: "x"})
    assert accepted(type="ViewerCameraMessage", **camera)
    for change in (
        {"fov": "x"},
        {"position": [0, 0]},
        {"wxyz": [math.nan] * 4},
        {"near": 1e300},
        {"more": 1},
    ):
        assert not accepted(type="ViewerCameraMessage", **camera | change)
    for kind in ("ShareUrlRequest", "FileTransferStartUpload", "SceneNodeUpdateMessage", "Nothing", 5, None):
        assert not accepted(type=kind)
    for raw in (b"", b"\xc1", b"\x91" * 60_000, msgspec.msgpack.encode([1]), msgspec.msgpack.encode("x")):
        assert not guard.accepts(raw, controls.get)


def test_the_pages_own_scripts_are_the_only_ones_that_may_run() -> None:
    import viser

    page = Path(viser.__file__).parent / "client" / "build" / "index.html"
    policy = guard.content_security_policy(page)
    (scripts,) = re.findall(r"script-src ([^;]*);", policy)
    assert re.fullmatch(r"'sha256-\S+' 'sha256-\S+' 'unsafe-eval'", scripts)
    assert "frame-src 'none'" in policy and "default-src 'none'" in policy


def test_an_origin_must_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["--allow-origin", "http://a:80", "--allow-origin", "https://b"]).allow_origin == (
        "http://a:80",
        "https://b",
    )
    for wrong in ("robot", "robot:8080", "ftp://x", "http://x/path", "http://x:99999", "http://"):
        with pytest.raises(SystemExit):
            parse(["--allow-origin", wrong])
        assert "http://robot:8080" in capsys.readouterr().err
