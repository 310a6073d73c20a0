"""Interactions to samples: sources, cleaning, k-core, splits, the data card."""
