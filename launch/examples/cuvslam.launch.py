"""cuVSLAM (Isaac ROS Visual SLAM) on a RealSense's infrared pair, and the node on the left one of its images.

ros2 launch elvsm cuvslam.launch.py     (needs isaac_ros_visual_slam and realsense2_camera)

Isaac ROS's launch file switches the colour camera off, so the scene is grey; with a driver of your own that has it on,
remap image and camera_info to it.
"""

from launch.actions import IncludeLaunchDescription, SetEnvironmentVariable
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

CAMERA = "/camera"  # name that Isaac ROS's launch file gives, in no namespace


def generate_launch_description() -> LaunchDescription:
    slam = PathJoinSubstitution(
        [FindPackageShare("isaac_ros_visual_slam"), "launch", "isaac_ros_visual_slam_realsense.launch.py"]
    )
    return LaunchDescription(
        [
            SetEnvironmentVariable("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA"),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(slam)),
            Node(
                package="elvsm",
                executable="elvsm_node",
                name="elvsm",
                output="screen",
                # It publishes map -> odom -> camera_link; the infrared images have no distortion left.
                parameters=[{"pose_source": "tf", "world_frame": "map", "images_rectified": True}],
                remappings=[
                    ("image", CAMERA + "/infra1/image_rect_raw"),
                    ("camera_info", CAMERA + "/infra1/camera_info"),
                ],
            ),
        ]
    )
