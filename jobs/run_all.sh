#!/usr/bin/env bash
# The whole line, one job a stage. Each job also runs on a cluster:
#   ray job submit --working-dir . -- python -m jobs.train --config FILE run_dir=/mnt/runs/one
# with a run_dir that every node sees. `python -m jobs.quickstart --config FILE` runs the same stages and reuses finished ones.
#
#   jobs/run_all.sh [CONFIG] [key=value ...]
set -euo pipefail
cd "$(dirname "$0")/.."
config="${1:-jobs/configs/quickstart.yaml}"
overrides=("${@:2}")
python="${PYTHON:-.venv/bin/python}"

job() { "$python" -m "jobs.$1" --config "$config" "${overrides[@]}"; }

job prepare_data    # raw interactions -> RUN_DIR/data: catalogue, user sequences with their splits, data card
job train           # user sequences -> RUN_DIR/checkpoint: a plain Hugging Face folder and l2d.json
job build_memory    # training samples -> RUN_DIR/memory: hidden states and targets, one version a commit
job build_index     # the memory's newest version -> RUN_DIR/index: extended from an older version's, or built; one task a shard
job tune_decoder    # validation -> RUN_DIR/memory/decoder.json: which decoder answers, and with what settings
job evaluate        # test -> RUN_DIR/evaluation/test.json: every decoder beside popularity and item-kNN
job measure_speed   # the same requests, decoded in latent and in language space -> RUN_DIR/evaluation/speed.json
job report          # all of it -> RUN_DIR/report.html, RUN_DIR/metrics.json
