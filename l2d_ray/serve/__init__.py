"""The method as an HTTP service: messages, logic and API know no Ray; ``on_ray`` places them on a cluster."""
