"""What stands between the viewer's server and the browsers: who may connect, and what they may say.

viser trusts every web page that reaches its port. Any page on the internet can make a browser on this machine connect
to loopback, so the Origin and the Host of each connection are checked. Messages that viser would take from a page go
through a filter: values of the controls that the page has, of their own types and ranges, and the camera's place.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import http
import ipaddress
import math
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec.msgpack
import numpy as np
import websockets.asyncio.server
import zstandard
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_CLIENTS = 16
"""Pages that are open at the same time."""
MAX_MESSAGE = 1 << 16
"""Bytes of a message from a page: values of controls and cameras are much smaller."""
MAX_TEXT = 255
"""Characters of a text that a page may set."""
MAX_RATE = 400
"""Messages a second and page; beyond, it has to wait."""
CAMERA = {"wxyz": 4, "position": 3, "look_at": 3, "up_direction": 3,
          "fov": 0, "near": 0, "far": 0, "image_height": 0, "image_width": 0}  # fmt: skip
"""Fields of a camera's message: how many numbers; 0: one that is no list."""

Find = Callable[[str], Any]
"""Returns the handle of the control with an id, or None."""


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which addresses the page may be called by. host: what the server listens on. allowed: origins of other pages or
    proxies that may connect, scheme://name[:port]."""

    host: str
    allowed: tuple[str, ...] = ()

    def refusal(self, headers: Mapping[str, str]) -> str:
        """Return why a request is rejected, or nothing. Scripts outside of browsers send no Origin, and may."""
        host = headers.get("Host", "")
        name, port = _split("//" + host)
        origin = headers.get("Origin")
        allowed = [_split(one) for one in self.allowed]
        if not self._is_ours(name) and name not in [name for name, _ in allowed]:
            return f"this page is not served as {host[:80]!r}"
        if origin is None:
            return ""
        theirs = _split(origin)
        if origin.rstrip("/").lower() in [one.rstrip("/").lower() for one in self.allowed]:
            return ""
        alike = theirs[0] == name or (theirs[0] in LOOPBACK and name in LOOPBACK)
        if alike and theirs[1] == port and origin.startswith(("http://", "https://")):
            return ""
        return f"pages of {origin[:80]!r} may not connect"

    def _is_ours(self, name: str) -> bool:
        machine = socket.gethostname().lower()
        if name in (*LOOPBACK, self.host.lower()):
            return True
        if self.host in LOOPBACK:
            return False
        with contextlib.suppress(ValueError):  # an address cannot be taken over by somebody's name server
            ipaddress.ip_address(name)
            return True
        return name in (machine, f"{machine}.local", machine.partition(".")[0])


def _split(origin: str) -> tuple[str, int]:
    """Return name and port of an origin, ("", 0) for what is none."""
    try:
        parts = urlsplit(origin)
        return (parts.hostname or "").lower(), parts.port or {"https": 443}.get(parts.scheme, 80)
    except ValueError:
        return "", 0


@contextlib.contextmanager
def guarding(policy: Policy, find: Find, page: Path) -> Iterator[None]:
    """Have the server that viser starts within the block ask the policy, and filter what pages send.

    find: looks up a control. page: the HTML that viser serves, whose scripts alone may run. viser offers no way to do
    this; what it calls to serve is exchanged until its server has started.
    """
    original = websockets.asyncio.server.serve
    csp = content_security_policy(page)

    def serve(handler: Callable[[Any], Any], *args: Any, **options: Any) -> Any:
        answer = options.pop("process_request")

        def process_request(connection: Any, request: Request) -> Response | None:
            reason = policy.refusal(request.headers)
            if reason:
                return _reject(http.HTTPStatus.FORBIDDEN, f"{reason}: see --allow-origin\n")
            response: Response | None = answer(connection, request)
            if response is None and len(connection.server.connections) >= MAX_CLIENTS:
                return _reject(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_CLIENTS} pages are open already\n")
            if response is not None:
                own = re.sub(
                    r"[^\w.:\[\]-]", "", request.headers.get("Host", "")
                )  # not all browsers count it as 'self'
                connect = f"connect-src 'self' data: blob: ws://{own} wss://{own}"
                response.headers["Content-Security-Policy"] = f"{csp}; {connect}"
                response.headers["X-Content-Type-Options"] = "nosniff"
                response.headers["Referrer-Policy"] = "no-referrer"
            return response

        async def filtered(connection: Any) -> None:
            connection.recv = _filtered(connection.recv, find)
            await handler(connection)

        options["max_size"] = MAX_MESSAGE
        return original(filtered, *args, process_request=process_request, **options)

    websockets.asyncio.server.serve = serve  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        websockets.asyncio.server.serve = original  # type: ignore[misc]


