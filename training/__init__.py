"""Training and evaluation of Efficient-LVSM; nothing on a robot needs it.

Commands: python -m training.train, training.evaluate, training.data.conversion. Start at `train`, then `loop`.
"""
