"""An OAK (Luxonis) with visual odometry by RTAB-Map, and the node on its colour image.

ros2 launch elvsm oak.launch.py     (needs depthai_ros_driver and rtabmap_odom)

In Humble and Jazzy the driver is another package: driver:=depthai_ros_driver_v3.
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, SetEnvironmentVariable
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

CAMERA = "/oak"  # name that driver.launch.py gives


def generate_launch_description() -> LaunchDescription:
    package = FindPackageShare(LaunchConfiguration("driver"))
    driver = PathJoinSubstitution([package, "launch", "driver.launch.py"])
    return LaunchDescription(
        [
            SetEnvironmentVariable("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA"),
            DeclareLaunchArgument(
                "driver", default_value="depthai_ros_driver", description="package of the driver"
            ),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(driver)),
            Node(
                package="rtabmap_odom",
                executable="rgbd_odometry",
                # The root of the camera's own frames: odometry on top of it makes one tree.
                parameters=[{"frame_id": "oak-d-base-frame", "odom_frame_id": "odom", "approx_sync": True}],
                remappings=[
                    ("rgb/image", CAMERA + "/rgb/image_raw"),
                    ("rgb/camera_info", CAMERA + "/rgb/camera_info"),
                    ("depth/image", CAMERA + "/stereo/image_raw"),
                ],
            ),
            Node(
                package="elvsm",
                executable="elvsm_node",
                name="elvsm",
                output="screen",
                # image_raw has the lens's distortion in it: the node takes it out by camera_info.
                parameters=[{"pose_source": "tf", "world_frame": "odom"}],
                remappings=[
                    ("image", CAMERA + "/rgb/image_raw"),
                    ("camera_info", CAMERA + "/rgb/camera_info"),
                ],
            ),
        ]
    )
