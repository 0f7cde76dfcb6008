"""Play a recording into the node, with its clock, and show it in the viewer if asked for.

ros2 launch elvsm replay.launch.py bag:=PATH viewer:=true image:=/camera/image_raw ...; --show-args lists the rest.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetLaunchConfiguration,
    TimerAction,
)
from launch.event_handlers import OnProcessIO
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription

READY = b"active: watching"
"""What the node says when it listens: until then it loads its model, and would miss what is played."""
ARGUMENTS = {
    "rate": ("1.0", "speed of playing, times real time"),
    "loop": ("false", "start again at the end: the scene is forgotten then (parameter on_time_jump)"),
    "start_after": (
        "120.0",
        "seconds after which the bag is played even if the node has not said that it listens",
    ),
    "viewer": ("false", "start elvsm_viewer, too"),
    "viewer_port": ("8080", "port of the viewer's page on this machine"),
}


def start(context: LaunchContext) -> list:
    """Return what to run beside the node, now that the arguments are known."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    def true(name: str) -> bool:
        return value(name).lower() in ("true", "1", "yes")

    command = ["ros2", "bag", "play", "--clock", "100", "--rate", value("rate"), value("replayed_bag")]
    started = []

    def play() -> list:
        if started:
            return []
        started.append(ExecuteProcess(cmd=command + ["--loop"] * true("loop"), output="screen"))
        return list(started)

    def listen(event) -> list:
        return play() if READY in event.text else []

    viewer = Node(
        package="elvsm",
        executable="elvsm_viewer",
        name="elvsm_viewer",
        output="screen",
        arguments=["--port", value("viewer_port")],
        parameters=[{"use_sim_time": True}],
        remappings=[("camera_info", value("camera_info"))],
    )
    return [
        RegisterEventHandler(OnProcessIO(on_stdout=listen, on_stderr=listen)),
        TimerAction(period=float(value("start_after")), actions=[OpaqueFunction(function=lambda _: play())]),
        *([viewer] if true("viewer") else []),
    ]


def generate_launch_description() -> LaunchDescription:
    node = os.path.join(get_package_share_directory("elvsm"), "launch", "elvsm.launch.py")
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="recording to play: folder of a rosbag2, or its file"),
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, (default, text) in ARGUMENTS.items()
            ),
            # The file below has an argument of the same name, and would play the bag at once.
            SetLaunchConfiguration("replayed_bag", LaunchConfiguration("bag")),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(node),
                launch_arguments={"use_sim_time": "true", "bag": ""}.items(),
            ),
            # Afterwards: by now the arguments of that file have their values, too.
            OpaqueFunction(function=start),
        ]
    )
