"""Every system on one protocol: rows, cost, slices, memory sweep and living memory of one data set. See ``__main__``."""
