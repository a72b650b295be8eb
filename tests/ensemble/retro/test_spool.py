"""Spool: bounded in bytes and age, losses counted, one owner for each segment (N-02).

No failing disk, no broken file and no dead process stops it.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.retro.segment import FirstVerdict
from ensemble.retro.spool import Spool
from ensemble.verdicts import VerdictLabel
from tests.support.spools import HOUR_S, T0, event, opened
from tests.support.timing import Clock

RECOVERED = {"flow": 1.0, "process": 1.0}


def numbers(spool: Spool, coverage: Mapping[str, float] = RECOVERED, most: int = 64) -> list[int]:
    """Read and settle all events that wait for these layers, as the rescorer does."""
    numbers_read: list[int] = []
    while (reading := spool.next_of(coverage, most)) is not None:
        numbers_read += [int(one.digest, 16) for one in reading.events]
        spool.settle(reading)
    return numbers_read


def files_of(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def lost(spool: Spool) -> int:
    return sum(spool.counts.dropped.values())


@pytest.fixture
def clock() -> Clock:
    return Clock(T0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "var" / "retro"


# -- what goes in comes out


def test_a_spooled_event_is_read_once_and_unchanged(root: Path, clock: Clock) -> None:
    spool = opened(root, clock)
    events = [event(number) for number in range(5)]
    spool.append(events)

    reading = spool.next_of(RECOVERED, 64)

    assert reading is not None
    assert reading.events == events
    assert spool.settle(reading)
    assert spool.next_of(RECOVERED, 64) is None
    assert files_of(root) == []


def test_an_event_waits_until_more_of_the_ensemble_speaks_than_did(
    root: Path, clock: Clock
) -> None:
    spool = opened(root, clock)
    spool.append([event(1, coverage=0.0), event(2, coverage=0.4), event(3, coverage=0.6)])

    assert numbers(spool, {"flow": 0.0}) == []
    assert numbers(spool, {"flow": 0.4}) == [1]
    assert numbers(spool, {"flow": 0.4}) == []
    assert numbers(spool, {"process": 1.0}) == []
    assert numbers(spool, {"flow": 1.0}) == [2, 3]


def test_the_oldest_are_read_first(root: Path, clock: Clock) -> None:
    """They are the next to be dropped."""
    spool = opened(root, clock)
    spool.append([event(hours, at=T0 - hours * HOUR_S) for hours in (1, 5, 3)])

    assert numbers(spool) == [5, 3, 1]


def test_a_reading_has_at_most_the_requested_number_and_continues_at_its_end(
    root: Path, clock: Clock
) -> None:
    spool = opened(root, clock)
    spool.append(event(number) for number in range(10))

    first = spool.next_of(RECOVERED, 4)
    assert first is not None
    spool.settle(first)

    assert [one.digest for one in first.events] == [f"{number:064x}" for number in range(4)]
    assert spool.counts.waiting_events == 6
    assert numbers(spool) == [4, 5, 6, 7, 8, 9]


def test_events_that_are_still_degraded_wait_behind_the_others(root: Path, clock: Clock) -> None:
    spool = opened(root, clock)
    spool.append(event(number, coverage=0.0) for number in range(4))
    reading = spool.next_of({"flow": 0.4}, 2)
    assert reading is not None

    spool.settle(
        reading,
        again=[
            reading.events[0],
            msgspec.structs.replace(
                reading.events[1], was=FirstVerdict(0.2, VerdictLabel.BENIGN, 0.4)
            ),
        ],
    )

    assert spool.counts.waiting_events == 4
    assert numbers(spool, {"flow": 0.4}) == [2, 3, 0]
    assert numbers(spool, {"flow": 1.0}) == [1]
    assert spool.counts.settled == spool.counts.spooled == 4


# -- limits


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("offer"),
            st.lists(
                st.tuples(st.sampled_from([0.0, 0.4, 0.6]), st.integers(0, 9000)),
                min_size=1,
                max_size=20,
            ),
        ),
        st.tuples(st.just("wait"), st.floats(-2 * HOUR_S, 9 * HOUR_S)),
        st.tuples(st.just("look"), st.sampled_from([0.4, 1.0])),
        st.tuples(st.just("half"), st.sampled_from([0.4, 1.0])),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=25,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_limits_hold_and_every_loss_is_counted(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]]
) -> None:
    """Compared with a simple count: offered and adopted = waiting, settled and dropped."""
    root, clock = tmp_path_factory.mktemp("spool"), Clock(T0)
    limit, age = 64 << 10, 24 * HOUR_S
    spool = opened(root, clock, limit_bytes=limit, max_age_s=age)
    offered = number = 0
    for what, value in steps:
        match what, value:
            case "offer", list(sizes):
                events = [
                    event(number + i, at=clock.now, coverage=share, size=size)
                    for i, (share, size) in enumerate(sizes)
                ]
                spool.append(events)
                offered, number = offered + len(events), number + len(events)
            case "wait", float(seconds):
                clock.now += seconds
            case "look", float(share):
                numbers(spool, {"flow": share})
            case "half", float(share):
                reading = spool.next_of({"flow": share}, 3)
                if reading is not None:
                    spool.settle(reading, again=reading.events[1:])
            case _:
                waiting = spool.counts.waiting_bytes
                spool.close()
                assert sum(path.stat().st_size for path in files_of(root)) == waiting, (
                    "what waits is for whoever comes next"
                )
                spool, offered = opened(root, clock, limit_bytes=limit, max_age_s=age), 0
        spool.upkeep()
        counts = spool.counts
        assert sum(path.stat().st_size for path in files_of(root)) == counts.waiting_bytes <= limit
        assert counts.since is None or abs(clock.now - counts.since) <= age
        assert offered + counts.adopted == counts.settled + counts.waiting_events + lost(spool)
    spool.close()


def test_the_oldest_make_room_for_the_newest(root: Path, clock: Clock) -> None:
    spool = opened(root, clock, limit_bytes=16 << 10)
    for number in range(100):
        clock.now += 60.0
        spool.append([event(number, at=clock.now, size=400)])

    left = numbers(spool)

    assert left == list(range(100 - len(left), 100))
    assert spool.counts.dropped["size"] == 100 - len(left) > 0
    assert len(left) > 10


def test_an_event_larger_than_the_spool_drops_no_other(root: Path, clock: Clock) -> None:
    spool = opened(root, clock, limit_bytes=16 << 10)
    spool.append([event(1), event(2, size=20_000), event(3)])

    assert spool.counts.dropped["size"] == 1
    assert numbers(spool) == [1, 3]


def test_nothing_older_than_the_age_limit_stays_on_the_disk(root: Path, clock: Clock) -> None:
    """The events are customers' data."""
    spool = opened(root, clock, max_age_s=24 * HOUR_S)
    spool.append([event(1)])
    clock.now += 12 * HOUR_S
    spool.append([event(2, at=clock.now)])

    clock.now = T0 + 24 * HOUR_S
    spool.upkeep()

    assert spool.counts.dropped["age"] == 1
    assert numbers(spool) == [2]


