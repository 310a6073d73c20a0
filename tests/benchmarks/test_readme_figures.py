"""The README's figures are those of the committed results."""

import json

import pytest

from benchmarks.readme_figures import END, RESULTS, ROOT, START, figures, replaced


def test_the_readme_says_what_the_committed_results_say():
    text = (ROOT / "README.md").read_text()
    assert text.count(START) == text.count(END) == 1
    assert replaced(text, figures()) == text


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_committed_result_is_a_full_run_with_its_targets(path):
    result = json.loads(path.read_text())
    assert result["benchmark"] == path.stem.partition("-")[0]  # what follows a dash says which run of several it is
    assert result["small"] is False
    assert result["targets"]
    for target in result["targets"].values():
        assert set(target) - {"wanted at"} == {"target", "measured", "met"}
        if target["measured"] is None:
            assert target["met"] is None
            continue
        relation, wanted = target["target"].split(" ")
        assert target["met"] is (target["measured"] <= float(wanted) if relation == "<=" else target["measured"] >= float(wanted))
