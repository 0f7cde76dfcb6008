"""From scenes to training samples: which frames, which of them are inputs, in which coordinate frame.

Start at `sources`, which the training loop draws from, then `recipe`.
"""
