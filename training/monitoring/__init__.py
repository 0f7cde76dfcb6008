"""What a training run shows of itself: figures and pictures, on TensorBoard and in files. Start at `monitor`."""
