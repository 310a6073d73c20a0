"""Systems to compare with: one file a system, one interface, scored by the same protocol as everything else."""
