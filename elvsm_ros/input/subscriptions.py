"""The topics that the node watches while it is active, and what to say when nothing comes from them."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from elvsm_ros.conversions import stamp_ns
from elvsm_ros.input.image_intake import Intake
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.parameters.table import Settings
from elvsm_ros.qos import POSE_QOS, SENSOR_QOS, overridable
from elvsm_ros.quoting import quoted


@dataclasses.dataclass
class WatchedTopic:
    """A subscription and what came over it. newest: stamp, ns; seen: seconds, steady; refused: by its QoS."""

    name: str
    what: str
    kind: type
    seen: float
    subscription: Any = None
    count: int = 0
    newest: int | None = None
    frame_id: str = ""
    refused: int = 0


class Subscriptions:
    """Subscribe to images, camera infos and poses, pass them to the intake, and notice silence.

    node: subscribes. advance: called after every image and pose. Lives from activate to deactivate (`close`).
    """

    def __init__(
        self, node: Any, settings: Settings, intake: Intake, advance: Callable[[], None], reports: Reports
    ):
        self._node, self._settings, self._intake = node, settings, intake
        self._advance, self._reports = advance, reports
        self._topics: list[WatchedTopic] = []
        self._silent: set[str] = set()  # topics that have been warned about
        try:
            self._subscribe_all()
        except BaseException:  # an override of the QoS that means nothing, say
            self.close()
            raise
        self.since = time.monotonic()  # one for all, so that one warning speaks of all of them
        for topic in self._topics:
            topic.seen = max(self.since, topic.seen)

    def _subscribe_all(self) -> None:
        settings = self._settings
        for camera in range(len(settings.image_topics)):
            self._subscribe_camera(camera)
        if settings.pose_source == "odom":
            self._subscribe(Odometry, "odom", "poses", self._on_odometry, POSE_QOS)
        elif settings.pose_source == "pose_with_covariance":
            self._subscribe(
                PoseWithCovarianceStamped, "pose", "poses", self._on_pose_with_covariance, POSE_QOS
            )
        elif settings.pose_source == "pose":
            self._subscribe(PoseStamped, "pose", "poses", self._on_pose, POSE_QOS)

    def _subscribe_camera(self, camera: int) -> None:
        settings = self._settings
        name, info = settings.image_topics[camera], settings.camera_info_topics[camera]
        of = f" of camera {camera + 1}" if len(settings.image_topics) > 1 else ""
        kind, topic = (
            (Image, name) if settings.image_transport == "raw" else (CompressedImage, name + "/compressed")
        )
        self._subscribe(kind, topic, "images" + of, functools.partial(self._on_image, camera), SENSOR_QOS)
        if "rect" in self.names[-1] and not settings.images_rectified:
            self._reports.add(
                "camera_info",
                f"{self.names[-1]} looks like a topic of rectified images: set images_rectified if it is one, or "
                f"the distortion that camera_info tells of is taken out a second time",
            )
        take = functools.partial(self._intake.add_camera_info, camera=camera)
        self._subscribe(CameraInfo, info, "camera_info" + of, take, SENSOR_QOS)

    @property
    def names(self) -> list[str]:
        """Names of the topics, remapped and in full."""
        return [topic.name for topic in self._topics]

    @property
    def topics(self) -> list[WatchedTopic]:
        """What came over each of the topics."""
        return self._topics

    def apply(self, settings: Settings) -> None:
        """Take over what may change at run time."""
        self._settings = settings

    def close(self) -> None:
        """End the subscriptions."""
        for topic in self._topics:
            self._node.destroy_subscription(topic.subscription)
        self._topics.clear()

    def check(self, now: float) -> None:
        """Warn, once for every silence, when a topic has been silent for silence_warning seconds."""
        limit = self._settings.silence_warning
        if not limit:
            return
        silent = {topic.name: topic for topic in self._topics if now - topic.seen > limit}
        if silent and not silent.keys() <= self._silent:
            self._reports.add("silence", self._explain(list(silent.values()), limit))
        self._silent = set(silent)

    def _subscribe(
        self, kind: type, name: str, what: str, callback: Callable[[Any], None], qos: QoSProfile
    ) -> None:
        topic = WatchedTopic(name, what, kind, time.monotonic())

        def receive(message: Any) -> None:
            topic.count += 1
            topic.seen = time.monotonic()
            topic.newest, topic.frame_id = stamp_ns(message.header.stamp), message.header.frame_id
            callback(message)

        def refused(event: Any) -> None:
            topic.refused = event.total_count

        make = self._node.create_subscription
        events = SubscriptionEventCallbacks(incompatible_qos=refused, use_default_callbacks=False)
        topic.subscription = make(
            msg_type=kind, topic=name, callback=receive, event_callbacks=events, **overridable(qos)
        )
        topic.name = topic.subscription.topic_name
        self._topics.append(topic)

    def _on_image(self, camera: int, message: Image | CompressedImage) -> None:
        self._intake.add_image(message, time.monotonic(), camera)
        self._advance()

    def _on_pose(self, message: PoseStamped) -> None:
        self._intake.add_pose(message.header.stamp, message.header.frame_id, message.pose)
        self._advance()

    def _on_pose_with_covariance(self, message: PoseWithCovarianceStamped) -> None:
        self._intake.add_pose(message.header.stamp, message.header.frame_id, message.pose.pose)
        self._advance()

    def _on_odometry(self, message: Odometry) -> None:
        self._intake.add_pose(
            message.header.stamp,
            message.header.frame_id,
            message.pose.pose,
            message.child_frame_id.lstrip("/"),
        )
        self._advance()

    # Words

    def _explain(self, silent: list[WatchedTopic], limit: float) -> str:
        what = ", ".join(topic.what for topic in silent)
        parts = [f"waiting for {what}: nothing arrived for {limit:g} s"]
        parts += [self._state_of(topic) for topic in self._topics]
        image = next((t for t in self._topics if t.kind in (Image, CompressedImage)), None)
        pose = next((t for t in self._topics if t.what == "poses"), None)
        if image and pose and image.newest is not None and pose.newest is not None:
            apart = (image.newest - pose.newest) / 1e9
            parts.append(
                f"the newest image is {abs(apart):.3f} s {'newer' if apart >= 0 else 'older'} than the newest "
                f"pose by their stamps"
            )
        return "; ".join(parts)

    def _state_of(self, topic: WatchedTopic) -> str:
        publishers = self._node.get_publishers_info_by_topic(topic.name)
        wanted = topic.kind.__module__.split(".")[0] + "/msg/" + topic.kind.__name__
        others = sorted({p.topic_type for p in publishers if p.topic_type != wanted})
        same = [p for p in publishers if p.topic_type == wanted]
        text = f"{topic.name}: {topic.count} messages"
        if topic.newest is not None:
            behind = (self._node.get_clock().now().nanoseconds - topic.newest) / 1e9
            text += (
                f", the newest with stamp {topic.newest / 1e9:.3f} ({abs(behind):.3f} s "
                f"{'behind' if behind >= 0 else 'ahead of'} this node's clock) and frame {quoted(topic.frame_id)}"
            )
        text += f", {len(same)} publishers"
        if others:
            text += f", and others publish {', '.join(others)} there while {wanted} is read"
            images = topic.kind in (Image, CompressedImage)
            text += " (image_transport chooses)" if images else " (pose_source chooses)"
        elif not same:
            text += " (is its source running, and the topic remapped?)"
        mismatches = [
            reason
            for compatibility, reason in (
                qos_check_compatible(p.qos_profile, topic.subscription.qos_profile) for p in same
            )
            if compatibility == QoSCompatibility.ERROR
        ]
        if mismatches or topic.refused:
            reason = (
                mismatches[0] if mismatches else f"{topic.refused} publishers do not offer what is asked for"
            )
            text += (
                f", QoS mismatch: {reason.strip()} (set qos_overrides.{topic.name}.subscription.reliability and "
                f".durability to what the publisher offers)"
            )
        return text
