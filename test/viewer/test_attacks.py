"""The viewer's page in a real browser against hostile texts, hostile pages and hostile clients."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs the ROS packages: run make")
pytest.importorskip("viser", reason="needs the extra [viewer]: run make")

import msgspec.msgpack
import viser
import websockets.exceptions
import websockets.sync.client
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rig import NodeProcess, Peer, picture, pose_at, wait_until

from elvsm_ros.viewer import guard
from elvsm_ros.viewer.options import parse
from elvsm_ros.viewer.run import Viewer

pytestmark = pytest.mark.ros

MARK = "document.documentElement.dataset.hacked=1"
PAYLOADS = (
    f"<img src=x onerror={MARK}>", f"<script>{MARK}</script>", f"<svg/onload={MARK}>",
    f"</td></table><iframe srcdoc='<script>parent.{MARK}</script>'></iframe>",
    f"[link](javascript:{MARK})", f"<a href='javascript:{MARK}'>link</a>", f"{{{MARK}}}",
)  # fmt: skip
SUBPROTOCOL = f"viser-v{viser.__version__}"


@pytest.fixture(scope="module")
def node(small_model: Path) -> Iterator[tuple[NodeProcess, Peer]]:
    with contextlib.ExitStack() as stack:
        node = NodeProcess(model=str(small_model), status_period=0.1, keyframe_max_rate=0.0)
        stack.callback(node.close)
        peer = Peer()
        stack.callback(peer.close)
        node.wait_for("active")
        wait_until(peer.connected, "the node and its peer to find each other")
        yield node, peer


@pytest.fixture(scope="module")
def viewer(node: tuple[NodeProcess, Peer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    with Viewer(parse(["--port", "18180", "--out", str(tmp_path_factory.mktemp("videos"))])) as viewer:
        yield viewer


@pytest.fixture
def tab(viewer: Viewer, browser: Any) -> Iterator[Any]:
    tab = browser.new_page(viewport={"width": 900, "height": 700}, locale="en-US")
    tab.set_default_timeout(30_000)
    tab.goto(viewer.url)
    tab.get_by_text("is watching").wait_for()
    yield tab
    tab.close()


def waited(tab: Any, condition: Callable[[], Any], what: str, timeout: float = 30.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        tab.wait_for_timeout(50)


def hacked(tab: Any) -> bool:
    return bool(tab.evaluate("document.documentElement.dataset.hacked"))


def test_no_text_from_the_network_runs_in_the_page(
    tab: Any, viewer: Viewer, node: tuple[NodeProcess, Peer]
) -> None:
    """Frame ids in the node's messages, and names and values of /diagnostics."""
    peer = node[1]
    peer.insert(picture(0), pose_at(0.0))
    publisher = peer.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
    for payload in PAYLOADS:
        peer.send_frame(picture(1), pose_at(1.0))
        peer.send_pose(peer._stamp + 1, pose_at(1.0), frame=payload)
        values = [KeyValue(key=payload, value=payload), KeyValue(key="memory, device", value=payload)]
        status = DiagnosticStatus(name="elvsm: device", hardware_id=payload, message=payload, values=values)
        publisher.publish(DiagnosticArray(status=[status]))
        tab.wait_for_timeout(300)
        with viewer._lock:
            pages = list(viewer._pages.values())
        for page in pages:
            page._complaint = payload
            page.tell(payload, payload)
        waited(tab, lambda text=payload[:20]: text in tab.inner_text("body"), f"{payload} as text")
        tab.wait_for_timeout(200)
        assert not hacked(tab) and tab.locator("iframe, svg[onload], img[src=x]").count() == 0
    for page in pages:
        page._complaint = ""


def test_what_gets_into_the_page_all_the_same_may_not_run(tab: Any) -> None:
    """The content security policy, should a text be escaped wrongly one day."""
    tab.evaluate(
        "html => document.body.insertAdjacentHTML('beforeend', html)",
        "".join(PAYLOADS[:5]) + f"<iframe src='data:text/html,<script>parent.{MARK}</script>'></iframe>",
    )
    script = "text => { const s = document.createElement('script'); s.textContent = text; document.head.append(s) }"
    tab.evaluate(script, MARK)
    tab.wait_for_timeout(500)
    assert not hacked(tab)


ATTACK = """<!doctype html><script>
const socket = new WebSocket("ws://127.0.0.1:PORT", "SUBPROTOCOL");
socket.binaryType = "arraybuffer";
window.got = "nothing yet";
socket.onmessage = () => { window.got = "a message" };
socket.onerror = () => { window.got = "an error" };
</script>"""


