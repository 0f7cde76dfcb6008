"""The buttons of a page that act on the node: pause, reset, save, load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import viser
from std_srvs.srv import SetBool, Trigger

from elvsm.srv import LoadScene, SaveScene
from elvsm_ros.viewer.link import Link

SLOW = 120.0
"""Seconds that saving and loading may take."""


class NodePanel:
    """A folder of buttons. tell: shows title, body, and whether it is good news."""

    def __init__(self, client: viser.ClientHandle, link: Link, tell: Callable[[str, str, bool], None]):
        self._client, self._link, self._tell = client, link, tell
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
        save.on_click(lambda _: self._call("save_scene", SaveScene.Request(name=self._name.value), "Save"))
        load.on_click(lambda _: self._call("load_scene", LoadScene.Request(name=self._name.value), "Load"))

    def tick(self) -> None:
        """Follow the node's state."""
        label = "Resume" if self._paused else "Pause"
        if self._pause.label != label:
            self._pause.label = label

    @property
    def _paused(self) -> bool:
        return self._link.status is not None and self._link.status.paused

    def _on_pause(self) -> None:
        self._call("pause", SetBool.Request(data=not self._paused), "Resume" if self._paused else "Pause")

    def _on_reset(self) -> None:
        count = len(self._link.held.keys)
        modal = self._client.gui.add_modal(f"Forget {count} keyframes?")
        with modal:
            self._client.gui.add_html("<p>They are gone for good, unless the scene was saved.</p>")
            forget = self._client.gui.add_button("Forget them", color="red")
            keep = self._client.gui.add_button("Keep them")

        def on_forget(_: Any) -> None:
            modal.close()
            self._call("reset", Trigger.Request(), "Reset")

        forget.on_click(on_forget)
        keep.on_click(lambda _: modal.close())

    def _call(self, service: str, request: Any, what: str) -> None:
        def done(answer: Any, error: str) -> None:
            if answer is None:
                self._tell(f"{what} failed", error, False)
            elif not answer.success:
                self._tell(f"{what} failed", answer.message, False)
            else:
                self._tell(f"{what}: done", answer.message, True)

        self._link.call(service, request, done, SLOW)