def test_an_event_of_a_clock_that_ran_ahead_does_not_wait_for_ever(
    root: Path, clock: Clock
) -> None:
    spool = opened(root, clock, max_age_s=24 * HOUR_S)
    spool.append([event(1, at=T0 + 1000 * HOUR_S)])

    clock.now += 24 * HOUR_S
    spool.upkeep()

    assert spool.counts.dropped["age"] == 1


@pytest.mark.parametrize("days", [-1000.0, -1.0, 1.0, 1000.0])
def test_a_clock_that_jumps_deletes_no_event(root: Path, clock: Clock, days: float) -> None:
    """B12: the age is counted by a clock that does not jump."""
    spool = opened(root, clock, max_age_s=24 * HOUR_S, now=lambda: T0 + days * 24 * HOUR_S)
    spool.append([event(1)])

    clock.now += 23 * HOUR_S
    spool.upkeep()
    assert spool.counts.waiting_events == 1
    clock.now += HOUR_S
    spool.upkeep()
    assert spool.counts.dropped["age"] == 1


@pytest.mark.parametrize("days", [-1000.0, 2.0, 1000.0])
def test_a_clock_that_jumped_before_a_restart_deletes_no_event(
    root: Path, clock: Clock, days: float
) -> None:
    """B12: the monotonic clock goes on while the system runs, and the name of the file has it."""
    dead = opened(root, clock, max_age_s=24 * HOUR_S)
    dead.append([event(1)])
    dead.close()

    clock.now += 23 * HOUR_S
    heir = opened(root, clock, max_age_s=24 * HOUR_S, now=lambda: T0 + days * 24 * HOUR_S)
    heir.upkeep()
    assert (heir.counts.waiting_events, heir.counts.dropped["age"]) == (1, 0)
    clock.now += HOUR_S
    heir.upkeep()
    assert heir.counts.dropped["age"] == 1