def forbid_sharing(server: Any) -> None:
    """Take away what would open a tunnel through a server on the internet whenever a page asks for it."""
    from viser import _messages

    for kind in (_messages.ShareUrlRequest, _messages.ShareUrlDisconnect):
        server._websock_server.unregister_handler(kind)


def _reject(status: http.HTTPStatus, text: str) -> Response:
    body = text.encode()
    headers = Headers({"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body))})
    return Response(status.value, status.phrase, headers, body)


def _filtered(receive: Callable[[], Any], find: Find) -> Callable[[], Any]:
    """Return a `recv` that returns only messages which `accepts` accepts, at a rate that does no harm."""
    begin, count = time.monotonic(), 0

    async def recv() -> bytes:
        nonlocal begin, count
        while True:
            raw = await receive()
            now = time.monotonic()
            if now - begin > 1:
                begin, count = now, 0
            count += 1
            if count > MAX_RATE:
                await asyncio.sleep(begin + 1 - now)
            if isinstance(raw, bytes) and accepts(raw, find):
                return raw

    return recv


def accepts(raw: bytes, find: Find) -> bool:
    """Tell whether a page may send a message: a camera, or a new value of a control that is there."""
    try:
        message = msgspec.msgpack.decode(raw)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return False
    if not isinstance(message, dict):
        return False
    kind = message.get("type")
    if kind == "ViewerCameraMessage":
        return message.keys() == {"type", *CAMERA} and all(
            _is_number(message[name]) if not length else _are_numbers(message[name], length)
            for name, length in CAMERA.items()
        )
    if kind == "GuiUpdateMessage":
        updates, uuid = message.get("updates"), message.get("uuid")
        if message.keys() != {"type", "uuid", "updates"} or not isinstance(uuid, str):
            return False
        return (
            isinstance(updates, dict) and updates.keys() == {"value"} and _fits(find(uuid), updates["value"])
        )
    return False


def _fits(control: Any, value: Any) -> bool:
    """Tell whether a control can have a value: of its type, and between its bounds."""
    if control is None:
        return False
    present = control.value
    if isinstance(present, bool):
        return isinstance(value, bool)
    if isinstance(present, int | float):
        low, high = getattr(control, "min", -math.inf), getattr(control, "max", math.inf)
        return _is_number(value) and low <= value <= high
    if isinstance(present, str):
        choices = getattr(control, "options", None)
        return isinstance(value, str) and (len(value) <= MAX_TEXT if choices is None else value in choices)
    return False


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) <= 1e12


def _are_numbers(value: Any, count: int) -> bool:
    return isinstance(value, Sequence) and len(value) == count and all(map(_is_number, value))


def content_security_policy(page: Path) -> str:
    """Return a policy under which nothing runs but the scripts of viser's page, and nothing is loaded from elsewhere.

    The page unpacks its program and adds it as a script; both are allowed by their SHA-256. Of a page that is made
    otherwise (another version of viser), all its own scripts may run. What the page's WebAssembly makes of strings may
    run as well: its bindings need that, and no markup comes by it.
    """
    try:
        text = page.read_text(encoding="utf-8")
        scripts = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
        allowed = " ".join(_hash(script.encode()) for script in (*scripts, _packed_program(text)) if script)
    except (OSError, ValueError, IndexError, zstandard.ZstdError):
        allowed = "'unsafe-inline'"
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; worker-src blob:; "
        "object-src 'none'; frame-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(script: bytes | str) -> str:
    data = script.encode() if isinstance(script, str) else script
    return f"'sha256-{base64.b64encode(hashlib.sha256(data).digest()).decode()}'"


DIGITS = "".join(chr(c) for c in range(33, 127) if chr(c) not in "\"&'<>`")
"""Base 88 as viser's page writes it: five digits for four bytes."""


def _packed_program(text: str) -> str:
    """Return the program that viser's page carries, compressed by zstd in base 88."""
    packed = re.search(r'data-p="([^"]*)"', text)
    sizes = [re.search(rf'data-{name}="(\d+)"', text) for name in ("ss", "cs")]
    if packed is None or None in sizes or len(DIGITS) != 88:
        raise ValueError("not a page as viser makes it")
    table = np.full(128, 0, np.uint64)
    table[[ord(c) for c in DIGITS]] = np.arange(88, dtype=np.uint64)
    code = table[np.frombuffer(packed[1].encode("ascii"), np.uint8)]
    whole = len(code) // 5 * 5
    values = code[:whole].reshape(-1, 5) @ (np.uint64(88) ** np.arange(4, -1, -1, dtype=np.uint64))
    data = values.astype(">u4").tobytes()
    if rest := code[whole:].tolist():
        value = 0
        for digit in rest:
            value = value * 88 + digit
        data += value.to_bytes(len(rest) - 1, "big")
    style, program = (int(size[1]) for size in sizes if size is not None)
    plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 26)
    if len(plain) != style + program:
        raise ValueError("not a page as viser makes it")
    return plain[style:].decode()
