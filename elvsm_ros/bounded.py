"""Messages with more poses than allowed: counted, and not made into Python objects.

rclpy makes a message into Python objects before anybody can look at it. For a million poses that takes a quarter of a
minute and a gigabyte, in which the node hears nothing else, signals included. Generated types keep the functions that
do it in capsules on their metaclasses: here, one is put in front that looks at the length first, in the C struct, whose
layout rosidl fixes (rosidl_runtime_c: a sequence is data, size and capacity). Where the struct is laid out otherwise,
which is tried beforehand, the types stay as they are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

WORD = ctypes.sizeof(ctypes.c_size_t)
HEADER = 8 + 3 * WORD
"""Bytes of a std_msgs/Header in C: two numbers of 32 bits, and a string."""
SEQUENCE = 3 * WORD
UUID = 16
Limit = Callable[[], int]

_get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
_get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_CREATE = ctypes.PYFUNCTYPE(ctypes.c_void_p)
_DESTROY = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_TO_PY = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p)
_FROM_PY = ctypes.PYFUNCTYPE(ctypes.c_bool, ctypes.py_object, ctypes.c_void_p)


class TooMany(list):
    """Stands for a list that was too long: its length is what it was, and there is nothing in it."""

    def __init__(self, count: int):
        super().__init__()
        self._count = count

    def __len__(self) -> int:
        return self._count


def bound_subscription(subscription: Any, limit: Limit, before: int) -> None:
    """Take no more than `limit()` poses from a message; `TooMany` stands for more.

    before: bytes of the C struct before `poses`.
    """
    subscription.msg_type = _bounded(subscription.msg_type, ("poses",), before, limit)


def bound_service(service: Any, limit: Limit) -> None:
    """Do the same for a service whose request begins with a header and poses."""
    kind = service.srv_type
    service.srv_type = _derived(kind, Request=_bounded(kind.Request, ("poses",), HEADER, limit))


def bound_action(server: Any, limit: Limit) -> None:
    """Do the same for an action whose goal begins with a header and poses."""
    kind = server.action_type
    send = kind.Impl.SendGoalService
    request = _bounded(send.Request, ("goal", "poses"), UUID + HEADER, limit)
    impl = type("Impl", (kind.Impl,), {"SendGoalService": _derived(send, Request=request)})
    server._action_type = _derived(kind, Impl=impl)


def _derived(kind: Any, **members: Any) -> Any:
    return type(kind)(kind.__name__, (kind,), members)


def _bounded(message: Any, path: tuple[str, ...], offset: int, limit: Limit) -> Any:
    """Return what stands for a message type where messages are taken; instances are of the type itself.

    path: to the sequence. offset: of it in the C struct, bytes.
    """
    if message._TYPE_SUPPORT is None:
        message.__class__.__import_type_support__()
    if not _lies_at(message, path, offset):
        return message
    original = _function(message._CONVERT_TO_PY, _TO_PY)

    @_TO_PY
    def convert(address: int) -> Any:
        size = ctypes.c_size_t.from_address(address + offset + WORD)
        count = size.value
        if count <= limit():
            return original(address)
        size.value = 0
        try:
            made = original(address)
        finally:
            size.value = count
        setattr(_owner(made, path), path[-1], TooMany(count))
        return made

    name = _get_name(message._CONVERT_TO_PY)
    capsule = _new_capsule(ctypes.cast(convert, ctypes.c_void_p), name, None)
    metaclass = type(
        message.__class__.__name__,
        (message.__class__,),
        {"_CONVERT_TO_PY": capsule, "_alive": (convert, name)},
    )
    return metaclass(message.__name__, (message,), {"__slots__": ()})


def _lies_at(message: Any, path: tuple[str, ...], offset: int) -> bool:
    """Tell whether the sequence is where it should be, for two messages that are known."""
    from geometry_msgs.msg import Pose

    create, destroy = (
        _function(message._CREATE_ROS_MESSAGE, _CREATE),
        _function(message._DESTROY_ROS_MESSAGE, _DESTROY),
    )
    fill = _function(message._CONVERT_FROM_PY, _FROM_PY)
    for count in (3, 5):
        known = message()
        setattr(_owner(known, path), path[-1], [Pose() for _ in range(count)])
        address = create()
        try:
            if not fill(known, address):
                return False
            data, size, capacity = (ctypes.c_size_t * 3).from_address(address + offset)
            if not data or size != count or capacity < count:
                return False
        finally:
            destroy(address)
    return True


def _owner(message: Any, path: tuple[str, ...]) -> Any:
    for name in path[:-1]:
        message = getattr(message, name)
    return message


def _function(capsule: Any, kind: Any) -> Any:
    return kind(_get_pointer(capsule, _get_name(capsule)))
