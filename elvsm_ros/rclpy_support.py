"""What rclpy leaves to do: work that other threads hand back, futures of other threads, faults, a punctual end."""

from __future__ import annotations

import contextlib
import faulthandler
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from rclpy.executors import Executor, ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.service import Service
from rclpy.task import Future as RosFuture

T = TypeVar("T")

LEAVE = 10.0
"""Seconds that programs around the node are given to leave the network."""

InvalidHandle = (
    rclpy_implementation.InvalidHandle
)  # in public modules too, but in another one in every release


def call_later(node: Node, callback: Callable[..., None], *args: Any) -> None:
    """Have the node's executor call back; to be used from any thread. Does nothing once that is shut down."""
    if node.executor is not None:
        node.executor.create_task(callback, *args)


async def wait_for(node: Node, future: Future[T]) -> T:
    """Wait in a coroutine of the node's executor for a future of another thread, without holding it up."""
    executor = node.executor
    assert executor is not None
    waiter: RosFuture = RosFuture(executor=executor)

    def wake(_: Future[T]) -> None:
        waiter.set_result(None)
        executor.wake()  # it looks at waiting coroutines only after something else woke it

    future.add_done_callback(wake)
    await waiter
    return future.result()


def answer_by_future(service: Service, failed: Callable[[Exception], object]) -> None:
    """Let the callback of a service return a future of its response, which whoever completes it sends.

    failed: told, on that thread, what kept a response from being sent.

    A coroutine that waits for another thread costs an executor of rclpy several rounds through everything that the
    node has, a fraction of a millisecond each, and the answer waits for them.
    """
    send = service.send_response

    def send_response(response: Any, header: Any) -> None:
        if not isinstance(response, Future):
            send(response, header)
            return

        def deliver(done: Future[Any]) -> None:
            try:
                send(done.result(), header)
            except InvalidHandle:  # taken down meanwhile
                return
            except Exception as error:
                failed(error)

        response.add_done_callback(deliver)

    service.send_response = send_response


@contextlib.contextmanager
def leaving(seconds: float) -> Iterator[None]:
    """Leave the DDS network in this context: the process ends with status 1 unless that is done within `seconds`.

    A participant can get stuck for ever while another one says farewell (Fast DDS 3.2: its timers and a receiving
    thread wait for each other), holding Python's lock: only a thread outside of Python gets the process to end then.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def spin(node: Node, executor: Executor, stop_asked: Callable[[], bool]) -> None:
    """Spin until the context is shut down or a stop is asked for. A callback that fails does not end it."""
    while node.context.ok() and not stop_asked():
        try:
            executor.spin_once()
        except ExternalShutdownException:
            return
        except InvalidHandle:  # the answer of a service that has been taken down meanwhile
            continue
        except Exception as error:
            if node.context.ok():
                text = "".join(traceback.format_exception(error))
                node.get_logger().error(f"a callback failed: {text}", throttle_duration_sec=5.0)
