"""SceneClient: ask a running node for views, steer it, correct its keyframes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from elvsm.action import RenderTrajectory
from elvsm.msg import PoseUpdates, Status
from elvsm.srv import LoadScene, RenderViews, SaveScene
from elvsm_ros import conversions
from elvsm_ros.client.connection import Connection
from elvsm_ros.client.results import (
    CallTimeout,
    KeyframeList,
    NodeUnavailable,
    PinholeCamera,
    RenderedViews,
    RequestRejected,
    camera_message,
    confidences,
    depths,
    pictures,
    pose_message,
)
from elvsm_ros.client.trajectory import Trajectory
from elvsm_ros.conversions import RGB

FILES = 120.0
"""Seconds that saving and loading may take, at least."""
FOLLOW_UP = 2.0
"""Seconds that keyframes() may lag behind a reset or a load."""
DETAIL = {
    None: RenderViews.Request.DETAIL_DEFAULT,
    True: RenderViews.Request.DETAIL_ON,
    False: RenderViews.Request.DETAIL_OFF,
}


class SceneClient:
    """Talk to a running node of elvsm; a context manager, or end it with close().

    name: the node's name; a relative one is in the namespace of `node`. node: the program's own rclpy node, whose
    context is used; without one nothing of rclpy needs to be set up. timeout: default of all calls, seconds, the wait
    for the node included. node_name: of the ROS node that the client makes for itself. ros_arguments: for rclpy, such
    as remappings; without `node` only. check: called every 0.1 s while a call waits; what it raises ends the call.

    All calls wait for their answer; several threads may call. A call may come from any callback of `node`, with any
    executor: the client has a thread of its own. Every call raises SceneClientError when it fails: NodeUnavailable,
    CallTimeout or RequestRejected. Poses are 4x4 matrices T_world_cam, camera (optical axes: x right, y down, z
    forward) to world in metres, or geometry_msgs Pose messages.
    """

    def __init__(
        self,
        name: str = "/elvsm",
        *,
        node: Node | None = None,
        timeout: float = 30.0,
        node_name: str = "",
        ros_arguments: Sequence[str] = (),
        check: Callable[[], None] = lambda: None,
    ):
        namespace = node.get_namespace().rstrip("/") if node else ""
        node_name = node_name or (f"{node.get_name()}_elvsm_client" if node else "elvsm_client")
        self.name = name if name.startswith("/") else f"{namespace}/{name}"
        self.timeout = timeout
        self.check = check
        self._connection = Connection(self.name, node, node_name, ros_arguments)
        self._pose_updates: Any = None

    def __enter__(self) -> SceneClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the ROS network. Calls that wait in other threads fail."""
        self._connection.close()

    # What is known of the node, without waiting

    @property
    def node(self) -> Node:
        """The client's own ROS node, for more subscriptions; its callbacks must not call the client."""
        return self._connection.node

    @property
    def connected(self) -> bool:
        """Whether the node is there and configured."""
        return self._connection.connected

    @property
    def last_status(self) -> Status | None:
        """The newest elvsm/msg/Status; None before the first, and while the node is away."""
        return self._connection.status

    @property
    def last_keyframes(self) -> KeyframeList:
        """The keyframes as last published; the object is replaced, never changed."""
        return self._connection.keyframes

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have a function called, on the client's thread, after status, keyframes or connection changed."""
        self._connection.listeners.append(callback)

    # Waiting

    def wait_until(self, condition: Callable[[], Any], timeout: float | None = None) -> bool:
        """Wait until a function returns true, and return whether it did in time. It is called after each change."""
        return self._connection.wait(condition, self._end(timeout), self.check)

    def wait_until_ready(self, timeout: float | None = None, keyframes: int = 0) -> None:
        """Wait until the node has loaded its model and has at least so many keyframes.

        Raises NodeUnavailable, with what is missing, when that is not so in time.
        """
        end = self._end(timeout)
        if not self._connection.wait(self._ready, end, self.check):
            raise NodeUnavailable(self._connection.why_unavailable())
        if not self._connection.wait(lambda: len(self.last_keyframes) >= keyframes, end, self.check):
            raise NodeUnavailable(
                f"{self.name} has {len(self.last_keyframes)} keyframes: {self._why_no_keyframe()}"
            )

    def _ready(self) -> bool:
        status = self._connection.status
        return self.connected and status is not None and bool(status.model)

    def _why_no_keyframe(self) -> str:
        status = self.last_status or Status()
        if status.paused:
            return "it is paused; call resume()"
        if not self.node.count_subscribers(f"{self.name}/render_pose"):
            return f"it is not active; ros2 lifecycle set {self.name} activate"
        if not status.images_received:
            return "no image has arrived; its log names the topics that are silent"
        return status.last_error or "the camera has not moved far enough (keyframe_distance, keyframe_angle)"

    # What the node has

    def status(self, timeout: float | None = None) -> Status:
        """Return the newest elvsm/msg/Status: model, device, counters, latencies, last error."""
        self.wait_until_ready(timeout)
        return self.last_status or Status()

    def keyframes(self, timeout: float | None = None) -> KeyframeList:
        """Return ids, stamps and poses of the keyframes, as last published."""
        status = self.status(timeout)
        if status.keyframes:  # the list comes on another topic
            self.wait_until(lambda: len(self.last_keyframes), FOLLOW_UP)
        return self.last_keyframes

    # Rendering

    def render(self, pose: Any, camera: PinholeCamera | CameraInfo | None = None, **options: Any) -> RGB:
        """Return what a camera at a pose would see: uint8 RGB [H, W, 3]. Arguments are those of `render_views`."""
        return self.render_views([pose], camera, **options).images[0]

    def render_views(
        self,
        poses: Sequence[Any] | ArrayLike,
        camera: PinholeCamera | CameraInfo | None = None,
        *,
        max_views: int | None = None,
        size: tuple[int, int] | None = None,
        encoding: str = "rgb8",
        frame: str = "",
        detail: bool | None = None,
        depth: bool = False,
        timeout: float | None = None,
    ) -> RenderedViews:
        """Render the scene from several poses in one request.

        camera: anything with fx, fy, cx, cy, width and height in pixels, or a CameraInfo; None: the camera that the
        node watches, at the model's own size. max_views: keyframes to use at most; None: the node's parameter. size:
        (height, width) of the images, pixels; another aspect than the camera's is reached by a centre crop. encoding:
        "rgb8", "jpeg" or "png", on the way from the node. frame: that the poses are given in; "": the world frame.
        detail: whether to show the keyframes' own pixels where their geometry agrees; None: the node's parameter.
        depth: return depth and confidence of every pixel, too; implies detail.
        """
        end, start = self._end(timeout), time.perf_counter()
        fields = _fields(poses, camera, max_views, size, encoding, frame, detail)
        fields["depth"] = depth
        answer = self._call("render_views", RenderViews.Request(**fields), end)
        images = pictures(answer)
        if len(images) != len(fields["poses"]):
            raise RequestRejected(f"{self.name} sent {len(images)} images for {len(fields['poses'])} poses")
        return RenderedViews(
            images,
            list(answer.support),
            answer.views_used,
            answer.latency_ms,
            1e3 * (time.perf_counter() - start),
            depths(answer),
            confidences(answer),
        )

    def render_trajectory(
        self,
        poses: Sequence[Any] | ArrayLike,
        camera: PinholeCamera | CameraInfo | None = None,
        *,
        feedback: Callable[[int, int], None] = lambda done, total: None,
        **options: Any,
    ) -> list[RGB]:
        """Render along many poses and return the images, uint8 RGB [H, W, 3] each.

        feedback: called on this thread after each image with the images that are done, and all. The other arguments are
        those of `render_views`; timeout: seconds without a new image.
        """
        images = []
        for image in self.stream_trajectory(poses, camera, **options):
            images.append(image)
            feedback(len(images), len(poses))
        return images

    def stream_trajectory(
        self,
        poses: Sequence[Any] | ArrayLike,
        camera: PinholeCamera | CameraInfo | None = None,
        *,
        max_views: int | None = None,
        size: tuple[int, int] | None = None,
        encoding: str = "rgb8",
        frame: str = "",
        detail: bool | None = None,
        timeout: float | None = None,
    ) -> Iterator[RGB]:
        """Yield the images of a trajectory as they arrive, uint8 RGB [H, W, 3] each; closing it cancels the rest.

        Arguments are those of `render_views`; timeout: seconds without a new image.
        """
        patience = self.timeout if timeout is None else timeout
        goal = RenderTrajectory.Goal(**_fields(poses, camera, max_views, size, encoding, frame, detail))
        self.wait_until_ready(patience)
        yield from Trajectory(self._connection, goal, patience, self.check).images()

    # Steering

    def reset(self, timeout: float | None = None) -> None:
        """Forget all keyframes."""
        before = set(self.last_keyframes.ids)
        self._call("reset", Trigger.Request(), self._end(timeout))
        self.wait_until(lambda: not before & set(self.last_keyframes.ids), FOLLOW_UP)

    def pause(self, timeout: float | None = None) -> None:
        """Have arriving images counted, but not used."""
        self._call("pause", SetBool.Request(data=True), self._end(timeout))

    def resume(self, timeout: float | None = None) -> None:
        """End a pause."""
        self._call("pause", SetBool.Request(data=False), self._end(timeout))

    def save(self, name: str, timeout: float | None = None) -> str:
        """Write the scene to a file in the node's scene_directory, and return its path on the node's machine.

        name: letters, digits, ".", "_" and "-". A file of that name is replaced.
        """
        request = SaveScene.Request(name=name)
        return self._call("save_scene", request, self._end(timeout, FILES)).path

    def load(self, name: str, timeout: float | None = None) -> str:
        """Put a saved scene in the place of the present one, and return what the node says about it."""
        before = self.last_keyframes
        answer = self._call("load_scene", LoadScene.Request(name=name), self._end(timeout, FILES))
        self.wait_until(
            lambda: self.last_keyframes is not before and len(self.last_keyframes) == answer.keyframes,
            FOLLOW_UP,
        )
        return answer.message

    # Corrections

    def update_poses(
        self, poses: Mapping[int, Any], *, frame: str = "", timeout: float | None = None
    ) -> None:
        """Correct the poses of some keyframes, by their ids, after a loop closure.

        Returns when the node lists them at these poses. Raises RequestRejected for unknown ids and another world frame.
        """
        known = self.keyframes(timeout)
        unknown = sorted(set(poses) - set(known.ids))
        if unknown:
            raise RequestRejected(f"{self.name} has no keyframe {unknown[0]}: its ids are on keyframes()")
        wanted = {view: pose_message(pose) for view, pose in poses.items()}
        message = PoseUpdates(ids=list(wanted), poses=list(wanted.values()))
        self._correct(
            message, {view: conversions.pose_to_matrix(p) for view, p in wanted.items()}, frame, timeout
        )

    def move_map(self, T_new_old: Any, *, frame: str = "", timeout: float | None = None) -> None:
        """Move all keyframes rigidly. T_new_old: 4x4, points of the world as it was to the world as it is.

        Returns when the node lists them there. Raises as `update_poses` does.
        """
        known, pose = self.keyframes(timeout), pose_message(T_new_old)
        T = conversions.pose_to_matrix(pose)
        self._correct(
            PoseUpdates(poses=[pose]), dict(zip(known.ids, T @ known.poses, strict=True)), frame, timeout
        )

    def _correct(
        self, message: PoseUpdates, wanted: dict[int, np.ndarray], frame: str, timeout: float | None
    ) -> None:
        world, end = self.last_keyframes.frame_id, self._end(timeout)
        if frame.lstrip("/") not in ("", world):
            raise RequestRejected(
                f"corrections are given in frame {frame!r}, but the world frame of the keyframes is {world!r}: "
                f"transform them first"
            )
        message.header.frame_id = frame
        if self._pose_updates is None:
            self._pose_updates = self.node.create_publisher(PoseUpdates, f"{self.name}/pose_updates", 10)

        def there() -> bool:
            listed = self.last_keyframes
            now = {v: T for v, T in zip(listed.ids, listed.poses, strict=True) if v in wanted}
            return all(np.allclose(T, wanted[v], atol=1e-6) for v, T in now.items())

        if not self.wait_until(self._pose_updates.get_subscription_count, end - time.monotonic()):
            raise NodeUnavailable(f"{self.name} does not read ~/pose_updates: is it configured?")
        self._pose_updates.publish(message)
        if not self.wait_until(there, end - time.monotonic()):
            said = self.last_status.last_error if self.last_status else ""
            raise CallTimeout(
                f"{self.name} does not list the corrected poses; its last error: {said or 'none'}"
            )

    # Inside

    def _end(self, timeout: float | None, least: float = 0.0) -> float:
        return time.monotonic() + (max(self.timeout, least) if timeout is None else timeout)

    def _call(self, service: str, request: Any, end: float) -> Any:
        self.wait_until_ready(end - time.monotonic())
        connection = self._connection
        # They come together, but the graph learns of them one after the other.
        connection.wait(connection.services[service].service_is_ready, end, self.check)
        answer = connection.call(service, request, end, self.check)
        if not answer.success:
            raise RequestRejected(f"{self.name}/{service}: {answer.message}")
        return answer


def _fields(
    poses: Any, camera: Any, max_views: int | None, size: tuple[int, int] | None, encoding: str, frame: str,
    detail: bool | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the fields that a request and a goal share."""
    height, width = size or (0, 0)
    return {
        "header": Header(frame_id=frame),
        "poses": [pose_message(pose) for pose in poses],
        "camera_info": camera_message(camera),
        "width": width,
        "height": height,
        "max_views": max_views or 0,
        "encoding": encoding,
        "detail": DETAIL[detail],
    }
