"""A ZED with its own positional tracking, and the node on its left image.

ros2 launch elvsm zed.launch.py camera_model:=zed2i     (needs zed_wrapper)

The topics are those of zed_wrapper 5; version 4 has rgb/image_rect_color and rgb/camera_info.
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, SetEnvironmentVariable
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

CAMERA = "/zed/zed_node"  # camera_name and node name that zed_camera.launch.py gives


def generate_launch_description() -> LaunchDescription:
    driver = PathJoinSubstitution([FindPackageShare("zed_wrapper"), "launch", "zed_camera.launch.py"])
    return LaunchDescription(
        [
            SetEnvironmentVariable("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA"),
            DeclareLaunchArgument(
                "camera_model", default_value="zed2i", description="zed, zedm, zed2, zed2i, zedx, ..."
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(driver),
                launch_arguments={"camera_model": LaunchConfiguration("camera_model")}.items(),
            ),
            Node(
                package="elvsm",
                executable="elvsm_node",
                name="elvsm",
                output="screen",
                # The wrapper publishes map -> odom -> camera, and images without distortion.
                parameters=[{"pose_source": "tf", "world_frame": "map", "images_rectified": True}],
                remappings=[
                    ("image", CAMERA + "/rgb/color/rect/image"),
                    ("camera_info", CAMERA + "/rgb/color/rect/camera_info"),
                ],
            ),
        ]
    )
