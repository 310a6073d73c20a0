# syntax=docker/dockerfile:1
# One image for every part: Ray's head, its workers, and the jobs.
#
#   docker build -t l2d_ray .                                   on GPUs: PyPI's torch brings CUDA, the node the driver
#   docker build -t l2d_ray --build-arg EXTRA=cpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
#   docker run --rm --network host -v "$PWD/runs:/app/runs" l2d_ray
#
# Runs as a user without rights; wget is what KubeRay's probes call. ``--network host``, since the service binds to the loopback interface.

FROM python:3.11-slim-bookworm AS build
ARG EXTRA=gpu
ARG TORCH_INDEX=https://pypi.org/simple
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /build
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN pip install --constraint constraints.txt --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch
COPY l2d_ray l2d_ray
RUN pip install --constraint constraints.txt ".[$EXTRA,postgres]"

FROM python:3.11-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 procps wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
WORKDIR /app
COPY --chown=ray:ray jobs jobs
COPY --chown=ray:ray serve_configs serve_configs
USER 1000
EXPOSE 8000
CMD ["python", "-m", "jobs.serve", "--config", "jobs/configs/quickstart.yaml"]
