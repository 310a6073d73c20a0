"""Evaluation: metrics, the one protocol every system is scored by, and the report."""
