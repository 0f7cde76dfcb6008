"""From candidates to keyframes in the scene, and what is published about them.

The queue in front of the device, corrections of poses, the keyframe topics, scenes in files. Start at `keyframe_queue`.
"""