def test_after_a_start_of_the_system_the_date_tells_the_age(root: Path) -> None:
    """Its monotonic clock began anew, and says nothing of the time before."""
    old = adopted_from(root, Clock(50.0), line(1), now=lambda: T0 + 25 * HOUR_S)
    assert old.counts.dropped["age"] == 1

    young = adopted_from(root, Clock(50.0), line(1), now=lambda: T0 + HOUR_S)
    assert numbers(young) == [1]


def test_a_tenant_that_sends_much_pushes_out_its_own_events_alone(root: Path, clock: Clock) -> None:
    """B12: long command lines of one tenant pushed out the evidence of another."""
    spool = opened(root, clock, limit_bytes=1 << 20)
    spool.append([event(number, tenant="quiet", size=1000) for number in range(1, 101)])
    for number in range(1000, 1400):
        spool.append([event(number, tenant="loud", size=10_000)])

    counts = spool.counts
    kept = [one for one in numbers(spool, most=1000) if one <= 100]

    assert kept == list(range(1, 101))
    assert counts.dropped["size"] > 200
    assert counts.waiting_bytes <= 1 << 20


def test_the_tenant_of_a_segment_is_known_after_its_owner_died(root: Path, clock: Clock) -> None:
    dead = opened(root, clock, limit_bytes=1 << 20)
    dead.append([event(1, tenant="quiet")])
    dead.close()

    heir = opened(root, clock, limit_bytes=1 << 20)
    heir.append([event(2, tenant="loud")])
    heir.upkeep()

    assert {segment.tenant for segment in heir._segments} == {"quiet", "loud"}


def test_an_event_is_not_dropped_before_its_age_limit(root: Path, clock: Clock) -> None:
    spool = opened(root, clock, max_age_s=24 * HOUR_S)
    spool.append([event(1)])

    clock.now += 23.5 * HOUR_S
    spool.upkeep()

    assert numbers(spool) == [1]


# -- owners


def test_segments_of_a_living_owner_are_not_adopted(root: Path, clock: Clock) -> None:
    one, other = opened(root, clock), opened(root, clock)
    one.append([event(1)])
    other.append([event(2)])

    one.upkeep()
    other.upkeep()

    assert (numbers(one), numbers(other)) == ([1], [2])


def test_segments_of_a_dead_owner_are_adopted_once(root: Path, clock: Clock) -> None:
    gone, one, other = (opened(root, clock) for _ in range(3))
    gone.append(event(number) for number in range(3))
    gone.close()

    one.upkeep()
    other.upkeep()

    assert (one.counts.adopted, other.counts.adopted) == (3, 0)
    assert (numbers(one), numbers(other)) == ([0, 1, 2], [])


