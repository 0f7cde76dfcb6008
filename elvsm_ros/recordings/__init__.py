"""Recordings on disk: reading rosbag2 and ROS 1 bags, poses from their TF, writing and playing them.

No node is needed for any of it. Start at `bag_reader`.
"""
