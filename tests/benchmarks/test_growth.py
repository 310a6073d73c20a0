"""benchmarks.growth: what it says of its curves, and what it refuses."""

import pytest

from benchmarks import growth
from benchmarks.growth import growth_targets


def test_growth_is_the_last_point_of_a_curve_over_its_first():
    def point(global_recall, others):
        return {
            "valid": {name: {"recall@50": global_recall if name == "l2d-g" else others} for name in ("l2d-g", "l2d-l", "l2d-w", "l2d-p")}
        }

    targets = growth_targets({"epochs": [point(0.2, 0.4), point(0.9, 0.9), point(0.1, 0.5)], "widths": [point(0.3, 0.3)]})
    assert len(targets) == 8
    fell, grew = (targets[f"recall@50 of l2d-{name}, last of epochs over first"] for name in "gw")
    assert (fell["measured"], fell["met"]) == (0.5, False)
    assert (grew["measured"], grew["met"]) == (1.25, True)


def test_growth_without_training_is_refused_and_settings_may_stand_after_options(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["growth", "movielens", "--small", "--epochs", "1,2", "train=none"])
    with pytest.raises(SystemExit):
        growth.main()
    assert "growth is measured over trained models" in capsys.readouterr().err
