"""The lifecycle node `elvsm`: wiring between topics, services and the parts that do the work."""

from __future__ import annotations

from elvsm_ros import early_exit

if __name__ == "__main__":  # what follows takes a second
    early_exit.arm()

import functools
import gc
import math
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NoReturn

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from elvsm.msg import Keyframes, PoseUpdates, Status
from elvsm.srv import RenderViews
from elvsm_ros import bounded, conversions, standalone
from elvsm_ros.conversions import ConversionError
from elvsm_ros.input import tf_source
from elvsm_ros.input.image_intake import Intake
from elvsm_ros.input.subscriptions import Subscriptions
from elvsm_ros.keyframes import corrections
from elvsm_ros.keyframes.keyframe_queue import KeyframeFeed
from elvsm_ros.keyframes.keyframe_topics import KeyframeTopics
from elvsm_ros.keyframes.scene_files import SceneFiles, model_of
from elvsm_ros.monitoring import health
from elvsm_ros.monitoring.diagnostics import Diagnostics, Limits, Snapshot
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.parameters import table
from elvsm_ros.parameters.table import ParameterError, Settings
from elvsm_ros.qos import LATCHED_QOS, overridable
from elvsm_ros.rclpy_support import call_later, wait_for
from elvsm_ros.rendering.render_service import RenderDesk
from elvsm_ros.rendering.requests import Context
from elvsm_ros.rendering.services import Services
from elvsm_ros.rendering.trajectories import Trajectories
from elvsm_ros.worker import Worker

if TYPE_CHECKING:
    from elvsm_ros.device_scene import DeviceScene

TICK = 0.1
"""Seconds between looks at images that wait for a pose, and at whether ~/status has news."""
FAULT_PATIENCE = 5.0
"""Seconds to wait for a device that failed; its thread may never come back."""
Result = TransitionCallbackReturn


def _build_engine(settings: Settings) -> DeviceScene:
    # PyTorch takes seconds to import: here, on the worker's thread, so that the node can be stopped
    # meanwhile.
    from elvsm_ros.device_scene import DeviceScene

    engine = DeviceScene(settings)
    # What there is by now stays: looking through it for garbage would take 0.2 s, and hold up all threads.
    gc.collect()
    gc.freeze()
    return engine


