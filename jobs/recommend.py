"""Ask the running service what follows some titles, oldest first.

    python -m jobs.recommend "Toy Story (1995)|Heat (1995)"
    python -m jobs.recommend "Toy Story (1995)|Heat (1995)" --k 20 --decoder local

Start the service first with `make serve`. Titles of the catalogue are taken as those items, any other title is read as text.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from l2d_ray.client import DEFAULT_URL, Client
from l2d_ray.decode.settings import DECODERS
from l2d_ray.errors import L2DError
from l2d_ray.serve.messages import RecommendationAnswer

SEPARATOR = "|"


def main(arguments: argparse.Namespace) -> RecommendationAnswer:
    """Print a numbered list; returns the answer."""
    titles = [title.strip() for title in arguments.titles.split(SEPARATOR) if title.strip()]
    start = time.perf_counter()
    with Client(arguments.url) as client:
        answer = client.recommend([{"title": title} for title in titles], k=arguments.k, decoder=arguments.decoder)
    print(listing(titles, answer, wall_ms=(time.perf_counter() - start) * 1000))
    return answer


def listing(titles: Sequence[str], answer: RecommendationAnswer, *, wall_ms: float) -> str:
    """The answer as text: one line an item, columns aligned."""
    width = max((len(item.title) for item in answer.items), default=0)
    lines = [f"{item.rank:3d}. {item.title:<{width}}  {item.score:10.4f}" for item in answer.items]
    summary = f"{len(answer.items)} items in {wall_ms:.0f} ms ({answer.timings_ms.total:.0f} ms in the service), decoder {answer.decoder}"
    return "\n".join([f"After {', '.join(titles)}:", *lines, summary])


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.recommend", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("titles", help=f"titles, oldest first, with {SEPARATOR!r} between them")
    parser.add_argument("--k", type=int, default=10, help="items wanted")
    parser.add_argument("--decoder", choices=DECODERS, help="decoder that ranks; without it the tuned one")
    parser.add_argument("--url", default=DEFAULT_URL, help="where the service listens")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        main(parse())
    except L2DError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
