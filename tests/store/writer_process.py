"""A process that writes interactions and says of each batch that it was acknowledged: what the crash tests kill.

    python tests/store/writer_process.py URL FIRST LAST

Sends batches FIRST to LAST, each BATCH events, and prints a batch's number once ``add_interactions`` has returned.
"""

import sys

from l2d_ray.store.open import open_store
from l2d_ray.store.records import Author, Interaction

BATCH = 7


def events_of(batch: int) -> list[Interaction]:
    numbers = range(batch * BATCH, (batch + 1) * BATCH)
    return [Interaction(f"event-{n}", f"user-{n % 5}", f"item-{n % 11}", n) for n in numbers]


def main(url: str, first: int, last: int) -> None:
    with open_store(url) as store:
        for batch in range(first, last + 1):
            store.add_interactions(events_of(batch), Author(None, f"batch-{batch}"))
            print(batch, flush=True)  # noqa: T201 this is what it is for


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
