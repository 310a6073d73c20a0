"""Jobs: each is a module docstring with its exact command, and ``main(config) -> result``. Run as ``python -m jobs.NAME``."""
