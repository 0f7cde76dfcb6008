"""Scenes in files: names that lead nowhere else, writing while the node serves on, loading all or nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elvsm.srv import LoadScene, SaveScene
from elvsm_ros import conversions
from elvsm_ros.conversions import Intrinsics
from elvsm_ros.input.image_intake import Intake
from elvsm_ros.keyframes.inserted import mean_colour
from elvsm_ros.keyframes.keyframe_queue import KeyframeFeed, Loaded, Wait
from elvsm_ros.monitoring.fault_log import Reports
from elvsm_ros.parameters.table import Settings
from elvsm_ros.quoting import quoted
from elvsm_ros.worker import StoppedError, Worker

if TYPE_CHECKING:
    from elvsm_core.files.persistence import StoredScene
    from elvsm_ros.device_scene import DeviceScene

SUFFIX = ".safetensors"
LATEST = (2**31 - 1) * 1_000_000_000
"""Nanoseconds: the last stamp that a message can hold."""
LONGEST_TEXT = 255
"""Characters of a name in a scene file."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class SceneNameError(ValueError):
    """A name that is not that of a scene file, or a scene that does not belong here."""


def default_directory() -> Path:
    """Return where scenes are kept when nothing else is said: below $XDG_STATE_HOME, or ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME", "")
    root = Path(state) if os.path.isabs(state) else Path("~/.local/state").expanduser()
    return root / "elvsm" / "scenes"


def resolve(directory: str, name: str) -> Path:
    """Return the file that a name means inside the directory ("": the default one), which is made if need be.

    Raises SceneNameError for names of anything else: folders, other places, links out of the directory.
    """
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        raise SceneNameError(
            f"scene name {quoted(name)} is not a plain file name: scenes are in one folder (scene_directory), and "
            f"neither absolute paths nor '..' lead out of it"
        )
    if not NAME.fullmatch(name):
        raise SceneNameError(
            f"scene name {quoted(name)} is not made of letters, digits, '.', '_' and '-' with a letter or digit first, "
            f"100 at most: choose another one"
        )
    root = Path(directory).expanduser() if directory else default_directory()
    try:
        # Images of somebody's home: nobody else's business.
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        there = next((p for p in (root, *root.parents) if p.exists() and not p.is_dir()), None)
        what = f"{there} is a file" if there is not None else str(error)
        raise SceneNameError(
            f"scene_directory {root} cannot be made ({what}): set it to a folder, or move that away"
        ) from error
    root = root.resolve()
    path = root / (name if name.endswith(SUFFIX) else name + SUFFIX)
    try:
        leads_out = path.is_symlink() and path.resolve().parent != root
    except (OSError, RuntimeError) as error:  # a loop
        raise SceneNameError(f"scene {quoted(name)} is a link that leads to itself: remove it") from error
    if leads_out:
        raise SceneNameError(
            f"scene {quoted(name)} is a link that leads out of {root}: remove it, or copy the file"
        )
    return path


def model_of(engine: DeviceScene, name: str) -> dict[str, str]:
    """Return what tells models apart: the name that the weights were loaded by, and a fingerprint of them."""
    import torch

    model = engine.model
    digest = hashlib.sha256(model.config.to_json().encode())
    for key, tensor in model.state_dict().items():
        # In bfloat16, so that weights have one fingerprint in whatever format they are used.
        head = tensor.detach().flatten()[:256].to("cpu", torch.bfloat16)
        digest.update(key.encode() + head.view(torch.int16).numpy().tobytes())
    return {"name": name, "id": digest.hexdigest()[:12]}


class SceneFiles:
    """Answer ~/save_scene and ~/load_scene.

    The file is written and read by a thread of its own, one after the other; the device is needed for a moment only.
    model: what the file says about the model, to be compared when it is loaded. Everything but the work on files
    runs on the executor's thread.
    """

    def __init__(
        self,
        worker: Worker[DeviceScene],
        feed: KeyframeFeed,
        intake: Intake,
        reports: Reports,
        settings: Callable[[], Settings],
        model: Mapping[str, str],
    ):
        self._worker, self._feed, self._intake, self._reports = worker, feed, intake, reports
        self._settings, self._model = settings, dict(model)
        self._files = ThreadPoolExecutor(1, "elvsm-files")

    def close(self) -> None:
        """Begin nothing more. A file that is being written is finished."""
        self._files.shutdown(wait=False, cancel_futures=True)

    def _submit(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        try:
            return self._files.submit(work, *args)
        except RuntimeError as error:  # closed while the request waited for the device
            raise StoppedError(str(error)) from error

    async def save(
        self, request: SaveScene.Request, response: SaveScene.Response, wait: Wait
    ) -> SaveScene.Response:
        """Fill in the response when the scene is on the disk."""
        try:
            path = resolve(self._settings().scene_directory, request.name)
            scene = await wait(self._worker.call(lambda engine: engine.scene.snapshot()))
            if not scene.views:
                raise SceneNameError("there is no keyframe yet, so there is nothing to save: see ~/status")
            extra = self._extra(scene)
            await wait(self._submit(_write, path, dataclasses.replace(scene, extra=extra)))
        except Exception as error:
            response.message = self._reports.answer("scene_file", "saving the scene failed", error)
            return response
        response.success, response.keyframes, response.path = True, len(scene.views), str(path)
        response.message = f"{len(scene.views)} keyframes written to {path}"
        return response

    async def load(
        self, request: LoadScene.Request, response: LoadScene.Response, wait: Wait
    ) -> LoadScene.Response:
        """Fill in the response when the file's scene has taken the place of the present one, or why not."""
        try:
            path = resolve(self._settings().scene_directory, request.name)
            scene = await wait(self._worker.call(lambda engine: engine.scene))
            stored, loaded = await wait(self._submit(_read, path, scene))
            await self._take(stored, loaded, wait)
        except Exception as error:
            response.message = self._reports.answer("scene_file", "loading the scene failed", error)
            return response
        if self._intake.camera is None:
            camera = list(stored.views.values())[-1].camera
            self._intake.camera = Intrinsics(*camera.fxfycxcy, camera.width, camera.height)
        response.success, response.keyframes = True, len(loaded.poses)
        response.message = f"{len(loaded.poses)} keyframes loaded from {path}" + self._notes(stored, loaded)
        return response

    async def _take(self, stored: StoredScene, loaded: Loaded, wait: Wait) -> None:
        before = self._intake.world_frame
        self._intake.world_frame = self._world_frame(stored)  # it goes out with the keyframes
        try:
            await self._feed.load(loaded, wait)
        except BaseException:
            self._intake.world_frame = before
            raise

    def _extra(self, scene: StoredScene) -> dict[str, Any]:
        """Return what the node adds: exact stamps, the name of the world frame, settings and model."""
        stamps = [
            self._feed.stamps.get(view, round((keyframe.stamp or 0.0) * 1e9))
            for view, keyframe in scene.views.items()
        ]
        return {
            "world_frame": self._intake.world_frame,
            "stamps": stamps,
            "model": self._model,
            "settings": dataclasses.asdict(self._settings()),
        }

    def _world_frame(self, stored: StoredScene) -> str:
        theirs, ours = str(stored.extra.get("world_frame", "")), self._intake.world_frame
        if theirs and ours and theirs != ours:
            raise SceneNameError(
                f"the scene was recorded in the frame {quoted(theirs)}, and the world frame here is {quoted(ours)}: if "
                f"the poses are given in {quoted(theirs)}, set world_frame to it and configure the node again"
            )
        return ours or theirs

    def _notes(self, stored: StoredScene, loaded: Loaded) -> str:
        notes = ""
        if len(loaded.poses) < len(stored.views):
            notes += f"; {len(stored.views) - len(loaded.poses)} more are left out by max_keyframes"
        theirs = stored.extra.get("model", {})
        if theirs and theirs != self._model:
            notes += (
                f"; it was saved with the model {quoted(theirs.get('name'))} ({quoted(theirs.get('id'))}), and is "
                f"encoded anew with {quoted(self._model.get('name'))} ({self._model.get('id')})"
            )
        return notes