def test_another_sites_page_cannot_connect(viewer: Viewer, browser: Any) -> None:
    port = viewer._server.get_port()

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = ATTACK.replace("PORT", str(port)).replace("SUBPROTOCOL", SUBPROTOCOL).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    Thread(target=server.serve_forever, daemon=True).start()
    tab = browser.new_page(locale="en-US")
    try:
        before = len(viewer.pages)
        tab.goto(f"http://localhost:{server.server_port}")
        waited(tab, lambda: tab.evaluate("window.got") != "nothing yet", "an answer")
        assert tab.evaluate("window.got") == "an error" and len(viewer.pages) == before
    finally:
        tab.close()
        server.shutdown()


def connect(viewer: Viewer, **options: Any) -> Any:
    address = f"ws://127.0.0.1:{viewer._server.get_port()}"
    return websockets.sync.client.connect(address, subprotocols=[SUBPROTOCOL], **options)  # type: ignore[list-item]


def test_foreign_origins_and_hosts_are_rejected(viewer: Viewer) -> None:
    port = viewer._server.get_port()
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        with pytest.raises(websockets.exceptions.InvalidStatus, match="403"):
            connect(viewer, origin=origin)
    with connect(viewer, origin=f"http://localhost:{port}") as socket:
        assert socket.recv(timeout=10)
    for host, status in (("evil.example", 403), (f"localhost:{port}", 200)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/", headers={"Host": host})
        answer = connection.getresponse()
        assert answer.status == status
        if status == 200:
            assert "default-src 'none'" in (answer.getheader("Content-Security-Policy") or "")
        else:
            assert b"--allow-origin" in answer.read()
        connection.close()


def send(socket: Any, **message: Any) -> None:
    socket.send(msgspec.msgpack.encode(message))


def test_a_hostile_client_changes_nothing_but_values(viewer: Viewer, tab: Any) -> None:
    """Attributes of controls, sharing, uploads, garbage: dropped, and the page of somebody else works on."""
    gui = viewer._server.gui
    (slider,) = (h for h in gui._gui_input_handle_from_uuid.values() if isinstance(h.value, float))
    before = dict(vars(slider._impl))
    with connect(viewer) as socket:
        for name in ("sync_cb", "update_cb", "removed", "is_button", "props", "value"):
            send(socket, type="GuiUpdateMessage", uuid=slider._impl.uuid, updates={name: "a string"})
        send(socket, type="GuiUpdateMessage", uuid=slider._impl.uuid, updates={"value": 1e9})
        for kind in (
            "ShareUrlRequest",
            "ShareUrlDisconnect",
            "FileTransferStartUpload",
            "SceneNodeUpdateMessage",
            "?",
        ):
            send(socket, type=kind)
        socket.send(b"\xc1 garbage")
        socket.send("text")
        # In order: when this has come, everything before it has.
        send(socket, type="GuiUpdateMessage", uuid=slider._impl.uuid, updates={"value": 0.5})
        waited(tab, lambda: slider.value == 0.5, "the good value")
    after = dict(vars(slider._impl))
    for name in ("sync_cb", "update_cb", "removed", "is_button", "props"):
        assert after[name] == before[name]
    assert viewer._server._share_tunnel is None
    # A page's own controls still reach the node.
    tab.get_by_role("button", name="Pause", exact=True).click()
    tab.get_by_role("button", name="Resume", exact=True).click()
    tab.get_by_text("is watching").wait_for()


def test_messages_and_clients_have_limits(viewer: Viewer) -> None:
    with connect(viewer) as socket:
        socket.send(b"x" * (guard.MAX_MESSAGE + 1))
        with pytest.raises(websockets.exceptions.ConnectionClosedError, match="1009"):
            while True:
                socket.recv(timeout=20)
    with contextlib.ExitStack() as stack:
        with pytest.raises(websockets.exceptions.InvalidStatus, match="503"):
            for _ in range(guard.MAX_CLIENTS + 1):
                stack.enter_context(connect(viewer))
        assert len(viewer._server._websock_server._live_connections) <= guard.MAX_CLIENTS
    wait_until(lambda: not viewer._server._websock_server._live_connections, "all of them to be forgotten")
    with connect(viewer) as socket:
        assert socket.recv(timeout=10)


def test_the_program_takes_allowed_origins(small_model: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "elvsm_ros.viewer",
        "--port",
        "18190",
        "--allow-origin",
        "https://robot.example",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = next(line for line in process.stdout if "http://" in line and "elvsm_viewer" in line)
        port = int(url.split("http://127.0.0.1:")[1].split()[0])
        address = f"ws://127.0.0.1:{port}"
        with websockets.sync.client.connect(
            address,
            subprotocols=[SUBPROTOCOL],
            origin="https://robot.example",  # type: ignore[list-item,arg-type]
        ) as socket:
            assert socket.recv(timeout=10)
        with pytest.raises(websockets.exceptions.InvalidStatus, match="403"):
            websockets.sync.client.connect(
                address,
                subprotocols=[SUBPROTOCOL],
                origin="https://evil.example",  # type: ignore[list-item,arg-type]
            )
    finally:
        process.terminate()
        process.wait(20)
