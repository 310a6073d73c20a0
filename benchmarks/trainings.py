"""What a change of the training is worth: one run with the settings as they are and one for each variant, on validation alone.

    python -m benchmarks.trainings FOLDER [--small] [--run-dir runs/NAME] [--variant "train.title_dropout=0.3 train.num_epochs=10"]...
        [key=value ...]

The folder is one of those that folders.py here tells. Settings in a variant stand in one word of the shell with spaces between them; each
run is tuned by itself, below RUN_DIR, where finished stages are reused. Printed lines are kept as benchmarks/results/trainings-NAME.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from benchmarks.amazon_mini import SMALL
from benchmarks.folders import folder_arguments, run_dir_of
from benchmarks.growth import measured
from benchmarks.quality.report_tables import GROWTH_SYSTEMS
from benchmarks.quality.store import rounded
from benchmarks.result import print_result, target

VARIANTS: Final = ("train.item_loss_weight=0", "train.title_dropout=0.3", "train.dropout=0.2", "train.title_dropout=0.3 train.dropout=0.2")
USUAL: Final = "as it is"


def main() -> None:
    parser = folder_arguments(__doc__)
    parser.add_argument("--variant", action="append", help="settings that differ, with spaces between them; may be given several times")
    options = parser.parse_intermixed_args()
    base = run_dir_of(options, "trainings_{}")
    overrides = [*(SMALL if options.small else []), *options.overrides]
    variants = options.variant or (VARIANTS[1:2] if options.small else VARIANTS)
    runs = [
        {"changes": changes or USUAL, **measured(options.folder, base / run_name(changes), [*overrides, *changes.split()])}
        for changes in ("", *variants)
    ]
    print_result("trainings", {"small": options.small, "data": options.folder.name, "runs": rounded(runs)}, training_targets(runs))


def run_name(changes: str) -> str:
    """Folder of a variant's run."""
    return "_".join(changes.replace("/", "-").split()) or "usual"


def training_targets(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each decoder, whether any variant recommends better than the settings as they are, which stand first."""
    found = {}
    for system in GROWTH_SYSTEMS:
        usual, *others = (run["valid"][system]["recall@10"] for run in runs)
        found[f"recall@10 of {system}, best variant over the settings as they are"] = target(round(max(others) / max(usual, 1e-9), 3), 1)
    return found


if __name__ == "__main__":
    main()
