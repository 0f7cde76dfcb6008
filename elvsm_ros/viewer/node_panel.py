"""The buttons of a page that act on the node: pause, reset, save, load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import viser

from elvsm_ros import SceneClient, SceneClientError

SOON = 2.0
"""Seconds that a button waits for a node that is away."""


class NodePanel:
    """A folder of buttons. tell: shows title, body, and whether it is good news."""

    def __init__(
        self, client: viser.ClientHandle, scene: SceneClient, tell: Callable[[str, str, bool], None]
    ):
        self._client, self._scene, self._tell = client, scene, tell
        gui = client.gui
        with gui.add_folder("Node"):
            self._pause = gui.add_button("Pause", hint="Images are counted, not used, until you resume")
            reset = gui.add_button("Reset", hint="Forget all keyframes")
            self._name = gui.add_text(
                "Scene", "scene", hint="File name; the node keeps it in its scene_directory"
            )
            save = gui.add_button("Save")
            load = gui.add_button("Load", hint="Takes the place of the present scene")
        self._pause.on_click(lambda _: self._on_pause())
        reset.on_click(lambda _: self._on_reset())
        save.on_click(lambda _: self._do("Save", lambda: scene.save(self._name.value)))
        load.on_click(lambda _: self._do("Load", lambda: scene.load(self._name.value)))

    def tick(self) -> None:
        """Follow the node's state."""
        label = "Resume" if self._paused else "Pause"
        if self._pause.label != label:
            self._pause.label = label

    @property
    def _paused(self) -> bool:
        status = self._scene.last_status
        return status is not None and status.paused

    def _on_pause(self) -> None:
        if self._paused:
            self._do("Resume", self._scene.resume)
        else:
            self._do("Pause", self._scene.pause)

    def _on_reset(self) -> None:
        count = len(self._scene.last_keyframes)
        modal = self._client.gui.add_modal(f"Forget {count} keyframes?")
        with modal:
            self._client.gui.add_html("<p>They are gone for good, unless the scene was saved.</p>")
            forget = self._client.gui.add_button("Forget them", color="red")
            keep = self._client.gui.add_button("Keep them")

        def on_forget(_: Any) -> None:
            modal.close()
            self._do("Reset", self._scene.reset)

        forget.on_click(on_forget)
        keep.on_click(lambda _: modal.close())

    def _do(self, what: str, action: Callable[[], str | None]) -> None:
        """Call the node, on the thread that viser has for the button, and show what came of it."""
        try:
            self._scene.wait_until_ready(SOON)
            said = action()
        except SceneClientError as error:
            self._tell(f"{what} failed", str(error), False)
        else:
            self._tell(f"{what}: done", said or "", True)
