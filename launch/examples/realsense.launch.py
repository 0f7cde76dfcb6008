"""A RealSense (D4xx) with visual odometry by RTAB-Map, and the node on its colour image.

ros2 launch elvsm realsense.launch.py     (needs realsense2_camera and rtabmap_odom)

Whatever else publishes odom -> camera_link (wheels, a lidar) does as well: set visual_odometry:=false.
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

CAMERA = "/camera/camera"  # namespace and name that rs_launch.py gives


def generate_launch_description() -> LaunchDescription:
    driver = PathJoinSubstitution([FindPackageShare("realsense2_camera"), "launch", "rs_launch.py"])
    return LaunchDescription(
        [
            SetEnvironmentVariable("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA"),
            DeclareLaunchArgument(
                "visual_odometry", default_value="true", description="odometry from the camera's own images"
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(driver),
                launch_arguments={
                    "align_depth.enable": "true",
                    "enable_sync": "true",
                    "rgb_camera.color_profile": "640x480x30",
                }.items(),
            ),
            Node(
                package="rtabmap_odom",
                executable="rgbd_odometry",
                parameters=[{"frame_id": "camera_link", "odom_frame_id": "odom", "approx_sync": False}],
                remappings=[
                    ("rgb/image", CAMERA + "/color/image_raw"),
                    ("rgb/camera_info", CAMERA + "/color/camera_info"),
                    ("depth/image", CAMERA + "/aligned_depth_to_color/image_raw"),
                ],
                condition=IfCondition(LaunchConfiguration("visual_odometry")),
            ),
            Node(
                package="elvsm",
                executable="elvsm_node",
                name="elvsm",
                output="screen",
                parameters=[{"pose_source": "tf", "world_frame": "odom"}],
                remappings=[
                    ("image", CAMERA + "/color/image_raw"),
                    ("camera_info", CAMERA + "/color/camera_info"),
                ],
            ),
        ]
    )
