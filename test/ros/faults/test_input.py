"""Bad input: refused with one clear message; the scene is as it was, and the next good frame is taken."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import pytest
from bench import Bench
from geometry_msgs.msg import Pose, PoseStamped
from rig import CAMERA, header, picture, pose_at, wait_until

from elvsm_ros import conversions

pytestmark = pytest.mark.ros

NAN = float("nan")
ELSEWHERE = pose_at(5.0)


def image(**changes: object) -> Callable[[Bench], None]:
    """Return what sends a frame whose image message is changed."""

    def send(bench: Bench) -> None:
        stamp = bench.peer.next_stamp()
        bench.peer.send_info(stamp)
        bench.peer.send_pose(stamp, ELSEWHERE)
        message = conversions.rgb_to_image(picture(3), header(stamp, "camera"))
        for name, value in changes.items():
            setattr(message, name, value)
        bench.peer.image.publish(message)

    return send


def info(**changes: object) -> Callable[[Bench], None]:
    """Return what sends a frame whose camera_info is changed."""

    def send(bench: Bench) -> None:
        stamp = bench.peer.next_stamp()
        message = conversions.camera_info(CAMERA, header(stamp, "camera"))
        for name, value in changes.items():
            setattr(message, name, value)
        bench.peer.info.publish(message)
        bench.peer.send_pose(stamp, ELSEWHERE)
        bench.peer.send_image(stamp, picture(3))

    return send


def pose(x: float = 5.0, w: float = 1.0, frame: str = "map") -> Callable[[Bench], None]:
    """Return what sends a pose without an image."""

    def send(bench: Bench) -> None:
        message = Pose()
        message.position.x, message.orientation.w = x, w
        stamp = header(bench.peer.next_stamp(), frame)
        bench.peer.pose.publish(PoseStamped(header=stamp, pose=message))

    return send


def another_size(bench: Bench) -> None:
    stamp = bench.peer.next_stamp()
    bench.peer.send_info(stamp)
    bench.peer.send_pose(stamp, ELSEWHERE)
    bench.peer.send_image(stamp, picture(3, 48, 32))


def late_pose(bench: Bench) -> None:
    bench.peer.send_pose(bench.peer._stamp - 100_000_000, ELSEWHERE)


def old_pose(bench: Bench) -> None:
    bench.peer.send_pose(bench.peer._stamp - 4 * 10**9, ELSEWHERE)


def same_pose_twice(bench: Bench) -> None:
    bench.peer.send_pose(bench.peer._stamp, ELSEWHERE)


def image_without_a_pose(bench: Bench) -> None:
    stamp = bench.peer.next_stamp()
    bench.peer.send_info(stamp)
    bench.peer.send_image(stamp, picture(3))


def image_before_all_poses(bench: Bench) -> None:
    stamp = bench.peer._stamp - 900_000_000
    bench.peer.send_info(stamp)
    bench.peer.send_image(stamp, picture(3))


def image_in_a_gap(bench: Bench) -> None:
    first, stamp, last = (bench.peer.next_stamp(0.4) for _ in range(3))
    for at in (first, last):
        bench.peer.send_pose(at, ELSEWHERE)
    bench.peer.send_info(stamp)
    bench.peer.send_image(stamp, picture(3))


def far_away(bench: Bench) -> None:
    bench.send(picture(3), pose_at(1e30))


def k(fx: float = CAMERA.fx, cx: float = CAMERA.cx) -> list[float]:
    return [fx, 0.0, cx, 0.0, CAMERA.fy, CAMERA.cy, 0.0, 0.0, 1.0]


FAULTS: dict[str, tuple[Callable[[Bench], None], str]] = {
    "unknown encoding": (image(encoding="nonsense"), "encoding 'nonsense'"),
    "depth encoding": (image(encoding="16UC1"), "encoding '16UC1'"),
    "too little data": (image(step=4000), "step of 4000"),
    "no pixels": (image(width=0, height=0, step=0, data=b""), "empty images"),
    "another size than camera_info": (another_size, "image is 48x32 but its camera is calibrated for 96x64"),
    "zero intrinsics": (info(k=[0.0] * 9), "not calibrated"),
    "NaN intrinsics": (info(k=[NAN] * 9), "camera_info has NaN"),
    "a principal point that float32 does not hold": (info(k=k(cx=1e39)), "1e+39"),
    "a focal length that float32 does not hold": (info(k=k(fx=1e-40)), "1e-40"),
    "a place that float32 does not hold": (far_away, "1e+30"),
    "camera_info without a size": (info(width=0), "camera_info says 0x64"),
    "unknown distortion": (info(distortion_model="lens", d=[0.1] * 5), "distortion model 'lens'"),
    "NaN distortion": (info(d=[NAN] * 5), "coefficients"),
    "NaN position": (pose(x=NAN), "pose has NaN"),
    "NaN orientation": (pose(w=NAN), "pose has NaN"),
    "quaternion of norm 0.5": (pose(w=0.5), "norm 0.5"),
    "quaternion of zeros": (pose(w=0.0), "norm 0 instead"),
    "swapped frame": (pose(frame="odom"), "'odom' but the world frame is 'map'"),
    "late pose": (late_pose, "0.100 s older than the newest"),
    "old pose": (old_pose, "4.0 s older than the newest"),
    "pose twice": (same_pose_twice, "the stamp of the one before it"),
    "image without a pose": (image_without_a_pose, "waited 0.5 s (sync_timeout) for its pose"),
    "image from before all poses": (image_before_all_poses, "older than the oldest pose"),
    "image in a gap of poses": (image_in_a_gap, "two poses that are 0.800 s apart"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_named_and_changes_nothing(bench: Bench, fault: str) -> None:
    send, text = FAULTS[fault]
    send(bench)
    bench.says(text)
    assert bench.peer.status.last_error
    bench.unharmed()


def test_what_is_wrong_with_many_images_is_said_once_for_all(bench: Bench) -> None:
    """Ten images, each with a camera_info of zeros: one line and a count, with the usual log_period; here, one text."""
    for _ in range(10):
        info(k=[0.0] * 9)(bench)
    bench.peer.wait_for_status(lambda s: s.images_rejected >= 10, "ten images refused")
    bench.says("not calibrated")
    bench.unharmed()


def test_stamps_out_of_order_and_twice(bench: Bench) -> None:
    """Images that overtake each other all count, in the order of their stamps; one that comes twice counts once."""
    first, second, third = (bench.peer.next_stamp() for _ in range(3))
    frames = {
        first: (picture(11), pose_at(2.0)),
        second: (picture(12), pose_at(3.0)),
        third: (picture(13), pose_at(4.0)),
    }
    for stamp in (second, first, second, third):
        bench.peer.send_info(stamp)
        bench.peer.send_image(stamp, frames[stamp][0])
    bench.peer.fresh_status()
    for stamp in (first, second, third):  # poses come in order, and set all of them free at once
        bench.peer.send_pose(stamp, frames[stamp][1])
    for stamp in (first, second, third):
        bench.accept(*frames[stamp])
    bench.peer.wait_for_status(lambda s: s.keyframes == 5, f"five keyframes: {bench.node.output}")
    bench.quiet()
    bench.unharmed()


def test_poses_without_images(bench: Bench) -> None:
    for i in range(50):
        bench.peer.send_pose(bench.peer.next_stamp(0.02), pose_at(0.1 * i))
    bench.quiet()
    bench.unharmed()


def test_a_jump_of_the_pose_by_50_m(bench: Bench) -> None:
    """The robot was carried away, or lost track: a new place, far from the others, and no end of the old ones."""
    for x in (50.0, 50.5, 0.8):
        bench.send(picture(20), pose_at(x))
        bench.accept(picture(20), pose_at(x))
        bench.peer.wait_for_status(lambda s: s.keyframes == len(bench.mirror), "a keyframe there")
        bench.compare()  # renders here, and near the first keyframe
    bench.quiet()
    bench.unharmed()


def test_intrinsics_that_change_in_mid_stream(bench: Bench) -> None:
    zoomed = dataclasses.replace(CAMERA, fx=90.0, fy=91.0, cx=46.0)
    try:
        for camera, x in ((zoomed, 1.0), (CAMERA, 1.5), (zoomed, 2.0)):
            bench.send(picture(20), pose_at(x), camera)
            bench.accept(picture(20), pose_at(x), camera)
            bench.peer.wait_for_status(lambda s: s.keyframes == len(bench.mirror), "a keyframe")
            bench.camera = camera
            bench.compare()
    finally:
        bench.camera = CAMERA
    bench.good()
    bench.quiet()
    bench.unharmed()


def test_a_size_that_changes_in_mid_stream(bench: Bench) -> None:
    half = CAMERA.stretched(48, 32)
    bench.send(picture(20, 48, 32), pose_at(1.0), half)
    bench.accept(picture(20, 48, 32), pose_at(1.0), half)
    bench.peer.wait_for_status(lambda s: s.keyframes == 3, "a keyframe")
    bench.quiet()
    bench.unharmed()


def test_an_image_that_is_ahead_of_time(bench: Bench) -> None:
    """By an hour: it waits for its pose in vain, and is no reason to think that the clock was set back."""
    stamp = bench.peer._stamp + 3600 * 10**9
    bench.peer.send_info(stamp)
    bench.peer.send_image(stamp, picture(3))
    for _ in range(4):
        bench.good()
    bench.says("waited 0.5 s (sync_timeout)")
    bench.unharmed()


def test_a_pose_that_is_ahead_of_time(bench: Bench) -> None:
    """By an hour: it is left out, and those that follow are taken."""
    bench.peer.send_pose(bench.peer._stamp + 3600 * 10**9, ELSEWHERE)
    for _ in range(4):
        bench.good()
    bench.says("3600 s ahead of the next one and is left out")
    bench.unharmed()


def test_a_clock_that_is_set_back(bench: Bench) -> None:
    """A recording that starts again: one scene of the new run alone."""
    stamps = [bench.peer._stamp - (100 - i) * 10**9 // 5 for i in range(5)]
    bench.mirror.clear()
    for i, stamp in enumerate(stamps):
        bench.send(picture(30 + i), pose_at(0.5 * i, y=7.0), stamp=stamp)
        bench.accept(picture(30 + i), pose_at(0.5 * i, y=7.0))
    bench.peer.wait_for_status(lambda s: s.keyframes == 5, f"five keyframes: {bench.node.output}")
    bench.says("the scene is forgotten (on_time_jump: reset)")
    bench.peer._stamp = stamps[-1]
    bench.unharmed()


def test_more_images_than_can_be_taken(bench: Bench) -> None:
    """Two hundred at once: what is lost is counted, what is taken is right, and none is taken twice."""
    received, count = bench.peer.status.images_received, 200
    frames = {}
    for i in range(count):
        T = pose_at(1.0 + 0.3 * i)
        frames[round(T[0, 3], 6)] = picture(i)
        bench.send(picture(i), T)
    wait_until(lambda: bench.peer.fresh_status().queue_length == 0, "an empty queue")
    status = bench.peer.fresh_status()
    assert received < status.images_received <= received + count
    places = [round(pose.position.x, 6) for pose in bench.peer.keyframes[-1].poses][2:]
    assert places == sorted(set(places)) and len(places) > 3
    for x in places:
        bench.accept(frames[x], pose_at(x))
    bench.unharmed()


def test_silence(bench: Bench) -> None:
    """Nothing for some seconds: one warning that explains itself, and no other one until something has come."""

    def warnings() -> list[str]:
        return [line for line in list(bench.node.lines)[mark:] if "silence: " in line]

    bench.good()
    bench.peer.fresh_status()
    mark = len(bench.node.lines)
    wait_until(warnings, "a warning")
    time.sleep(1.0)
    (line,) = warnings()
    for text in (
        "waiting for images, camera_info, poses",
        "/image: ",
        " messages, the newest with stamp",
        "frame 'map'",
    ):
        assert text in line
    bench.unharmed()
