"""The two providers behind `elvsm_ros.conversions`: packages of a ROS installation, and packages from PyPI.

Only `conversions` imports them.
"""
