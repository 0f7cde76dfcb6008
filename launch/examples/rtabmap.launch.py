"""RTAB-Map on an RGB-D camera that runs already, and the node in RTAB-Map's map.

ros2 launch elvsm rtabmap.launch.py     (needs rtabmap_launch)

The defaults are a RealSense with align_depth.enable:=true.
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, SetEnvironmentVariable
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

ARGUMENTS = {
    "image": ("/camera/camera/color/image_raw", "colour images"),
    "camera_info": ("/camera/camera/color/camera_info", "their calibration"),
    "depth": ("/camera/camera/aligned_depth_to_color/image_raw", "depth in the colour camera's frame"),
    "frame_id": ("camera_link", "base of the robot, or of the camera when it is carried by hand"),
}


def generate_launch_description() -> LaunchDescription:
    slam = PathJoinSubstitution([FindPackageShare("rtabmap_launch"), "launch", "rtabmap.launch.py"])
    return LaunchDescription(
        [
            SetEnvironmentVariable("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA"),
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, (default, text) in ARGUMENTS.items()
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(slam),
                launch_arguments={
                    "rgb_topic": LaunchConfiguration("image"),
                    "camera_info_topic": LaunchConfiguration("camera_info"),
                    "depth_topic": LaunchConfiguration("depth"),
                    "frame_id": LaunchConfiguration("frame_id"),
                    "approx_sync": "false",
                    "rtabmap_viz": "false",
                }.items(),
            ),
            Node(
                package="elvsm",
                executable="elvsm_node",
                name="elvsm",
                output="screen",
                # In odom rather than map no pose ever jumps, but nothing is corrected either: docs/deployment.md.
                parameters=[{"pose_source": "tf", "world_frame": "map"}],
                remappings=[
                    ("image", LaunchConfiguration("image")),
                    ("camera_info", LaunchConfiguration("camera_info")),
                ],
            ),
        ]
    )
