"""ORB-SLAM3 on one camera, and the node on the same images.

ros2 launch elvsm orb_slam3.launch.py voc_file:=ORBvoc.txt settings_file:=camera.yaml image:=/camera/image_raw

Needs orb_slam3_ros_wrapper (github.com/spagnoloG/orb_slam3_ros2_wrapper), a community wrapper: ORB-SLAM3 has no
official one for ROS 2. Poses are taken from its TF and not from its topic orb_slam3/camera_pose, whose position is in
other axes (north, east, down) than its orientation.
"""

from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

ARGUMENTS = {
    "voc_file": ("ORBvoc.txt", "vocabulary of ORB-SLAM3"),
    "settings_file": ("camera.yaml", "calibration and settings of ORB-SLAM3: must agree with camera_info"),
    "image": ("/camera/image_raw", "images"),
    "camera_info": ("/camera/camera_info", "calibration of the same camera, for the node"),
}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            SetEnvironmentVariable("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA"),
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, (default, text) in ARGUMENTS.items()
            ),
            Node(
                package="orb_slam3_ros_wrapper",
                executable="orb_slam3_ros_wrapper_mono",
                name="orb_slam3_mono",
                output="screen",
                parameters=[
                    {
                        "voc_file": LaunchConfiguration("voc_file"),
                        "settings_file": LaunchConfiguration("settings_file"),
                        "world_frame_id": "world",
                        "cam_frame_id": "camera",
                        "enable_pangolin": False,
                    }
                ],
                remappings=[("/camera/image_raw", LaunchConfiguration("image"))],
            ),
            Node(
                package="elvsm",
                executable="elvsm_node",
                name="elvsm",
                output="screen",
                # ORB-SLAM3's camera frame has the axes of an optical frame.
                parameters=[{"pose_source": "tf", "world_frame": "world", "camera_frames": ["camera"]}],
                remappings=[
                    ("image", LaunchConfiguration("image")),
                    ("camera_info", LaunchConfiguration("camera_info")),
                ],
            ),
        ]
    )
