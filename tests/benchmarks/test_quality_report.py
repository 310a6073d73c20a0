"""The quality report says what the committed results say; its tables and plots on a made-up result."""

from xml.etree import ElementTree

import pytest

from benchmarks.quality.report import FOLDER, NOTHING, REPORT, growth_plots, plots, read_results, report, written
from benchmarks.quality.report_tables import METRICS, ahead_table, claims, table
from benchmarks.result import target


def test_the_report_says_what_the_committed_results_say():
    text, drawn = written()
    assert REPORT.read_text() == text
    assert (NOTHING in text) == (not read_results())
    assert {path.name for path in FOLDER.glob("*.svg")} == set(drawn)
    assert all(f"]({name})" in text for name in drawn)


def row(family, recall, **others):
    metrics = dict.fromkeys(METRICS, recall)
    setting = {"metrics": metrics, "intervals": {name: [recall - 0.01, recall + 0.01] for name in METRICS}, "by_title": metrics}
    return {
        "family": family,
        "settings": {"dim": 64, "training": {"learning_rate": 0.002}},
        "num_trials": 4,
        "validation_ndcg@20": 0.1234567,
        "fit_s": 61.5,
        "num_parameters": 1234567,
        "unmasked": setting,
        "masked": setting,
        "language_subset": dict.fromkeys(METRICS, recall),
        "slices": {
            part: {"num_samples": 9, "recall@10": recall, "recall@20": recall, "recall@50": recall} for part in ("dense", "sparse", "long")
        },
        "seeds": {},
        **others,
    }


@pytest.fixture
def result():
    paired = {name: {"mean": 0.02, "low": -0.001, "high": 0.04} for name in METRICS}
    difference = {"unmasked": paired, "masked": paired}
    rows = {
        "sasrec": row("items", 0.05, default_minus_row=difference, seeds={"1": dict.fromkeys(METRICS, 0.0512)}),
        "d3-20": row("language", 0.04, default_minus_row=difference),
        "l2d-g": row("decoder", 0.06, default_minus_row=difference),
        "l2d-l": row("decoder", 0.07, default_minus_row=difference),
        "default": row("decoder", 0.0987),
    }
    seconds = {"sasrec": 1.0, "d3-20": 300.0, "l2d-g": 2.0, "l2d-l": 2.5, "default": 2.1}
    alone = {name: seconds[name] for name in ("l2d-g", "l2d-l", "default")}
    swept = {"num_items": 10, "l2d-g": dict.fromkeys(METRICS, 0.3), "l2d-w": dict.fromkeys(METRICS, 0.4)}
    return {
        "data": "toys",
        "ablations": {
            "split": "valid",
            "num_samples": 3000,
            "variants": {"with a vote": dict.fromkeys(METRICS, 0.11) | {"num_candidates": 24, "settings": {"weight": 0.25}}},
            "rerank": {"num_samples": 300, "num_reranked": 50, "seconds_per_1000": 61.4, "before": dict.fromkeys(METRICS, 0.3)},
        },
        "grids": "quick",
        "shared_seconds": {"train": 1234.5, "build_memory": 60.0},
        "num_epochs": 5,
        "num_decoder_trials": 55,
        "num_decoder_samples": 3000,
        "num_items": 100,
        "num_memory_entries": 1000,
        "num_samples": {"valid": 50, "test": 60, "language_subset": 30},
        "language_subset": "on 30 test samples",
        "tuning": "all on validation",
        "thresholds": {"target_count": 20.0, "history_length": 4.0},
        "slice_sizes": {"dense": 9, "sparse": 9, "long": 9, "short": 0},
        "unreachable_share": 0.064,
        "num_language_parameters": 2233440,
        "rows": rows,
        "cost": {
            "k": 20,
            "rounds": 3,
            "all": {"num_requests": 64, "batch 1": seconds, "batch 32": seconds},
            "decoders": {"num_requests": 512, "batch 1": alone, "batch 32": alone},
        },
        "living": {"default": row("decoder", 0.1199)},
        "retrained": {"sasrec": row("items", 0.0777)},
        "memory_sweep": {
            "num_samples": 3000,
            "num_entries": 1000,
            "whole": swept,
            "kept": {"random": dict.fromkeys(("0.05", "0.1", "0.3", "0.5"), swept)},
        },
        "targets": {"recall@10 of default": target(0.0987, 0.105), "unknown": target(None, 1)},
    }


