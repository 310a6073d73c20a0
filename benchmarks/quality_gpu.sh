#!/usr/bin/env bash
# The quality benchmark with models that want a GPU: one command for whoever has one.
#
#   benchmarks/quality_gpu.sh data/amazon_Video_Games_2015 [RUNS_FOLDER] [key=value ...]
#
# In turn, each with the memory, the index, the tuned decoder and every row of benchmarks.quality:
#   mini                   the small model from scratch
#   smollm2-zero-shot      SmolLM2-135M as it comes (train: none): the memory alone makes it a recommender
#   smollm2-lora           adapters
#   smollm2                all weights, bf16
# A line of each goes to RUNS_FOLDER/quality-NAME.json; copy them to benchmarks/results/ and run `python -m benchmarks.quality.report`.
# Finished stages are kept, so the command can be interrupted and goes on where it was.
set -euo pipefail

folder=${1:?give a data set in the D3 protocol, such as data/amazon_Video_Games_2015}
runs=${2:-runs/quality}
shift $(($# < 2 ? $# : 2))
python=${PYTHON:-.venv/bin/python}
mkdir -p "$runs"

measure() { # NAME setting...
    local name=$1
    shift
    echo "== $name" >&2
    "$python" -m benchmarks.quality "$folder" "$@" --run-dir "$runs/$name" --grids full |
        tail -n 1 >"$runs/quality-$name.json"
}

measure mini device=auto "$@"
measure smollm2-zero-shot device=auto model.name=smollm2 train=none "$@"
measure smollm2-lora device=auto model.name=smollm2 \
    'train={num_epochs: 3, precision: bf16, item_loss_weight: 1.0, lora: {rank: 16, alpha: 32}}' "$@"
measure smollm2 device=auto model.name=smollm2 'train={num_epochs: 3, precision: bf16, item_loss_weight: 1.0}' "$@"