def _write(path: Path, scene: StoredScene) -> None:
    from elvsm_core.files.persistence import write_scene

    write_scene(path, scene, {})


def _check_extra(path: Path, extra: Mapping[str, Any]) -> None:
    stamps, model = extra.get("stamps", []), extra.get("model", {})
    if not (
        _plain(extra.get("world_frame", ""))
        and isinstance(model, dict)
        and all(_plain(value) for value in model.values())
        and isinstance(stamps, list)
        and all(isinstance(stamp, int) for stamp in stamps)
    ):
        raise SceneNameError(
            f"{path} says things of frame, model or stamps that no elvsm node wrote: save it anew"
        )


def _plain(text: object) -> bool:
    """Return whether a text can be a name in messages: short, of printable characters that UTF-8 has."""
    return isinstance(text, str) and len(text) <= LONGEST_TEXT and text.isprintable()


def _read(path: Path, scene: Any) -> tuple[StoredScene, Loaded]:
    """Read and check a file, and make ready what the scene and the books about it need."""
    from elvsm_core.files.scene_reading import read_scene

    stored = read_scene(path)
    if not stored.views:
        raise SceneNameError(f"{path} holds no keyframe")
    _check_extra(path, stored.extra)
    unpacked = scene.unpack(stored)
    kept = unpacked.keyframes.ids.tolist()
    poses = {
        view: conversions.matrix_to_pose(T) for view, T in zip(kept, unpacked.keyframes.poses, strict=True)
    }
    exact = stored.extra.get("stamps", [])
    if len(exact) == len(stored.views):
        stamps = {view: int(stamp) for view, stamp in zip(stored.views, exact, strict=True)}
    else:
        stamps = {view: round((k.stamp or 0.0) * 1e9) for view, k in stored.views.items()}
    stamps = {view: min(max(0, stamps[view]), LATEST) for view in kept}
    return stored, Loaded(
        unpacked, poses, stamps, {view: mean_colour(stored.views[view].image.numpy()) for view in kept}
    )