DYING = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.support.spools import T0, event, opened
spool = opened(Path(sys.argv[1]), lambda: T0)
spool.append(event(number) for number in range(200))
print("written", flush=True)
time.sleep(600)
"""


def test_the_events_of_a_killed_process_are_adopted_while_it_lives_they_are_not(
    root: Path, clock: Clock
) -> None:
    """After `kill -9` the system releases the lock, and all written events remain."""
    repository = Path(__file__).resolve().parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", DYING, str(root), str(repository)], stdout=subprocess.PIPE, text=True
    ) as dying:
        assert dying.stdout is not None
        assert dying.stdout.readline() == "written\n"
        heirs = [opened(root, clock) for _ in range(3)]
        for heir in heirs:
            heir.upkeep()
        assert [heir.counts.adopted for heir in heirs] == [0, 0, 0]

        os.kill(dying.pid, signal.SIGKILL)
        dying.wait()

    for heir in heirs:
        heir.upkeep()
    assert [heir.counts.adopted for heir in heirs] == [200, 0, 0]
    assert sorted(numbers(heirs[0])) == list(
        range(200)
    )  # segments of one span of time have no order among them


def test_an_interrupted_adoption_is_completed_by_the_next_owner(
    root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, first, second = (opened(root, clock) for _ in range(3))
    gone.append([event(1, coverage=0.0), event(2, coverage=0.4)])
    gone.close()
    moved: list[str] = []
    rename = os.rename

    def once(source: str, *rest: str, **folders: int) -> None:
        if moved:
            raise OSError(errno.EIO, "the disk is gone")
        moved.append(source)
        rename(source, *rest, **folders)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", once)
        first.upkeep()
    first.close()
    second.upkeep()

    assert sorted(numbers(second)) == [1, 2]


# -- files that are not as they were


def adopted_from(
    root: Path,
    clock: Clock,
    lines: bytes,
    name: str = "flow-0400000-1700000000-" + "a" * 32 + ".jsonl",
    now: Callable[[], float] | None = None,
) -> Spool:
    """A spool that adopted the file of a dead owner."""
    folder = root / ("0" * 32)
    folder.mkdir(parents=True)
    (folder / name).write_bytes(lines)
    spool = opened(root, clock, now=now)
    spool.upkeep()
    return spool


def line(number: int) -> bytes:
    return msgspec.json.encode(event(number)) + b"\n"


def test_a_torn_last_line_is_counted_and_skipped(root: Path, clock: Clock) -> None:
    spool = adopted_from(root, clock, line(1) + line(2) + line(3)[:-40])

    assert numbers(spool) == [1, 2]
    assert spool.counts.dropped["unreadable"] == 1
    assert spool.counts.waiting_events == 0


BAD = [
    pytest.param(b"\n", id="empty"),
    pytest.param(b"\x00" * 50 + b"\n", id="zeros"),
    pytest.param(b"\xff\xfe\n", id="no text"),
    pytest.param(b"[" * 100_000 + b"\n", id="nested"),
    pytest.param(line(9).replace(b'"format":1', b'"format":2'), id="a later format"),
    pytest.param(line(9).replace(b'"coverage":0.4', b'"coverage":4'), id="a coverage that is none"),
    pytest.param(line(9).replace(b'"benign"', b'"fine"'), id="a verdict that is none"),
    pytest.param(line(9).replace(b'"at":1700000000.0', b'"at":1e300'), id="a time that is none"),
]


@pytest.mark.parametrize("bad", BAD)
def test_a_line_that_cannot_be_read_stops_no_other(root: Path, clock: Clock, bad: bytes) -> None:
    spool = adopted_from(root, clock, line(1) + bad + line(2))

    assert numbers(spool, most=2) == [1, 2]
    assert spool.counts.dropped["unreadable"] == 1


def test_missing_events_of_a_truncated_file_are_counted(root: Path, clock: Clock) -> None:
    spool = opened(root, clock)
    spool.append(event(number) for number in range(10))
    (segment,) = files_of(root)
    os.truncate(segment, 3 * len(line(0)))

    assert numbers(spool, most=3) == [0, 1, 2]
    assert spool.counts.dropped["unreadable"] == 7


def test_an_unreadable_segment_does_not_block_the_others(root: Path, clock: Clock) -> None:
    """It still counts as waiting, until its age limit."""
    spool = opened(root, clock)
    spool.append([event(1, at=T0 - HOUR_S), event(2)])
    oldest = min(files_of(root), key=lambda path: path.name)
    oldest.unlink()
    oldest.mkdir()

    assert numbers(spool) == [2]
    assert spool.counts.waiting_events == 1


# -- a disk that fails


def test_a_full_disk_loses_only_the_events_that_do_not_fit(
    root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(root, clock)
    spool.append([event(1)])
    write = os.write

    def half(fd: int, data: memoryview) -> int:
        if len(data) > 50:
            return write(fd, data[:50])
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "write", half)
        spool.append([event(2), event(3)])
    assert (spool.last_error, spool.counts.dropped["disk"]) == ("ENOSPC", 2)
    spool.append([event(4)])

    assert spool.last_error == ""
    assert numbers(spool) == [1, 4]
    assert spool.counts.dropped["unreadable"] == 0


def test_a_failed_write_that_cannot_be_cut_off_tears_no_other_line(
    root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(root, clock)
    spool.append([event(1)])

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    write = os.write
    with monkeypatch.context() as failing:
        failing.setattr(os, "ftruncate", fail)
        failing.setattr(
            os, "write", lambda fd, data: write(fd, data[:50]) if len(data) > 200 else fail()
        )
        spool.append([event(2)])
    spool.append([event(3)])

    assert numbers(spool) == [1, 3]
    assert spool.counts.dropped == {"size": 0, "age": 0, "unreadable": 0, "disk": 1}


def test_an_impossible_folder_disables_only_the_spool(root: Path, clock: Clock) -> None:
    root.parent.mkdir(parents=True)
    root.write_text("a file")
    spool = opened(root, clock)

    spool.upkeep()
    spool.append([event(1)])

    assert spool.counts.dropped["disk"] == 1
    root.unlink()
    spool.append([event(2)])
    assert numbers(spool) == [2]


def test_a_removed_folder_is_made_again_and_its_loss_is_counted(root: Path, clock: Clock) -> None:
    spool = opened(root, clock)
    spool.append([event(1), event(2)])
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()

    spool.append([event(3)])
    spool.append([event(4)])

    assert numbers(spool) == [4]
    assert spool.counts.dropped["disk"] == 3


def test_an_event_that_could_not_be_written_again_still_waits(
    root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(root, clock)
    spool.append([event(1), event(2)])
    reading = spool.next_of(RECOVERED, 64)
    assert reading is not None

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as failing:
        failing.setattr(os, "write", full)
        assert not spool.settle(reading, again=reading.events)

    assert numbers(spool) == [1, 2]


# -- who may read it


def test_only_this_user_can_read_the_spool(root: Path, clock: Clock) -> None:
    before = os.umask(0)
    try:
        opened_spool = opened(root, clock)
        opened_spool.append([event(1)])
    finally:
        os.umask(before)

    modes = {
        stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")] if path.is_dir()
    }
    assert modes == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files_of(root)} == {0o600}


def test_an_open_folder_is_closed_to_other_users(root: Path, clock: Clock) -> None:
    root.mkdir(parents=True, mode=0o755)

    opened(root, clock).append([event(1)])

    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_no_link_is_followed(root: Path, clock: Clock, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret").write_bytes(line(7))
    root.parent.mkdir(parents=True)
    root.symlink_to(elsewhere)
    spool = opened(root, clock)

    spool.append([event(1)])
    assert spool.counts.dropped["disk"] == 1
    assert [path.name for path in elsewhere.iterdir()] == ["secret"]

    root.unlink()
    folder = root / ("0" * 32)
    folder.mkdir(parents=True)
    (folder / ("flow-0400000-1700000000-" + "a" * 32 + ".jsonl")).symlink_to(elsewhere / "secret")
    (root / ("1" * 32)).symlink_to(elsewhere)
    spool.upkeep()

    assert spool.counts.adopted == 0
    assert (elsewhere / "secret").read_bytes() == line(7)
