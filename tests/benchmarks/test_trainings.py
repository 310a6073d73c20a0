"""benchmarks.trainings: where its runs are, what it says of them, and how the report tells them."""

from benchmarks.quality.report import report
from benchmarks.quality.report_tables import GROWTH_SYSTEMS
from benchmarks.trainings import USUAL, VARIANTS, run_name, training_targets


def run(changes, recall, **others):
    valid = {name: {"recall@10": recall, "recall@50": 2 * recall} for name in GROWTH_SYSTEMS}
    return {"changes": changes, "num_parameters": 1234, "num_epochs_run": 3, "train_s": 61.4, "valid": valid | others}


def test_a_variant_is_measured_against_the_settings_as_they_are():
    worse = {"l2d-p": {"recall@10": 0.05, "recall@50": 0.1}}
    targets = training_targets([run(USUAL, 0.1), run("train.dropout=0.2", 0.125, **worse), run("train.dropout=0.5", 0.075, **worse)])
    better, fell = (targets[f"recall@10 of l2d-{name}, best variant over the settings as they are"] for name in "wp")
    assert (better["measured"], better["met"]) == (1.25, True)
    assert (fell["measured"], fell["met"]) == (0.5, False)
    assert len(targets) == len(GROWTH_SYSTEMS)


def test_every_variant_has_a_folder_of_its_own_below_the_run():
    names = [run_name(changes) for changes in ("", *VARIANTS, "model.name=a/b")]
    assert names[0] == "usual"
    assert len(set(names)) == len(names)
    assert not [name for name in names if "/" in name or " " in name]


def test_the_report_tells_the_variants():
    runs = [run(USUAL, 0.1), run("train.dropout=0.2", 0.125)]
    text = report({}, {}, variants={"toys": {"data": "toys", "runs": runs}})
    assert "### toys" in text
    figures = {USUAL: "0.1000", "train.dropout=0.2": "0.1250"}
    first, second = (text.index(f"| `{changes}` | 1,234 | 3 | 61 | {figure} |") for changes, figure in figures.items())
    assert first < second
