"""The ROS 2 node of elvsm and what it is made of."""
