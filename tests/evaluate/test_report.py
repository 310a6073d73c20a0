"""The report: every figure and title of the record is on the page, nothing from data becomes markup, nothing is loaded from elsewhere."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from l2d_ray.evaluate.protocol import SystemScores, score_ranks
from l2d_ray.evaluate.report import Cause, Example, ExampleItem, Reason, ReportData, SystemRow, TrainingPoint, render_report, write_report

EVIL = "<script>alert('x')</script> & <b>$co$</b> -->"
METRICS = {"recall@10": 0.0842, "ndcg@10": 0.0421}
DATA = ReportData(
    name="games",
    card={"num_users": 9066, "samples": {"train": 49133}, "min_rating": None, "repeat_share": 0.02812, "formats": ["a", EVIL]},
    systems=(
        SystemRow("popularity", METRICS, {"recall@10": 0.05}, {"recall@10": 0.09}, {"recall@10": (0.0801, 0.0899)}, {}, 0.012),
        SystemRow("language-space decoding", {"recall@10": 0.11, "ndcg@10": 0.05}, ms_per_request=1234.5),
        SystemRow(EVIL, {"recall@10": 1.0}),
    ),
    training=(TrainingPoint(20, 2, 3.1, 3.4), TrainingPoint(10, 1, 4.2, None)),
    seconds={"prepare": 1.5, EVIL: 60.0},
    speed={"k": 20, "beams": 20, "ratio": 47.26, "latent_ms": 6.4, "language_ms": 302.7, "setting": EVIL},
    examples=(
        Example(
            ("Old Game", EVIL),
            "Next Game",
            (
                ExampleItem("Next Game", 12.34, (Reason(0.5, ("A", EVIL), "B"),)),
                ExampleItem(EVIL, 1),
                ExampleItem("Third Game", 0.5, (), (Cause(0.754, "Old Game"), Cause(0.246, EVIL))),
                ExampleItem("Last Game", 0.25, (Reason(1, ("A",), "C"),) * 2, (Cause(1, "Old Game"),)),
            ),
        ),
    ),
)


class Page(HTMLParser):
    """What a browser would see: the tags with their attributes, and the text outside of styles."""

    VOID = ("meta", "br", "path", "use", "rect", "img", "link")

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open and data.strip():
            self.texts.append(data.strip())

    def count(self, tag):
        return sum(1 for name, _ in self.tags if name == tag)

    def sections(self):
        return [attributes["id"] for name, attributes in self.tags if name == "section"]


@pytest.fixture(scope="module", name="page")
def page_fixture():
    return Page(render_report(DATA))


def test_the_page_is_well_formed_and_has_every_section(page):
    assert page.open == []
    assert page.sections() == ["systems", "cost", "speed", "training", "seconds", "examples"]
    assert page.count("svg") == 3
    assert page.count("table") == 3


def test_figures_and_titles_are_on_the_page(page):
    for text in ("9,066", "49,133", "0.02812", "samples train", ".0842", ".0801–.0899", ".1100", "1.0000", "1,234", "0.012"):
        assert text in page.texts, text
    for text in ("popularity", "language-space decoding", "Old Game", "Next Game ✓", "12.34", "47.3 times", "60.0 s", "validation"):
        assert text in page.texts, text
    assert any("Best validation loss 3.4000 at step 20" in text for text in page.texts)
    assert any("6.4 ms in the latent space and 303 ms" in text for text in page.texts)
    summaries = [text for text in page.texts if text.startswith("because of")]
    assert summaries == [
        "because of 1 training sample",
        "because of 2 items of the history",
        "because of 1 item of the history and 2 training samples",
    ]
    told = page.texts[page.texts.index(summaries[1]) :]
    assert told[1:5] == ["75 %", "Old Game", "25 %", EVIL]


def test_rows_are_complete(page):
    columns = page.texts.index("Recall@10")
    assert page.texts[columns - 1 : columns + 3] == ["System", "Recall@10", "NDCG@10", "ms/request"]
    rows = page.texts[columns + 3 :]
    assert rows[:5] == ["popularity", ".0842", ".0801–.0899", ".0421", "0.012"]
    assert rows[5:9] == ["language-space decoding", ".1100", ".0500", "1,234"]
    assert rows[9:13] == [EVIL, "1.0000", "–", "–"]


def test_nothing_from_data_becomes_markup(page):
    assert page.count("script") == 0
    assert page.texts.count(EVIL) >= 7  # card, tables, bar, speed, history, recommendation, cause: as text
    assert page.count("b") == 8  # the best figure of each column (2 + 1 + 1), the ratio, the targets of three reasons


def test_nothing_is_loaded_from_elsewhere(page):
    references = [value for _, attributes in page.tags for name, value in attributes.items() if name.split(":")[-1] in ("href", "src")]
    assert references
    assert all(value.startswith("#") for value in references)
    html = render_report(DATA)
    assert "@import" not in html
    assert "url(http" not in html


def test_missing_parts_are_left_out():
    page = Page(render_report(ReportData("bare")))
    assert page.sections() == []
    assert "bare" in page.texts
    unmeasured = replace(DATA, training=(TrainingPoint(1, 1, None, None),), speed={"ratio": None}, seconds={}, examples=())
    assert Page(render_report(unmeasured)).sections() == ["systems", "cost"]
    without_costs = ReportData("x", systems=(SystemRow("a", METRICS),))
    page = Page(render_report(without_costs))
    assert page.sections() == ["systems"]
    assert page.count("table") == 1


def test_a_row_takes_over_the_protocols_scores():
    unmasked, masked = (score_ranks(np.array(ranks), np.array([0, 0]), num_bootstrap=100) for ranks in ([0, 4], [0, -1]))
    row = SystemRow.from_scores(SystemScores("a", 2, unmasked, masked, 0.002))
    assert (row.unmasked["recall@10"], row.masked["recall@10"], row.by_title["ndcg@10"]) == (1.0, 0.5, 1.0)
    assert row.ms_per_request == 2.0
    assert row.intervals["recall@10"] == (1.0, 1.0)
    assert row.masked_intervals["recall@10"] == (0.0, 1.0)


def test_writing_replaces_the_file_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "evaluation" / "report.html"
    write_report(DATA, path)
    write_report(ReportData("second"), path)
    assert "second" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_the_same_data_give_the_same_bytes():
    assert render_report(DATA) == render_report(DATA)
