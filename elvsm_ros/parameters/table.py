"""The node's parameters: one table, from which the declarations, the YAML file (yaml_file.py) and the
documentation (page.py) are made.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from elvsm_ros.parameters.row import ParameterError, ParameterRow, parameter, perhaps


@dataclasses.dataclass(frozen=True)
class Settings:
    """The values of all parameters. The fields are the table; units are in the descriptions."""

    # Model and scene
    model: str = parameter(
        "demo",
        "Weights: 'demo' (bundled), 'efficient-lvsm-256' and others of the authors' (downloaded the first time), or "
        "the path of a .safetensors or .pt file.",
    )
    device: str = parameter(
        "auto", "PyTorch device such as 'cpu' or 'cuda:0'; 'auto': a GPU if there is one."
    )
    dtype: str = parameter(
        "auto", "Number format of the model; 'auto' is bfloat16 on a GPU and float32 elsewhere.",
        choices=("auto", "float32", "bfloat16"),
    )  # fmt: skip
    capacity: int = parameter(
        0, "Encoded views that the device holds, allocated when the node is configured. 0: 64, and on a GPU as many "
        "more, up to 256, as a quarter of its free memory holds.",
        low=0, high=4096,
    )  # fmt: skip
    max_keyframes: int = parameter(
        1000,
        "Keyframes kept in host memory; beyond it the most redundant one is forgotten.",
        low=1,
        high=20_000,
    )
    image_size: tuple[int, ...] = parameter(
        (0, 0), "Height and width in pixels that keyframes are cropped and resized to; [0, 0]: what the "
        "model was trained at.", low=0, high=4096,
    )  # fmt: skip
    max_views: int = parameter(
        4, "Stored views that a render uses at most, the best for its poses (for every eight of a request); "
        "0: all that fit on the device.",
        low=0, high=4096, live=True,
    )  # fmt: skip

    # Input
    world_frame: str = parameter(
        "",
        "Frame that the poses are given in, such as 'map'; empty: the frame_id of the first pose that "
        "arrives. TF needs it.",
    )
    pose_source: str = parameter(
        "pose",
        "Where poses come from: topic 'pose' (geometry_msgs/PoseStamped, or PoseWithCovarianceStamped with "
        "'pose_with_covariance'), topic 'odom' (nav_msgs/Odometry), or TF at the images' stamps (needs "
        "tf2_ros).",
        choices=("pose", "odom", "pose_with_covariance", "tf"),
    )
    extrinsics: str = parameter(
        "parameter",
        "How the camera is found on the body whose poses arrive: by body_to_camera alone, or by TF from "
        "body_frame to the camera's frame (needs tf2_ros), with body_to_camera behind it.",
        choices=("parameter", "tf"),
    )
    body_frame: str = parameter(
        "",
        "With extrinsics 'tf': frame whose poses arrive, such as 'base_link'; empty: the child_frame_id of the "
        "odometry.",
    )
    camera_frames: tuple[str, ...] = parameter(
        ("",),
        "With pose_source or extrinsics 'tf': frame of each camera; empty: the frame_id of its first image.",
        repeats=True,
    )
    body_to_camera: tuple[float, ...] = parameter(
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        "Pose of the camera's optical frame (x right, y down, z forward) in the frame whose poses arrive: "
        "x, y, z in metres and a quaternion x, y, z, w. The default says that the poses are the optical "
        "frame's own. With several cameras, 7 numbers for each, or 7 for all.",
        low=-1000.0, high=1000.0, repeats=True,
    )  # fmt: skip
    tf_requests: bool = parameter(
        True,
        "Listen to TF where tf2_ros is installed, so that renders can be asked for in any frame that it knows.",
    )
    image_topics: tuple[str, ...] = parameter(
        ("image",),
        "Topics of images, one for each camera that looks at the scene; with image_transport 'compressed' they "
        "get /compressed at the end.",
        repeats=True,
    )
    camera_info_topics: tuple[str, ...] = parameter(
        ("camera_info",), "Topics of the cameras' calibrations, in the order of image_topics.", repeats=True
    )
    image_transport: str = parameter(
        "raw", "Images are sensor_msgs/Image ('raw') or sensor_msgs/CompressedImage ('compressed').",
        choices=("raw", "compressed"),
    )  # fmt: skip
    images_rectified: bool = parameter(
        False,
        "The images have no lens distortion any more (image_rect of image_proc): take the intrinsics from p of "
        "camera_info and leave d alone. Otherwise images are rectified here, by k and d.",
    )
    pose_buffer: float = parameter(10.0, "Seconds of poses that are kept.", low=0.1, high=600.0)
    pose_gap: float = parameter(
        0.5,
        "Seconds between two poses beyond which no pose is interpolated.",
        low=0.001,
        high=60.0,
        live=True,
    )
    sync_timeout: float = parameter(
        1.0, "Seconds that an image waits for its pose.", low=0.01, high=60.0, live=True
    )
    sync_queue: int = parameter(30, "Images that wait for their pose at most.", low=1, high=1000, live=True)
    insert_queue: int = parameter(
        16,
        "Keyframes that wait for the device at most; beyond it the oldest is given up. As many images may wait "
        "until it is known what became of the keyframe before them.",
        low=1, high=1000, live=True,
    )  # fmt: skip
    on_time_jump: str = parameter(
        "reset",
        "What to do when the clock is set back (three images or poses in a row, each over a second older than "
        "those before them: a bag that loops, a simulation started anew): 'reset' forgets the scene, 'continue' "
        "keeps it and goes on with the new poses, which must be of the same map.",
        choices=("reset", "continue"), live=True,
    )  # fmt: skip

    # Keyframes
    keyframe_distance: float = parameter(
        0.2,
        "Metres from the nearest keyframe that make an image a new one.",
        low=0.001,
        high=1000.0,
        live=True,
    )
    keyframe_angle: float = parameter(
        15.0,
        "Degrees from the nearest keyframe that make an image a new one.",
        low=0.1,
        high=180.0,
        live=True,
    )
    keyframe_max_rate: float = parameter(
        10.0,
        "Keyframes of one camera per second at most, by the images' stamps; 0: any number.",
        low=0.0,
        high=1000.0,
        live=True,
    )
    max_blur: float = parameter(
        1.0,
        "Blur of a keyframe at most, from 0 (sharp) to 1 (flat); sharp images have 0.25 to 0.6, but that depends "
        "on what they show. 1: any.",
        low=0.0, high=1.0, live=True,
    )  # fmt: skip
    max_clipped: float = parameter(
        1.0, "Share of a keyframe's pixels that may be black or burnt out, from 0 to 1. 1: any.",
        low=0.0, high=1.0, live=True,
    )  # fmt: skip

    # Renders
    render_resolution: str = parameter(
        "native", "'native': render with the model's own short side and resample to the size asked for; "
        "'requested': render at that size, which a small model is bad at when it is far from what it was "
        "trained at.",
        choices=("native", "requested"), live=True,
    )  # fmt: skip
    detail: str = parameter(
        "off", "'on': renders show the keyframes' own pixels where their geometry agrees, and the network's picture "
        "elsewhere, at any size up to the camera's; a request can ask for either. Sharper, and takes about a second "
        "for a picture of 256x256 on two CPU cores.",
        choices=("off", "on"), live=True,
    )  # fmt: skip
    detail_size: int = parameter(
        640, "Longer side in pixels of the pictures that keyframes keep for renders with detail, in host memory: 0.9 "
        "MB for 640x480. 0: none, and detail is no finer than image_size.",
        low=0, high=4096,
    )  # fmt: skip
    rendered_size: tuple[int, ...] = parameter(
        (0, 0),
        "Height and width in pixels of ~/rendered/image; [0, 0]: the model's own.",
        low=0,
        high=8192,
        live=True,
    )
    rendered_frame: str = parameter(
        "elvsm_rendered", "frame_id of rendered images, the optical frame of the camera asked for.", live=True
    )
    jpeg_quality: int = parameter(90, "Quality of JPEG answers.", low=1, high=100, live=True)
    max_render_views: int = parameter(64, "Poses that one request may hold.", low=1, high=10_000, live=True)
    max_trajectory_poses: int = parameter(
        10_000, "Poses that one goal of ~/render_trajectory may hold.", low=1, high=1_000_000, live=True
    )
    max_render_pixels: int = parameter(
        4_194_304, "Pixels that the images of one request may have altogether.", low=1, high=2**31, live=True
    )
    render_queue: int = parameter(
        256, "Requests that wait for the device at most.", low=1, high=10_000, live=True
    )

    # Operation
    scene_directory: str = parameter(
        "",
        "Folder of the files of ~/save_scene and ~/load_scene, which nothing else is read from or written to; empty: "
        "elvsm/scenes below $XDG_STATE_HOME, or below ~/.local/state. Made when it is needed. Only whoever starts the "
        "node sets it: over the network it is read-only.",
        at_start=True,
    )
    status_period: float = parameter(
        1.0, "Seconds between two messages on ~/status when nothing changes.", low=0.1, high=3600.0, live=True
    )
    diagnostics_period: float = parameter(
        1.0, "Seconds between two messages on /diagnostics; 0: none.", low=0.0, high=3600.0, live=True
    )
    latency_warning: float = parameter(
        2000.0,
        "Milliseconds of a render request (99th percentile, waiting included) above which /diagnostics warns; 0: "
        "never.",
        low=0.0, high=3_600_000.0, live=True,
    )  # fmt: skip
    silence_warning: float = parameter(
        5.0,
        "Seconds without images, camera_info or poses, while active, after which a warning says what is known "
        "about the cause; 0: never.",
        low=0.0, high=3600.0, live=True,
    )  # fmt: skip
    log_period: float = parameter(
        5.0, "Seconds between two log lines that say the same.", low=0.0, high=3600.0, live=True
    )
    autostart: bool = parameter(
        True, "Configure and activate at start; otherwise wait for the lifecycle services."
    )

    def __post_init__(self) -> None:
        for row in table():
            row.check(getattr(self, row.name))
        self._check_cameras()
        if self.pose_source == "tf" and not self.world_frame:
            raise ParameterError(
                "pose_source 'tf' needs world_frame, the fixed frame of the map: 'map' or 'odom', usually"
            )
        for name in ("image_size", "rendered_size"):
            if (getattr(self, name)[0] == 0) != (getattr(self, name)[1] == 0):
                raise ParameterError(f"{name} needs both height and width, or [0, 0]")

    def _check_cameras(self) -> None:
        for start in range(0, len(self.body_to_camera), 7):
            quaternion = self.body_to_camera[start + 3 : start + 7]
            if abs(math.hypot(*quaternion) - 1) > 1e-2:
                raise ParameterError(
                    f"body_to_camera must end in a unit quaternion x, y, z, w, got {list(quaternion)}: "
                    f"[0, 0, 0, 1] for no rotation"
                )
        count = len(self.image_topics)
        if not all(self.image_topics) or len(set(self.image_topics)) != count:
            raise ParameterError(
                f"image_topics must be names that differ from each other, got {list(self.image_topics)}"
            )
        if len(self.camera_info_topics) != count or not all(self.camera_info_topics):
            raise ParameterError(
                f"camera_info_topics must hold one name for each of the {count} image_topics, got "
                f"{list(self.camera_info_topics)}"
            )
        if len(self.body_to_camera) not in (7, 7 * count):
            raise ParameterError(
                f"body_to_camera must hold 7 numbers, or {7 * count} for {count} cameras, got "
                f"{len(self.body_to_camera)}"
            )
        if len(self.camera_frames) != count and any(self.camera_frames):
            raise ParameterError(
                f"camera_frames must hold one name for each of the {count} image_topics, got "
                f"{list(self.camera_frames)}: leave it empty to go by the images' frame_id"
            )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Settings:
        """Make settings of a mapping; what it leaves out keeps its default. Raises ParameterError."""
        return cls().replaced(values)

    def replaced(self, values: Mapping[str, Any]) -> Settings:
        """Return settings with some values changed. Raises ParameterError for unknown names, bad values."""
        known = {row.name: row for row in table()}
        for name in values:
            if name not in known:
                raise ParameterError(f"there is no parameter {name!r}{perhaps(name, known)}")
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(known[k].default, tuple) else v for k, v in values.items()
        }
        return dataclasses.replace(self, **plain)


def table() -> tuple[ParameterRow, ...]:
    """Return all parameters in the order of the file."""
    return tuple(ParameterRow(f.name, f.default, **f.metadata) for f in dataclasses.fields(Settings))  # type: ignore[arg-type]


def declare(node: Any) -> Settings:
    """Declare all parameters on a node and return their values.

    Raises ParameterError for bad values, and for an override that looks like a mistyped parameter.
    """
    check_names(getattr(node, "_parameter_overrides", {}))
    for row in table():
        node.declare_parameter(
            row.name, list(row.default) if isinstance(row.default, tuple) else row.default, row.descriptor()
        )
    return read(node)


def read(node: Any) -> Settings:
    """Return the values that a node's parameters have now. Raises ParameterError."""
    return Settings.from_values({row.name: node.get_parameter(row.name).value for row in table()})


def check_names(names: Iterable[str]) -> None:
    """Raise ParameterError for a name that is nearly that of a parameter.

    Other unknown names pass: a file may hold parameters that are meant for every node.
    """
    known = [row.name for row in table()]
    for name in names:
        near = perhaps(name, known, cutoff=0.8)
        if near and name not in known:
            raise ParameterError(f"there is no parameter {name!r}{near}")


def refuse_frozen(names: Iterable[str]) -> None:
    """Raise ParameterError for parameters that cannot change once the node is configured."""
    live = {row.name for row in table() if row.live}
    for name in names:
        if name not in live:
            raise ParameterError(
                f"{name} is read when the node is configured: clean the node up (lifecycle), set it, "
                f"configure again"
            )
