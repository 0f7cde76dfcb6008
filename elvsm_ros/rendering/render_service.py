"""Requests for views, from the message to the answer."""

from __future__ import annotations

import array
import functools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from elvsm.srv import RenderViews
from elvsm_ros import conversions
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.monitoring.stats import Window
from elvsm_ros.rendering import requests
from elvsm_ros.rendering.render_task import RGB, Answer, RenderTask
from elvsm_ros.rendering.requests import Context, Query
from elvsm_ros.worker import BusyError, StoppedError, Worker

if TYPE_CHECKING:
    from elvsm_ros.device_scene import DeviceScene


FINISHERS = 3
"""Threads that resize and compress images: as many as wait for the device at most (pace.AHEAD), and one at work."""


class RenderDesk:
    """Take requests, have the worker render, put the answers together, count.

    context: gives what requests are understood against, now. later: has the executor's thread call a
    function, from any thread. Everything runs on the executor's thread, except for the jobs, and for what
    completes an answer to a service call: its thread sends it as well (`spinning.answer_by_future`).
    """

    def __init__(
        self,
        worker: Worker[DeviceScene],
        context: Callable[[], Context],
        reports: Reports,
        later: Callable[..., None],
    ):
        self._worker, self._context, self._reports, self._later = worker, context, reports, later
        self._pool = ThreadPoolExecutor(FINISHERS, "elvsm-answers")
        self.latency_ms = Window()
        self._lock = threading.Lock()
        self.renders = 0
        self.failures = 0

    def close(self) -> None:
        """Give up the answers that are not complete."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def render(self, query: Query, header: Header, latest: str | None = None) -> Future[Answer]:
        """Have a query rendered, and images or compressed images made of it, with the header.

        latest: replaces the one of that name that still waits. Raises BusyError or StoppedError.
        """
        quality = self._context().settings.jpeg_quality
        finish = functools.partial(_messages, query, header, quality)
        width, height = query.camera.width, query.camera.height
        quick = (
            query.encoding == "rgb8" and query.render_size == (height, width) and len(query.T_world_cam) == 1
        )
        layers = functools.partial(_layers, header) if query.depth else None
        task = RenderTask(query, finish, self._pool, latest, quick, layers)
        self._worker.submit(task)
        return task.future

    def answer(
        self, request: RenderViews.Request, response: RenderViews.Response, header: Header
    ) -> Future[RenderViews.Response]:
        """Give the response to a service call, filled in. header: of the images."""
        start = time.perf_counter()
        answered: Future[RenderViews.Response] = Future()

        def fail(error: BaseException) -> None:
            response.message = self._failed(error)
            answered.set_result(response)

        def on_rendered(done: Future[Answer]) -> None:
            try:
                self._fill(response, query.encoding, done.result(), start)
            except BaseException as error:  # CancelledError may be one
                self._later(fail, error)
            else:
                answered.set_result(response)

        size = request.width, request.height
        try:
            query = requests.parse(
                self._context(), request.header.frame_id, request.poses, request.camera_info, *size,
                request.max_views, request.encoding, detail=request.detail, depth=request.depth,
            )  # fmt: skip
            future = self.render(query, header)
        except Exception as error:
            fail(error)
        else:
            future.add_done_callback(on_rendered)
        return answered

    def _fill(self, response: RenderViews.Response, encoding: str, answer: Answer, start: float) -> None:
        fill_images(response, encoding, answer)
        response.support = array.array("f", answer.support)
        response.views_used = len(answer.views)
        response.latency_ms = self._succeeded(len(answer.support), start)
        response.success = True

    def follow(
        self,
        message: PoseStamped,
        header: Header,
        publish: Callable[[Image, CameraInfo, tuple[Image, Image] | None], None],
        depth: bool = False,
    ) -> None:
        """Render the newest of the poses that stream in, and publish it; with depth and confidence where wanted."""
        start = time.perf_counter()
        height, width = self._context().settings.rendered_size
        try:
            query = requests.parse(
                self._context(), message.header.frame_id, [message.pose], CameraInfo(), width, height, 0, "",
                depth=depth,
            )  # fmt: skip
            future = self.render(query, header, latest="render_pose")
        except Exception as error:
            self._failed(error)
            return

        def on_rendered(done: Future[Answer]) -> None:
            if done.cancelled():  # a newer pose took its place
                return
            error = done.exception()
            if error is not None:
                self._failed(error)
                return
            answer = done.result()
            camera = conversions.camera_info(query.camera, header)
            publish(answer.messages[0], camera, answer.layers[0] if answer.layers else None)
            self._succeeded(1, start)

        future.add_done_callback(lambda done: self._later(on_rendered, done))

    def count(self, views: int) -> None:
        """Note that views were rendered. Any thread."""
        with self._lock:
            self.renders += views

    def _succeeded(self, views: int, start: float) -> float:
        latency = (time.perf_counter() - start) * 1e3
        self.count(views)
        self.latency_ms.add(latency)
        return latency

    def _failed(self, error: BaseException) -> str:
        self.failures += 1
        if isinstance(error, CancelledError | StoppedError):
            return "the node is being cleaned up or shut down"
        if isinstance(error, ValueError | BusyError):
            self._reports.add("render", str(error))
            return str(error)
        return self._reports.fault("rendering failed", error)


def fill_images(message: Any, encoding: str, answer: Answer) -> None:
    """Put the images of an answer into a response or a feedback."""
    if encoding == "rgb8":
        message.images = answer.messages
    else:
        message.compressed_images = answer.messages
    message.depth_images = [depth for depth, _ in answer.layers]
    message.confidence_images = [confidence for _, confidence in answer.layers]


def _layers(
    header: Header, depths: NDArray[np.float32], confidences: NDArray[np.float32]
) -> list[tuple[Image, Image]]:
    return [
        (conversions.depth_to_image(depth, header), conversions.share_to_image(confidence, header))
        for depth, confidence in zip(depths, confidences, strict=True)
    ]


def _messages(query: Query, header: Header, quality: int, images: Sequence[RGB]) -> list[Any]:
    """Make the messages of an answer: Image or CompressedImage."""
    sized = [conversions.resize(image, query.camera.width, query.camera.height) for image in images]
    if query.encoding == "rgb8":
        return [conversions.rgb_to_image(image, header) for image in sized]
    return [conversions.rgb_to_compressed(image, header, query.encoding, quality) for image in sized]
