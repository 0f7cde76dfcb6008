"""What makes the network fast on a GPU: the fused model, its Triton kernels and CUDA graphs.

`elvsm_core.engine` uses `engine_fused` for models on CUDA; the readable model imports nothing of this room. Start at
`engine_fused`, then `fused` (the network) and `ops` (what each kernel computes).
"""
