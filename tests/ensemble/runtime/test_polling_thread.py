"""The polling thread polls periodically, and continues without a poll that hangs (fault F13)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from ensemble.runtime.polling_thread import MOST_HANGING, PollingThread

WAIT_S = 10.0  # for a thread that has nothing to wait for


class Disk:
    """A poll that hangs while the disk hangs."""

    def __init__(self) -> None:
        self.polls = 0
        self.timeouts = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.responds = threading.Event()
        self.responds.set()

    def poll(self) -> None:
        self.polls += 1
        self.begun.release()
        self.responds.wait()

    def on_timeout(self) -> None:
        self.timeouts.release()


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.responds.set()


Start = Callable[..., PollingThread]


@pytest.fixture
def start_polling(disk: Disk) -> Iterator[Start]:
    made = []

    def start(*, every_s: float, limit_s: float) -> PollingThread:
        thread = PollingThread("disk", disk.poll, disk.on_timeout, every_s=every_s, limit_s=limit_s)
        made.append(thread)
        thread.start()
        return thread

    yield start
    for thread in made:
        thread.stop()


def test_it_polls_periodically(disk: Disk, start_polling: Start) -> None:
    start_polling(every_s=0.0, limit_s=WAIT_S)

    assert all(disk.begun.acquire(timeout=WAIT_S) for _ in range(3))


def test_a_wake_polls_without_waiting_for_the_period(disk: Disk, start_polling: Start) -> None:
    thread = start_polling(every_s=3600.0, limit_s=WAIT_S)
    assert disk.begun.acquire(timeout=WAIT_S)

    thread.wake()

    assert disk.begun.acquire(timeout=WAIT_S)


def test_a_poll_that_hangs_is_abandoned_and_the_next_one_begins(
    disk: Disk, start_polling: Start
) -> None:
    disk.responds.clear()

    start_polling(every_s=0.0, limit_s=0.01)

    assert disk.timeouts.acquire(timeout=WAIT_S)
    assert all(disk.begun.acquire(timeout=WAIT_S) for _ in range(2))


def test_few_threads_hang_and_polling_continues_when_the_disk_recovers(
    disk: Disk, start_polling: Start
) -> None:
    disk.responds.clear()
    start_polling(every_s=0.0, limit_s=0.01)
    assert all(disk.timeouts.acquire(timeout=WAIT_S) for _ in range(MOST_HANGING))

    assert not disk.begun.acquire(timeout=0.0) or disk.polls == MOST_HANGING
    assert sum(thread.name == "poll-disk" for thread in threading.enumerate()) == MOST_HANGING
    disk.responds.set()

    while disk.polls <= MOST_HANGING:
        assert disk.begun.acquire(timeout=WAIT_S)


def test_no_poll_begins_after_a_stop(disk: Disk, start_polling: Start) -> None:
    polling = start_polling(every_s=3600.0, limit_s=WAIT_S)
    assert disk.begun.acquire(timeout=WAIT_S)

    polling.stop()
    for thread in threading.enumerate():
        if thread.name == "poller-disk":
            thread.join(WAIT_S)
            assert not thread.is_alive()

    assert disk.polls == 1