class ElvsmNode(standalone.ClosingNode):
    """Watch a posed camera, keep keyframes, render what the scene looks like from other poses.

    configure loads the model and offers the services; activate subscribes; deactivate stops watching and goes
    on serving renders; cleanup forgets everything and frees the device.
    """

    def __init__(self) -> None:
        self._trajectories: Trajectories | None = None
        super().__init__("elvsm")
        self.settings = table.declare(self)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._worker: Worker[DeviceScene] | None = None
        self._parts: health.Parts | None = None
        self._fault = ""  # what took the device down, until the node is configured again
        self._entities: list[Callable[[], object]] = []  # how to destroy what configure made, and activate
        self._inputs: Subscriptions | None = None
        self._render_pose_sub: Any = None
        # These live as long as the node: one that is not configured tells so.
        self._lasting = Services(self, self._why_not_configured, self._on_unsent)
        pub = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._diagnostics = Diagnostics(pub.publish, lambda: self.get_clock().now().to_msg())
        self._trajectories = Trajectories(
            self, lambda: self._parts and self._parts.desk, lambda: self._reports, self._request_context,
            self._rendered_header, self._wait,
        )  # fmt: skip
        # Steady: a bag that is paused stops ROS time, not the timeouts.
        self.create_timer(TICK, self._on_tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> Result:
        try:
            self.settings = settings = table.read(self)
            self._fault = ""
            self._worker = Worker(
                lambda: _build_engine(settings), settings.insert_queue, settings.render_queue, "elvsm-device",
                idle=lambda engine: engine.tidy(),
            )  # fmt: skip
            while not self._worker.started.done():
                if not self.context.ok():
                    return Result.FAILURE
                time.sleep(0.02)
            self._worker.started.result()
            self._make_parts()
        except Exception as error:  # rclpy would swallow it
            foreseen = isinstance(error, ValueError | OSError | RuntimeError)
            self._fault = f"cannot configure: {'' if foreseen else type(error).__name__ + ': '}{error}"
            self.get_logger().error(self._fault)
            self.get_logger().debug("".join(traceback.format_exception(error)))
            self._tear_down()
            return Result.FAILURE
        self.get_logger().info(
            f"model {settings.model!r} on {self._device}, {self._native_size[1]}x{self._native_size[0]} "
            f"pixels, {self._parts.scene.capacity} views; conversions by {conversions.provider().name}"
        )
        return Result.SUCCESS

    def on_activate(self, state: LifecycleState) -> Result:
        try:
            self._inputs = Subscriptions(self, self.settings, self._intake, self._feed.advance, self._reports)
            self._render_pose_sub = self.create_subscription(
                PoseStamped, "~/render_pose", self._on_render_pose, **overridable(1)
            )
        except Exception as error:
            self._unsubscribe()
            self.get_logger().error(f"cannot activate: {error}")
            return Result.FAILURE
        watched = [*self._inputs.names, *(["/tf"] if self._tf else []), self._render_pose_sub.topic_name]
        self.get_logger().info("active: watching " + ", ".join(watched))
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> Result:
        self._unsubscribe()
        return Result.ERROR if self._fault else super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> Result:
        self._tear_down(FAULT_PATIENCE if self._fault else math.inf)
        return Result.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> Result:
        self._tear_down()
        return Result.SUCCESS

    def on_error(self, state: LifecycleState) -> Result:
        self._tear_down(FAULT_PATIENCE)
        return Result.SUCCESS

    def _on_fault(self, error: BaseException) -> None:
        """Give the device up when it is out of order: what is on it is lost, and nothing more will come from it."""
        if self._fault or self._worker is None or not health.is_device_fault(error):
            return
        self._fault = (
            f"the device failed, and the scene on it is lost ({str(error).splitlines()[0]}): configure the node "
            f"again, or restart it should that fail, too"
        )
        self.get_logger().error(self._fault)
        call_later(self, self._fall_back)  # after the answer to the request that found out

    def _fall_back(self) -> None:
        # Out of `active` by the way of error processing; cleanup ends in the same state.
        if self._state == "active":
            self.trigger_deactivate()
        elif self._state == "inactive":
            self.trigger_cleanup()

    @property
    def _state(self) -> str:
        return self._state_machine.current_state[1]

    def _make_parts(self) -> None:
        """Make everything that configured nodes have, except for what activate subscribes to."""
        from elvsm_core.keyframes import admit  # with PyTorch behind it, which the worker has imported by now

        worker = self._worker
        assert worker is not None
        self._native_size, self._patch_size, self._device, insert_ms, scene = worker.call(
            lambda engine: (
                engine.native_size,
                engine.patch_size,
                engine.device,
                engine.insert_ms,
                engine.scene,
            )
        ).result()
        later = functools.partial(call_later, self)
        self._reports = Reports(self._warn, self.settings.log_period, self.get_logger().debug)
        self._reports.on_fault = self._on_fault
        core = health.CoreWarnings(functools.partial(self._reports.add, health.DEVICE_KIND))
        self._entities.append(core.close)
        self._tf = tf_source.listen(self, self.settings)
        if self._tf is not None:
            self._entities.append(self._tf.close)
        self._intake = Intake(self.settings, admit, self._reports, self._tf)
        self._feed = KeyframeFeed(self._intake, worker, self._reports, later, self._on_keyframes)
        self._entities.append(self._feed.close)
        self._desk = RenderDesk(worker, self._request_context, self._reports, later)
        self._entities.append(self._desk.close)
        name = self.settings.model
        self._files = SceneFiles(
            worker, self._feed, self._intake, self._reports, lambda: self.settings,
            worker.call(lambda engine: model_of(engine, name)).result(),
        )  # fmt: skip
        self._entities.append(self._files.close)
        self._parts = health.Parts(
            worker, self._intake, self._feed, self._desk, self._reports, insert_ms, scene, self._device
        )
        self._news, self._status_at = True, 0.0

        def publisher(kind: type, topic: str, qos: QoSProfile | int) -> Any:
            made: Any = self.create_publisher(kind, topic, **overridable(qos))
            self._entities.append(lambda: self.destroy_publisher(made))
            return made

        self._status_pub = publisher(Status, "~/status", LATCHED_QOS)
        topics = {PoseArray: "~/keyframes", Keyframes: "~/keyframe_list", PointCloud2: "~/keyframe_cloud"}
        self._keyframe_topics = KeyframeTopics(
            self._feed,
            {kind: publisher(kind, topic, LATCHED_QOS) for kind, topic in topics.items()},
            self._world_header,
        )
        self._image_pub = publisher(Image, "~/rendered/image", 2)
        self._info_pub = publisher(CameraInfo, "~/rendered/camera_info", 2)
        self._depth_pub = publisher(Image, "~/rendered/depth", 2)
        self._confidence_pub = publisher(Image, "~/rendered/confidence", 2)
        # Here and not in activate: a map may be corrected while the node only serves renders.
        updates: Any = self.create_subscription(
            PoseUpdates, "~/pose_updates", self._on_pose_updates, **overridable(10)
        )
        self._entities.append(lambda: self.destroy_subscription(updates))
        ids = bounded.SEQUENCE
        bounded.bound_subscription(updates, lambda: corrections.MOST, bounded.HEADER + ids)
        self._entities.append(
            self._lasting.answer_by(
                self._on_render_views, reset=self._on_reset, pause=self._on_pause,
                save_scene=functools.partial(self._files.save, wait=self._wait),
                load_scene=functools.partial(self._files.load, wait=self._wait),
            )
        )  # fmt: skip

    def _unsubscribe(self) -> None:
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
        if self._render_pose_sub is not None:
            self.destroy_subscription(self._render_pose_sub)
            self._render_pose_sub = None

    def _tear_down(self, timeout: float = math.inf) -> None:
        """Give back what configure and activate made; wait for the device, `timeout` seconds at most."""
        self._unsubscribe()
        for destroy in self._entities:
            destroy()
        self._entities.clear()
        self._parts = None
        worker, self._worker = self._worker, None
        end = time.monotonic() + timeout
        # In small steps, so that a signal ends the node while the device finishes a long render.
        while worker is not None and not worker.stop(0.05) and time.monotonic() < end:
            if timeout == math.inf and not self.context.ok():
                break
        gc.unfreeze()  # what is given up now may be garbage

    def destroy_node(self) -> None:
        if self._trajectories is not None:  # there is none when the parameters are no good
            self._trajectories.close()
        super().destroy_node()
        # rclpy leaves the state machine's services, which keep the DDS participant: its shared memory, 64 MB and
        # more, would stay on the machine when the process ends.
        self._state_machine.destroy_when_not_in_use()

    def close(self, timeout: float) -> None:
        """Stop for good, within about `timeout` seconds even when the device is at work."""
        self._tear_down(timeout)

    # Topics

    def _on_render_pose(self, message: PoseStamped) -> None:
        wanted = self._depth_pub.get_subscription_count() or self._confidence_pub.get_subscription_count()
        self._desk.follow(
            message, self._rendered_header(message.header.stamp), self._publish_rendered, bool(wanted)
        )

    def _on_pose_updates(self, message: PoseUpdates) -> None:
        try:
            self._feed.correct(corrections.parse(message, self._intake.world_frame))
        except ConversionError as error:
            self._reports.add("pose_updates", str(error))

    # Services and parameters

    def _why_not_configured(self) -> str:
        name, state = self.get_fully_qualified_name(), self._state
        if state == "finalized":
            return f"{name} has been shut down: start the node again"
        why = f"; {self._fault}" if self._fault else ""
        return f"{name} is not configured (its state is {state}): ros2 lifecycle set {name} configure{why}"

    def _on_unsent(self, error: Exception) -> None:
        self._reports.fault("sending an answer failed", error)

    def _on_render_views(self, request: RenderViews.Request, response: RenderViews.Response) -> Any:
        return self._desk.answer(request, response, self._rendered_header(request.header.stamp))

    async def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Any:
        try:
            count = await self._feed.reset(self._wait)
        except Exception as error:
            response.message = self._reports.answer("reset", "resetting failed", error)
        else:
            response.success, response.message = True, f"{count} keyframes forgotten"
        return response

    async def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> Any:
        try:
            await self._feed.pause(request.data, self._wait)
        except Exception as error:
            response.message = self._reports.answer("pause", "pausing failed", error)
        else:
            response.success = True
            response.message = "paused: images are counted, not used" if request.data else "watching again"
            self._news = True
        return response

    def _on_parameters(self, changed: list[Any]) -> SetParametersResult:
        ours = {row.name for row in table.table()}
        values = {p.name: p.value for p in changed if p.name in ours}
        try:
            if self._worker is not None:
                table.refuse_frozen(list(values))
            self.settings = self.settings.replaced(values)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._apply(self.settings)
        return SetParametersResult(successful=True)

    def _apply(self, settings: Settings) -> None:
        """Tell the parts what has changed that they keep."""
        if self._parts is not None:
            self._intake.apply(settings)
            self._parts.worker.limit(settings.insert_queue, settings.render_queue)
            self._reports.period = settings.log_period
        if self._inputs is not None:
            self._inputs.apply(settings)

    async def _wait(self, future: Future) -> Any:
        return await wait_for(self, future)

    def _request_context(self) -> Context:
        return Context(
            self.settings, self._intake.world_frame, self._intake.camera, self._native_size, self._patch_size,
            self._intake.from_frame if self._tf else None,
        )  # fmt: skip

    # Output

    def _on_tick(self) -> None:
        now = time.monotonic()
        if self._parts is not None:
            self._feed.advance()
            if self._inputs is not None:
                self._inputs.check(now)
            self._keyframe_topics.flush(now)
            if self._news or now - self._status_at >= self.settings.status_period:
                self._news, self._status_at = False, now
                self._status_pub.publish(health.status(self._parts, self.settings, self._world_header()))
        limits = Limits(self.settings.silence_warning, self.settings.latency_warning)
        self._diagnostics.tick(now, self.settings.diagnostics_period, limits, self._snapshot)

    def _snapshot(self) -> Snapshot:
        return health.snapshot(
            self._parts, self._inputs, self.settings, self._state, self._fault, time.monotonic(),
            self.get_clock().now().nanoseconds,
        )  # fmt: skip

    def _on_keyframes(self) -> None:
        self._keyframe_topics.change()
        self._keyframe_topics.flush(time.monotonic())
        self._news = True

    def _publish_rendered(self, image: Image, camera: CameraInfo, layers: tuple[Image, Image] | None) -> None:
        self._image_pub.publish(image)
        self._info_pub.publish(camera)
        if layers is not None:
            self._depth_pub.publish(layers[0])
            self._confidence_pub.publish(layers[1])

    def _world_header(self) -> Header:
        return Header(stamp=self.get_clock().now().to_msg(), frame_id=self._intake.world_frame)

    def _rendered_header(self, stamp: Time) -> Header:
        if not (stamp.sec or stamp.nanosec):
            stamp = self.get_clock().now().to_msg()
        return Header(stamp=stamp, frame_id=self.settings.rendered_frame)

    def _warn(self, line: str) -> None:
        self._news = True
        self.get_logger().warning(line)


def main(args: list[str] | None = None) -> NoReturn:
    """Run the node as a process of its own, which ends with it."""
    standalone.run(ElvsmNode, args)


if __name__ == "__main__":
    main()
