"""Work beside the event loop: on one thread, in order, each with its own result or error, whoever stops waiting."""

import asyncio
import threading

import pytest

from l2d_ray.serve.loop import OffLoop


def test_work_is_done_in_order_on_one_other_thread():
    done, threads = [], set()

    def work(number: int) -> int:
        threads.add(threading.get_ident())
        done.append(number)
        return 2 * number

    async def run() -> list[int]:
        off_loop = OffLoop("test")
        return await asyncio.gather(*(off_loop(work, number) for number in range(200)))

    assert asyncio.run(run()) == [2 * number for number in range(200)]
    assert done == list(range(200))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_an_error_goes_to_whoever_waits_and_the_thread_goes_on():
    async def run() -> int:
        off_loop = OffLoop("test")
        failing, fine = off_loop(lambda: 1 // 0), off_loop(lambda: 7)
        with pytest.raises(ZeroDivisionError):
            await failing
        return await fine

    assert asyncio.run(run()) == 7


def test_who_no_longer_waits_holds_nobody_up():
    gate = threading.Event()

    async def run() -> int:
        off_loop = OffLoop("test")
        held = asyncio.ensure_future(off_loop(gate.wait, 10))
        await asyncio.sleep(0.01)
        left = asyncio.ensure_future(off_loop(lambda: 1))
        await asyncio.sleep(0)
        left.cancel()
        gate.set()
        assert await held
        return await off_loop(lambda: 2)

    assert asyncio.run(run()) == 2


def test_another_event_loop_may_use_it_later():
    off_loop = OffLoop("test")

    async def run(number: int) -> int:
        return await off_loop(lambda: number)

    assert [asyncio.run(run(number)) for number in (1, 2)] == [1, 2]
