"""Model, scene and device as the worker's thread uses them."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

import elvsm_core as ec
from elvsm_ros import conversions
from elvsm_ros.conversions import Intrinsics
from elvsm_ros.corrections import Corrected, Correction
from elvsm_ros.feed import Colour
from elvsm_ros.intake import Candidate
from elvsm_ros.keyframe_topics import mean_colour
from elvsm_ros.parameters import Settings
from elvsm_ros.requests import Query, RequestError
from elvsm_ros.stats import Window


@dataclasses.dataclass(frozen=True, eq=False)
class Inserted:
    """A new keyframe: its id, the ids that went for it, T_world_cam of it, the mean colour of its image."""

    view: int
    evicted: list[int]
    T_world_cam: NDArray[np.float64]
    colour: Colour


@dataclasses.dataclass(frozen=True, eq=False)
class Rendered:
    """An answer: uint8 RGB [H, W, 3] each or, for a compressed encoding, messages; support; views used."""

    images: list[NDArray[np.uint8]]
    compressed: list[CompressedImage]
    support: NDArray[np.float32]
    views: list[int]


class Engine:
    """Load a model, own a scene. Every method runs on one thread; `insert_ms` may be read from others.

    Raises ValueError (elvsm_core's errors) for a model, device or size that cannot be.
    """

    def __init__(self, settings: Settings):
        self.model = ec.load_model(settings.model, device=settings.device, dtype=settings.dtype)
        self.scene = ec.Scene(
            self.model,
            capacity=settings.capacity,
            image_size=(settings.image_size[0], settings.image_size[1]) if settings.image_size[0] else None,
            max_keyframes=settings.max_keyframes,
        )
        self.native_size: tuple[int, int] = self.scene.image_size
        self.patch_size: int = self.model.config.patch_size
        self.device = str(self.model.device)
        self.insert_ms = Window()
        self._warm_up()

    def _warm_up(self) -> None:
        """Run both halves once, so that the first keyframe does not wait for kernels to be chosen."""
        height, width = self.native_size
        camera = ec.Camera(width, width, width / 2, height / 2, width, height, np.eye(4))
        self.scene.insert(np.zeros((height, width, 3), np.uint8), camera)
        self.scene.render([camera])
        self.scene.clear()

    def insert(self, candidate: Candidate) -> Inserted:
        """Decode an image and make it a keyframe. Raises ValueError for a bad one and leaves the scene."""
        start = time.perf_counter()
        rgb = candidate.picture()
        before = set(self.scene.views)
        view = self.scene.insert(
            rgb, _camera(candidate.camera, candidate.T_world_cam), stamp=candidate.stamp / 1e9
        )
        evicted = sorted(before.difference(self.scene.views))
        self.insert_ms.add((time.perf_counter() - start) * 1e3)
        return Inserted(view, evicted, candidate.T_world_cam, mean_colour(rgb))

    def correct(self, correction: Correction) -> Corrected:
        """Move keyframes after a loop closure; those that are not there are passed over.

        One motion of all moves the scene's frame and encodes nothing; else the moved ones are encoded again
        when a render needs them. Raises ValueError for a pose that is none and leaves the scene.
        """
        if correction.T_new_old is not None:
            poses = correction.T_new_old @ self.scene.poses
            moved, unknown = dict(zip(self.scene.views, poses, strict=True)), []
        else:
            known = set(self.scene.views)
            moved = {view: T for view, T in correction.poses.items() if view in known}
            unknown = sorted(correction.poses.keys() - known)
        self.scene.update_poses(moved)
        return Corrected(moved, unknown)

    def render(self, query: Query, quality: int, header: Header) -> Rendered:
        """Answer a query. Raises RequestError before the first keyframe."""
        if not len(self.scene):
            raise RequestError(
                "there is no keyframe yet: wait until images with poses have arrived (see ~/status)"
            )
        wanted = query.camera
        height, width = query.render_size
        camera = wanted.stretched(width, height)
        rendering = self.scene.render(
            [_camera(camera, T) for T in query.T_world_cam], max_views=query.max_views
        )
        images = [conversions.resize(image, wanted.width, wanted.height) for image in rendering.images]
        compressed = []
        if query.encoding != "rgb8":
            compressed = [conversions.rgb_to_compressed(i, header, query.encoding, quality) for i in images]
            images = []
        return Rendered(images, compressed, rendering.support, rendering.views)

    def clear(self) -> int:
        """Forget all keyframes, and return how many they were."""
        count = len(self.scene)
        self.scene.clear()
        return count


def _camera(camera: Intrinsics, T_world_cam: NDArray[np.float64]) -> ec.Camera:
    return ec.Camera(camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height, T_world_cam)
