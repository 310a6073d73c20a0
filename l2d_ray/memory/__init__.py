"""The memory: the versioned table of (hidden state, target), and per-item statistics."""
