"""The services of the node, which live as long as it does: while it is not configured, they say so.

A service that came and went with the configuration would lose requests: one that arrives as the service goes, or before
both ends of DDS have found each other anew, is never answered, and whoever sent it waits for ever.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.service import Service
from std_srvs.srv import SetBool, Trigger

from elvsm.srv import LoadScene, RenderViews, SaveScene
from elvsm_ros import bounded
from elvsm_ros.qos import SERVICE_QOS
from elvsm_ros.rclpy_support import answer_by_future

LATER: dict[str, type] = {
    "reset": Trigger, "pause": SetBool, "save_scene": SaveScene, "load_scene": LoadScene,
}  # fmt: skip
"""Services whose answers are coroutines, by name."""
Answer = Callable[[Any, Any], Any]


class Services:
    """Offer the services, and pass requests to whoever answers them just now.

    node: what offers them; its settings bound what is read. refusal: says why nobody answers. failed: told, on any
    thread, what kept a response from being sent.
    """

    def __init__(self, node: Any, refusal: Callable[[], str], failed: Callable[[Exception], object]):
        self._node, self._refusal = node, refusal
        self._answers: dict[str, Answer] = {}
        # Reentrant: several requests may wait for the device at the same time.
        self._group = ReentrantCallbackGroup()
        render_views = self._offer(RenderViews, "render_views", self._at_once("render_views"))
        bounded.bound_service(render_views, lambda: node.settings.max_render_views)
        answer_by_future(render_views, failed)
        for name, kind in LATER.items():
            self._offer(kind, name, self._in_time(name))

    def answer_by(
        self, render_views: Answer, **later: Callable[[Any, Any], Awaitable[Any]]
    ) -> Callable[[], None]:
        """Have requests answered by these from now on; return what ends that.

        render_views: returns a response, or a concurrent future of one. later: coroutine functions, by name.
        """
        self._answers = {"render_views": render_views, **later}
        return self._answers.clear

    def _offer(self, kind: type, name: str, callback: Callable[..., Any]) -> Service:
        return self._node.create_service(
            kind, f"~/{name}", callback, qos_profile=SERVICE_QOS, callback_group=self._group
        )

    def _at_once(self, name: str) -> Answer:
        def callback(request: Any, response: Any) -> Any:
            answer = self._answers.get(name)
            return self._refuse(response) if answer is None else answer(request, response)

        return callback

    def _in_time(self, name: str) -> Answer:
        async def callback(request: Any, response: Any) -> Any:  # rclpy awaits what is declared async, only
            answer = self._answers.get(name)
            return self._refuse(response) if answer is None else await answer(request, response)

        return callback

    def _refuse(self, response: Any) -> Any:
        response.message = self._refusal()
        return response
