"""What a client asks for, checked and put into numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import Pose
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo

from elvsm.srv import RenderViews
from elvsm_core.cameras import patched_size
from elvsm_ros import conversions
from elvsm_ros.conversions import Intrinsics
from elvsm_ros.input.pose_source import PoseError
from elvsm_ros.parameters.table import Settings
from elvsm_ros.quoting import quoted

ENCODINGS = ("rgb8", "jpeg", "png")


class RequestError(ValueError):
    """A request that cannot be served. The text says why, and what to ask for instead."""


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
    """Views to render.

    T_world_cam: [4, 4] each. camera: of the images to return. render_size: (height, width) pixels to render
    at. max_views: stored views to use at most; None: any number. detail: see `Scene.render`. depth: send depth and
    confidence as well, which only detail finds.
    """

    T_world_cam: list[NDArray[np.float64]]
    camera: Intrinsics
    render_size: tuple[int, int]
    max_views: int | None
    encoding: str = "rgb8"
    detail: bool = False
    depth: bool = False


@dataclasses.dataclass(frozen=True)
class Context:
    """What requests are understood against.

    world_frame: frame of the keyframes. camera: the newest one seen, if any. native_size: (height, width)
    and patch_size: of the model, pixels. from_frame: gives T_world_frame for a frame_id, where TF is there.
    """

    settings: Settings
    world_frame: str
    camera: Intrinsics | None
    native_size: tuple[int, int]
    patch_size: int
    from_frame: Callable[[str], NDArray[np.float64]] | None = None


def parse(
    context: Context, frame_id: str, poses: list[Pose], info: CameraInfo, width: int, height: int,
    max_views: int, encoding: str, T_world_frame: NDArray[np.float64] | None = None,
    detail: int = RenderViews.Request.DETAIL_DEFAULT, depth: bool = False,
) -> Query:  # fmt: skip
    """Check the fields of elvsm/srv/RenderViews. Raises RequestError or ConversionError.

    A camera_info with zeros in k stands for the camera that the node watches. width and height 0 stand for
    the size of camera_info, and for the model's own size if that has none either. Another size than the
    camera's is reached as the keyframes' is: by a centre crop to the aspect, and a resize. T_world_frame: what
    `frame` gave for the frame_id earlier.
    """
    settings = context.settings
    if T_world_frame is None:
        T_world_frame = frame(context, frame_id)
    encoding = encoding or "rgb8"
    if encoding not in ENCODINGS:
        raise RequestError(f"encoding {quoted(encoding)} is not one of {', '.join(ENCODINGS)}")
    if not poses:
        raise RequestError("the request holds no pose: ask for at least one")
    if len(poses) > settings.max_render_views:
        raise RequestError(
            f"{len(poses)} poses are more than max_render_views ({settings.max_render_views}): split the "
            f"request, or raise the parameter"
        )
    if conversions.is_blank(info):
        camera, given = context.camera, (0, 0)
        if camera is None:
            raise RequestError("no camera_info has arrived yet: wait for one, or fill in camera_info")
    else:
        camera = conversions.intrinsics(info)
        given = (camera.width, camera.height)
    if (width == 0) != (height == 0):
        raise RequestError(f"size {width}x{height} is half given: set both width and height, or neither")
    if not width:
        width, height = given if given != (0, 0) else (context.native_size[1], context.native_size[0])
    fitted = camera.fitted(width, height)
    detailed = _detail(settings, detail, depth)
    rendered = height, width
    if not detailed:
        rendered = render_size(fitted, context.native_size, context.patch_size, settings.render_resolution)
    # A narrow strip asks for little and renders much.
    if len(poses) * max(width * height, rendered[0] * rendered[1]) > settings.max_render_pixels:
        raise RequestError(
            f"{len(poses)} images of {width}x{height}, rendered at {rendered[1]}x{rendered[0]}, have more "
            f"pixels than max_render_pixels ({settings.max_render_pixels}): ask for fewer or smaller ones, or "
            f"raise the parameter"
        )
    return Query(
        list(T_world_frame @ conversions.poses_to_matrices(poses)),
        fitted,
        rendered,
        max_views or settings.max_views or None,
        encoding,
        detailed,
        depth,
    )


def _detail(settings: Settings, detail: int, depth: bool) -> bool:
    kind = RenderViews.Request
    if detail not in (kind.DETAIL_DEFAULT, kind.DETAIL_ON, kind.DETAIL_OFF):
        raise RequestError(f"detail {detail} is none of 0 (as the parameter says), 1 (on), 2 (off)")
    if depth and detail == kind.DETAIL_OFF:
        raise RequestError(
            "depth was asked for without detail, which finds it: leave detail at 0 or set it to 1"
        )
    return depth or detail == kind.DETAIL_ON or (detail == kind.DETAIL_DEFAULT and settings.detail == "on")


def frame(context: Context, frame_id: str) -> NDArray[np.float64]:
    """Return T_world_frame of the frame that poses are given in, now. Raises RequestError."""
    frame_id = frame_id.lstrip("/")
    if context.from_frame is not None and frame_id and frame_id != context.world_frame:
        try:
            return context.from_frame(frame_id)
        except PoseError as error:
            raise RequestError(f"poses are given in frame {quoted(frame_id)}, but {error}") from error
    check_frame(frame_id, context.world_frame)
    return np.eye(4)


def check_frame(frame_id: str, world_frame: str) -> None:
    """Raise RequestError unless poses in frame_id are poses in the world frame."""
    frame_id = frame_id.lstrip("/")
    if frame_id and frame_id != world_frame:
        raise RequestError(
            f"poses are given in frame {quoted(frame_id)}, but only the world frame "
            f"{quoted(world_frame)} is known: transform them first" if world_frame else
            f"poses are given in frame {quoted(frame_id)}, but no pose has arrived that tells the world frame: "
            f"wait, or set world_frame"
        )  # fmt: skip


def render_size(
    camera: Intrinsics, native_size: tuple[int, int], patch: int, resolution: str
) -> tuple[int, int]:
    """Return the (height, width) to render at for a camera: its own, or one with the model's own short side.

    The long side follows the aspect, as far as `patched_size` lets it. Resampled back, nothing is cut off.
    """
    if resolution == "requested":
        return camera.height, camera.width
    scale = min(native_size) / min(camera.height, camera.width)
    return patched_size((camera.height, camera.width), scale, native_size, patch)
