"""What to read: arrays by chunks, the order of their rows, and the stores they live in."""
