"""The README's figures, written from the committed results: no figure there is typed by hand, and a test compares the two.

python -m benchmarks.readme_figures            # print
python -m benchmarks.readme_figures --write    # put it between the README's markers
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
START, END = "<!-- figures: python -m benchmarks.readme_figures --write -->", "<!-- end of figures -->"
SYSTEMS = ("popularity", "item-knn", "l2d-g", "l2d-l", "l2d-w")
COLUMNS = ("recall@10", "recall@20", "recall@50", "recall@100", "ndcg@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        readme = ROOT / "README.md"
        readme.write_text(replaced(readme.read_text(), figures()))
    else:
        print(figures())


def figures() -> str:
    """The section between the markers."""
    quickstart, encoder, amazon = (read(name) for name in ("quickstart", "encoder", "amazon_mini"))
    return "\n\n".join([_quickstart(quickstart), _encoder(encoder), _amazon(amazon)])


def read(name: str) -> dict[str, Any]:
    """A committed result: the JSON line that the benchmark printed."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def replaced(text: str, section: str) -> str:
    """The README with the section between its markers."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{section}\n\n{END}{after}"


def _quickstart(result: dict[str, Any]) -> str:
    speed, cores = result["speedup_vs_language_space"], result["host"]["cores"]
    minutes, gigabytes = result["wall_s"] / 60, result["peak_bytes"] / 1e9
    return "\n".join(
        [
            f"`make quickstart` (MovieLens-100K, rating >= 4, D3 protocol, {result['num_memory_entries']:,} memory entries, "
            f"{cores} CPU cores): {minutes:.1f} minutes, {gigabytes:.1f} GB at most. Test split, full ranking, history not masked, "
            "by item id; item-kNN and the decoders are tuned on validation:",
            "",
            _table(result["metrics"]),
            "",
            f"{speed['k']} items come **{speed['ratio']:g} times** as fast as from Hugging Face's `generate` with {speed['beam']} beams "
            "kept inside the catalogue (same model, same requests, same run), "
            f"{speed['ratio_to_tree_attention']:g} times as fast as from our own search of the same beams with tree attention, and "
            f"{speed['ratio_to_greedy']:g} times as fast as one greedy title.",
        ]
    )


def _encoder(result: dict[str, Any]) -> str:
    speedup = result["speedup"]
    return (
        f"The `sequence` format encodes samples **{speedup['last-10']:g} times** as fast as one padded prompt a sample with its last 10 "
        f"titles ({speedup['last-10-sorted']:g} times with those packed by length, {speedup['same-text']:g} times with the whole text of "
        f"the window); the states differ by at most {result['largest_state_difference']:.0e}."
    )


def _amazon(result: dict[str, Any]) -> str:
    minutes = sum(result["seconds"].values()) / 60
    return "\n".join(
        [
            f"`python -m benchmarks.amazon_mini` on {result['data']} ({result['num_parameters'] / 1e6:.1f} M parameters, "
            f"{result['num_epochs']} epochs, {minutes:.1f} minutes), validation and test:",
            "",
            _table(result["valid"], "validation"),
            "",
            _table(result["test"], "test"),
        ]
    )


def _table(metrics: dict[str, dict[str, float]], label: str = "system") -> str:
    rows = [[name, *(f"{metrics[name][column]:.4f}" for column in COLUMNS)] for name in SYSTEMS]
    lines = [[label, *COLUMNS], ["---", *("---:" for _ in COLUMNS)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
