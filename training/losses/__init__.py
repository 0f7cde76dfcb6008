"""The training objective: squared error, perceptual terms, and alignment with a frozen network (REPA).

The trainer uses `objective`. Start there.
"""
