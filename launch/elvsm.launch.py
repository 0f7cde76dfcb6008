"""Start elvsm_node, and play a bag into it if one is named.

ros2 launch elvsm elvsm.launch.py --show-args
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription

PARAMETERS = {
    "model": "weights: 'demo' (bundled), a name such as 'efficient-lvsm-256', or a .safetensors or .pt file",
    "device": "PyTorch device: auto, cpu, cuda, cuda:1, ...",
    "image_transport": "raw (sensor_msgs/Image) or compressed (sensor_msgs/CompressedImage)",
    "pose_source": "pose (PoseStamped), pose_with_covariance, odom (Odometry) or tf (needs world_frame, a parameter)",
}
"""Arguments that become parameters, unless they are left empty: then params_file decides."""
TOPICS = {
    "image": "images; with image_transport:=compressed, the name without /compressed",
    "camera_info": "calibration of the camera (sensor_msgs/CameraInfo)",
    "pose": "poses of the camera when pose_source is pose or pose_with_covariance",
    "odom": "poses of the camera when pose_source is odom",
}
"""Arguments that rename the topics that the node reads."""


def start(context: LaunchContext) -> list:
    """Return what to run, now that the arguments are known."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    overrides = {name: value(name) for name in PARAMETERS if value(name)}
    overrides["use_sim_time"] = value("use_sim_time").lower() in ("true", "1", "yes")
    remappings = [(name, value(name)) for name in TOPICS]
    remappings.append(("image/compressed", value("image") + "/compressed"))
    node = Node(
        package="elvsm",
        executable="elvsm_node",
        name="elvsm",
        output="screen",
        parameters=[value("params_file"), overrides],
        remappings=remappings,
    )
    if not value("bag"):
        return [node]
    return [
        node,
        ExecuteProcess(cmd=["ros2", "bag", "play", "--clock", "100", value("bag")], output="screen"),
    ]


def generate_launch_description() -> LaunchDescription:
    params_file = os.path.join(get_package_share_directory("elvsm"), "config", "elvsm.yaml")
    arguments = [
        *((name, "", text + "; empty: as params_file says") for name, text in PARAMETERS.items()),
        *((name, name, "topic: " + text) for name, text in TOPICS.items()),
        ("bag", "", "bag to play into the node, with its clock (then set use_sim_time:=true); empty: none"),
        ("use_sim_time", "false", "take time from /clock: true with a bag or a simulator"),
        ("params_file", params_file, "YAML file of parameters"),
    ]
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value=d, description=text) for name, d, text in arguments),
            # Before any process starts: with the default transport, images of 640x480 and more vanish.
            SetEnvironmentVariable("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA"),
            OpaqueFunction(function=start),
        ]
    )
