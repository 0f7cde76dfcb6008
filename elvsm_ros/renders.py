"""Requests for views, from the message to the answer."""

from __future__ import annotations

import array
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from elvsm.srv import RenderViews
from elvsm_ros import conversions, requests
from elvsm_ros.feed import Wait
from elvsm_ros.reports import Reports
from elvsm_ros.requests import Context, Query
from elvsm_ros.stats import Window
from elvsm_ros.worker import BusyError, StoppedError, Worker

if TYPE_CHECKING:
    from elvsm_ros.engine import Engine, Rendered


class RenderDesk:
    """Take requests, have the worker render, put the answers together, count.

    context: gives what requests are understood against, now. later: has the executor's thread call a
    function, from any thread. Everything but the jobs runs on the executor's thread.
    """

    def __init__(
        self,
        worker: Worker[Engine],
        context: Callable[[], Context],
        reports: Reports,
        later: Callable[..., None],
    ):
        self._worker, self._context, self._reports, self._later = worker, context, reports, later
        self.latency_ms = Window()
        self.renders = 0
        self.failures = 0

    async def answer(
        self, request: RenderViews.Request, response: RenderViews.Response, header: Header, wait: Wait
    ) -> RenderViews.Response:
        """Fill in the response to a service call. header: of the images."""
        start = time.perf_counter()
        size = request.width, request.height
        try:
            query = requests.parse(
                self._context(), request.header.frame_id, request.poses, request.camera_info, *size,
                request.max_views, request.encoding,
            )  # fmt: skip
            rendered: Rendered = await wait(self._call(query, header))
        except Exception as error:
            response.message = self._failed(error)
            return response
        response.success = True
        response.images = [conversions.rgb_to_image(image, header) for image in rendered.images]
        response.compressed_images = rendered.compressed
        response.support = array.array("f", rendered.support)
        response.views_used = len(rendered.views)
        response.latency_ms = self._succeeded(len(rendered.support), start)
        return response

    def follow(
        self, message: PoseStamped, header: Header, publish: Callable[[Image, CameraInfo], None]
    ) -> None:
        """Render the newest of the poses that stream in, and publish it."""
        start = time.perf_counter()
        height, width = self._context().settings.rendered_size
        try:
            query = requests.parse(
                self._context(), message.header.frame_id, [message.pose], CameraInfo(), width, height, 0, ""
            )
            future = self._call(query, header, latest="render_pose")
        except Exception as error:
            self._failed(error)
            return

        def on_rendered(done: Future[Rendered]) -> None:
            if done.cancelled():  # a newer pose took its place
                return
            error = done.exception()
            if error is not None:
                self._failed(error)
                return
            image = conversions.rgb_to_image(done.result().images[0], header)
            publish(image, conversions.camera_info(query.camera, header))
            self._succeeded(1, start)

        future.add_done_callback(lambda done: self._later(on_rendered, done))

    def _call(self, query: Query, header: Header, latest: str | None = None) -> Future[Rendered]:
        settings = self._context().settings
        return self._worker.call(lambda engine: engine.render(query, settings.jpeg_quality, header), latest)

    def _succeeded(self, views: int, start: float) -> float:
        latency = (time.perf_counter() - start) * 1e3
        self.renders += views
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
