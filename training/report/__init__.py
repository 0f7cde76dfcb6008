"""What reports are made of: pages without external resources, charts, videos. Used by evaluations and by elvsm_ros."""
