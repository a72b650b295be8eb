"""A keeper looks again and again, and goes on without a look that hangs (fault F13)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from ensemble.runtime.poller import MOST_HANGING, PollingThread

WAIT_S = 10.0  # for a thread that has nothing to wait for


class Disk:
    """A look that hangs while the disk does."""

    def __init__(self) -> None:
        self.looks = 0
        self.given_up = threading.Semaphore(0)
        self.looked = threading.Semaphore(0)
        self.answers = threading.Event()
        self.answers.set()

    def look(self) -> None:
        self.looks += 1
        self.looked.release()
        self.answers.wait()

    def give_up(self) -> None:
        self.given_up.release()


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.answers.set()


Keep = Callable[..., PollingThread]


@pytest.fixture
def keep(disk: Disk) -> Iterator[Keep]:
    made = []

    def start(*, every_s: float, limit_s: float) -> PollingThread:
        keeper = PollingThread("disk", disk.look, disk.give_up, every_s=every_s, limit_s=limit_s)
        made.append(keeper)
        keeper.start()
        return keeper

    yield start
    for keeper in made:
        keeper.stop()


def test_it_looks_again_and_again(disk: Disk, keep: Keep) -> None:
    keep(every_s=0.0, limit_s=WAIT_S)

    assert all(disk.looked.acquire(timeout=WAIT_S) for _ in range(3))


def test_who_wakes_it_need_not_wait_until_it_is_time(disk: Disk, keep: Keep) -> None:
    keeper = keep(every_s=3600.0, limit_s=WAIT_S)
    assert disk.looked.acquire(timeout=WAIT_S)

    keeper.wake()

    assert disk.looked.acquire(timeout=WAIT_S)


def test_a_look_that_hangs_is_given_up_and_the_next_one_begins_beside_it(
    disk: Disk, keep: Keep
) -> None:
    disk.answers.clear()

    keep(every_s=0.0, limit_s=0.01)

    assert disk.given_up.acquire(timeout=WAIT_S)
    assert all(disk.looked.acquire(timeout=WAIT_S) for _ in range(2))


def test_threads_that_hang_do_not_pile_up_and_looking_goes_on_when_the_disk_comes_back(
    disk: Disk, keep: Keep
) -> None:
    disk.answers.clear()
    keep(every_s=0.0, limit_s=0.01)
    assert all(disk.given_up.acquire(timeout=WAIT_S) for _ in range(MOST_HANGING))

    assert not disk.looked.acquire(timeout=0.0) or disk.looks == MOST_HANGING
    assert sum(thread.name == "poll-disk" for thread in threading.enumerate()) == MOST_HANGING
    disk.answers.set()

    while disk.looks <= MOST_HANGING:
        assert disk.looked.acquire(timeout=WAIT_S)


def test_a_keeper_that_was_stopped_looks_no_more(disk: Disk, keep: Keep) -> None:
    keeper = keep(every_s=3600.0, limit_s=WAIT_S)
    assert disk.looked.acquire(timeout=WAIT_S)

    keeper.stop()
    for thread in threading.enumerate():
        if thread.name == "poller-disk":
            thread.join(WAIT_S)
            assert not thread.is_alive()

    assert disk.looks == 1
