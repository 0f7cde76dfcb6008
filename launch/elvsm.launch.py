"""Start elvsm_node, and play a bag into it if one is named: ros2 launch elvsm elvsm.launch.py --show-args"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import Node

# name, default, description
ARGUMENTS = [
    ("model", "demo", "weights: 'demo' (bundled), or the path of a .safetensors or .pt file"),
    ("device", "auto", "PyTorch device: auto, cpu, cuda, cuda:1, ..."),
    ("image", "image", "topic of the images; with image_transport:=compressed, without its /compressed"),
    ("image_transport", "raw", "raw (sensor_msgs/Image) or compressed (sensor_msgs/CompressedImage)"),
    ("camera_info", "camera_info", "topic of the camera's calibration (sensor_msgs/CameraInfo)"),
    ("pose_source", "pose", "pose (geometry_msgs/PoseStamped) or odom (nav_msgs/Odometry)"),
    ("pose", "pose", "topic of the camera poses when pose_source is pose"),
    ("odom", "odom", "topic of the camera poses when pose_source is odom"),
    ("bag", "", "bag to play into the node, with its clock; also set use_sim_time:=true; empty for none"),
    ("use_sim_time", "false", "take time from /clock: true with a bag or a simulator"),
    ("params_file", "", "YAML file of parameters; empty for the package's config/elvsm.yaml"),
]


def generate_launch_description() -> LaunchDescription:
    value = {name: LaunchConfiguration(name) for name, _, _ in ARGUMENTS}
    default_params = os.path.join(get_package_share_directory("elvsm"), "config", "elvsm.yaml")
    params_file = PythonExpression(["'", value["params_file"], "' or '", default_params, "'"])
    node = Node(
        package="elvsm",
        executable="elvsm_node",
        name="elvsm",
        output="screen",
        parameters=[
            params_file,
            {
                "model": value["model"],
                "device": value["device"],
                "image_transport": value["image_transport"],
                "pose_source": value["pose_source"],
                "use_sim_time": value["use_sim_time"],
            },
        ],
        remappings=[
            ("image", value["image"]),
            ("image/compressed", [value["image"], "/compressed"]),
            ("camera_info", value["camera_info"]),
            ("pose", value["pose"]),
            ("odom", value["odom"]),
        ],
    )
    bag = ExecuteProcess(
        cmd=["ros2", "bag", "play", "--clock", "100", value["bag"]],
        output="screen",
        condition=IfCondition(PythonExpression(["'", value["bag"], "' != ''"])),
    )
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value=d, description=text) for name, d, text in ARGUMENTS),
            # Before any process starts: with the default transport, images of 640x480 and more vanish.
            SetEnvironmentVariable("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA"),
            node,
            bag,
        ]
    )
