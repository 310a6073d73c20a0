"""The plots: text stays text, colours follow the page, labels do not cover each other."""

from itertools import combinations
from xml.etree import ElementTree

import pytest
from matplotlib.transforms import Bbox

from l2d_ray.evaluate.report_plots import Dot, _free_box, cost_plot, seconds_plot, training_plot

PLOTS = {
    "cost": lambda: cost_plot([Dot("a <b>", 0.5, 0.1), Dot("$x$ --> y", 300.0, 0.08)], accuracy_label="Recall@10"),
    "one dot": lambda: cost_plot([Dot("a <b>", 3.0, 0.0)], accuracy_label="Recall@10"),
    "training": lambda: training_plot([1, 2, 3], [3.0, 2.0, None], [None, 2.5, 2.4]),
    "seconds": lambda: seconds_plot({"train": 12.0, "evaluate": 0.0}),
}


def texts(svg):
    return ["".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")]


@pytest.mark.parametrize("draw", PLOTS.values(), ids=PLOTS)
def test_a_plot_is_one_scalable_svg_in_the_pages_colours(draw):
    svg = draw()
    root = ElementTree.fromstring(svg)
    assert root.attrib["viewBox"]
    assert "width" not in root.attrib
    assert "height" not in root.attrib
    assert "currentColor" in svg
    assert "var(--accent)" in svg
    assert not any(f"#0{digit}0{digit + 1}0{digit + 2}" in svg for digit in range(1, 6))
    assert draw() == svg


def test_labels_are_text_and_markup_in_them_is_not():
    assert {"a <b>", "$x$ --> y", "Recall@10", "1", "100"} <= set(texts(PLOTS["cost"]()))
    assert {"1", "10"} <= set(texts(PLOTS["one dot"]()))
    assert {"train", "12.0 s", "0.0 s"} <= set(texts(PLOTS["seconds"]()))
    assert {"training", "validation"} <= set(texts(PLOTS["training"]()))


def test_labels_of_a_crowd_do_not_cover_each_other():
    frame = Bbox([[0, 0], [500, 300]])
    points = [(200.0 + 3 * i, 150.0) for i in range(10)]
    taken = [Bbox([[x - 4, y - 4], [x + 4, y + 4]]) for x, y in points]
    labels = []
    for point in points:
        box = _free_box(point, (70.0, 12.0), [*taken, *labels], frame, 1.0)
        assert all(Bbox.intersection(box, dot) is None for dot in taken)
        labels.append(box)
    assert len(labels) == 10
    assert all(Bbox.intersection(left, right) is None for left, right in combinations(labels, 2))
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in labels)
