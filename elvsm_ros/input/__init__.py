"""From topics to posed, rectified keyframe candidates.

The node uses `subscriptions`, which owns the topics; recordings are fed to `image_intake` directly. Start at
`image_intake`: it receives every image, pose and calibration and decides what becomes of it.
"""
