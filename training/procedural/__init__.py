"""Drawn indoor scenes: rooms, furniture, textures, camera walks, and the ray caster that renders them with exact depth.

From outside, `scenes` (batches and walks) and `pool` (for the trainer) are used. Start at `scenes`.
"""