def test_a_result_is_told_in_tables(result):
    text = report({"toys": result}, {})
    for line in (
        "| recall@10 of default | >= 0.105 | 0.0987 | no |",
        "| unknown | >= 1 | - | - |",
        "| d3-20 * | +0.0200 (-0.0010 to +0.0400) |",
        "| sasrec | 0.0500, 0.0512 | 0.0500, 0.0512 | +0.0475 |",
        "train 1,234 s, build memory 60 s.",
        "which took 61 s per 1,000 requests:",
        "| sasrec | 4 | 0.1235 | 62 | 1,234,567 | `dim=64, learning_rate=0.002` |",
        "| random | 30 % | 10 | 0.3000 | 0.4000 |",
        "| d3-20 | 300.000 | 300.000 | - | - |",
        "6.4% of the test targets have no memory entry",
        "0.1199",
    ):
        assert line in text, line
    assert NOTHING not in text
    assert report({}, {}).endswith(NOTHING + "\n")


def test_claims_are_judged_by_the_figures(result):
    text = claims(result)
    assert "| l2d-g: more than 10 times as fast as d3-20, recall@10 no worse | 150.0 times, recall@10 0.0600 against 0.0400 | yes |" in text
    assert "| l2d-l above l2d-g for dense items, recall@20 | 0.0700 against 0.0600 | yes |" in text
    assert "| l2d-g above l2d-l for sparse items, recall@20 | 0.0600 against 0.0700 | no |" in text


def test_where_a_baseline_is_ahead_is_told_with_both_figures(result):
    assert ahead_table(result) == "No baseline is ahead of either in any of these figures."
    rows = result["rows"] | {"l2d-w": row("decoder", 0.0501), "l2d-w+sasrec": row("items", 0.5), "d3-20": row("language", 0.2)}
    rows["sasrec"]["slices"]["sparse"]["recall@20"] = 0.1
    lines = ahead_table(result | {"rows": rows}).splitlines()[2:]
    assert [line[2:].split(" | ")[:2] for line in lines] == [[ours, row] for ours in ("default", "l2d-w") for row in ("sasrec", "d3-20")]
    assert lines[0] == "| default | sasrec | sparse recall@20 (0.1000 to 0.0987) |"
    assert "recall@10 (0.2000 to 0.0501)" in lines[3]


def test_plots_stand_alone_and_are_named_in_the_report(result):
    found = plots({"toys": result})
    assert set(found) == {"toys-cost-batch1.svg", "toys-cost-batch32.svg", "toys-memory.svg"}
    text = report({"toys": result}, {})
    for name, svg in found.items():
        assert f"]({name})" in text
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert "--accent:" in svg
    assert "seconds per 1,000 requests, batch 32 (logarithmic)" in found["toys-cost-batch32.svg"]
    assert "% of the memory kept" in found["toys-memory.svg"]


def test_a_table_is_markdown():
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_the_check_of_sasrec_stands_beside_what_was_published():
    run = {"dropout": 0.5, "epochs": 7, "metrics": {"recall@10": 0.25, "ndcg@10": 0.125}}
    text = report({}, {}, {"published": {"recall@10": 0.5, "ndcg@10": 0.375}, "runs": [run]})
    assert "| published | - | 0.5000 | 0.3750 |" in text
    assert "| ours, dropout 0.5 | 7 | 0.2500 | 0.1250 |" in text
    assert "published" not in report({}, {})


def test_growth_is_a_table_and_a_plot_for_each_axis():
    def point(recall, **others):
        return {
            **others,
            "num_epochs_run": 2,
            "train_s": 9.6,
            "valid": {f"l2d-{name}": {"recall@10": recall, "recall@50": 0.5} for name in "glwp"},
        }

    line = {
        "data": "toys",
        "epochs": [point(0.125, num_epochs=3, num_parameters=99)],
        "widths": [point(0.25, hidden_size=64, num_parameters=1234), point(0.375, hidden_size=128, num_parameters=5678)],
    }
    text = report({}, {}, None, {"toys": line})
    assert "| num_epochs=3 | 99 | 2 | 10 | 0.1250 | 0.5000 |" in text
    assert "| hidden_size=128 | 5,678 | 2 | 10 | 0.3750 | 0.5000 |" in text
    drawn = growth_plots({"toys": line})
    assert set(drawn) == {"growth-toys-epochs.svg", "growth-toys-widths.svg"}
    assert all(f"]({name})" in text for name in drawn)
    assert all(f">{label}<" in drawn["growth-toys-widths.svg"] for label in ("recall@10", "l2d-p", "parameters of the model"))


def test_trainings_are_told_in_the_order_of_their_settings():
    valid = {name: dict.fromkeys(METRICS, 0.25) for name in ("item-knn", "l2d-g", "l2d-l", "l2d-w")}
    line = {"data": "toys", "num_parameters": 1234, "valid": valid, "test": valid}
    text = report({}, {"b": line | {"num_epochs": 8, "item_loss_weight": 3.0}, "": line | {"num_epochs": 5}})
    first, second = (text.index(f"| toys | 1,234 | {weight} | {epochs} | 0.2500 |") for weight, epochs in ((0, 5), (3, 8)))
    assert first < second
