"""Variables that Ray Serve and Ray read when they start: its fast modes, and HAProxy's files in a folder that nobody else can enter.

They count in the process that starts Ray, before ``ray.serve`` is imported, and are inherited by everything that Ray starts; a cluster that
is joined has its own. Token authentication is not among them: a Ray that a process starts for itself has it anyway. Found in Ray 2.60's
``serve/_private/constants.py`` and ``haproxy_templates.py``:

- RAY_SERVE_THROUGHPUT_OPTIMIZED: handles speak gRPC, one event loop a replica, logs are buffered.
- RAY_SERVE_ENABLE_HA_PROXY: HAProxy in place of Serve's Python proxy. A request whose ingress replica died before answering is sent to
  another one (RAY_SERVE_HAPROXY_RETRY_ON), which is harmless, since every request of the API may be repeated. But HAProxy's
  statistics (ports 8404 and 9101) and the ingress replicas (ports 30000 to 31000) listen on every interface; the addresses cannot be set.
  So it is for machines behind a firewall or a network policy, and never for a service without authentication.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

THROUGHPUT: Final = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # no balancer in front needs the 30 s that it has at the end
}
HAPROXY: Final = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response response-timeout",
    "RAY_SERVE_HAPROXY_RETRIES": "30",  # a second apart: an only ingress replica that was killed is back before they are used up
}
HAPROXY_FILES: Final = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
}


def set_environment(*, haproxy: bool) -> None:
    """Set what is not set yet, for the Ray that this process is about to start."""
    variables = dict(THROUGHPUT)
    if haproxy:
        folder = Path(tempfile.mkdtemp(prefix="l2d-haproxy-"))  # only this user may enter; short, since sockets lie in it
        variables |= HAPROXY | {name: str(folder / file) for name, file in HAPROXY_FILES.items()}
    for name, value in variables.items():
        os.environ.setdefault(name, value)
