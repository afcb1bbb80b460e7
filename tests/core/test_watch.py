"""Hosts that hear of one another's end: here three in one process, by real connections."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from vi_recipes.core import MethodFailure, ModelError, Status, watch
from vi_recipes.core.meeting import go_in, let_in, open_door
from vi_recipes.core.watch import Watch

COUNT = 3
PATIENCE = 30.0
"""Seconds for what takes a moment."""


class Group:
    """Three hosts, which hang up where they would end."""

    def __init__(self) -> None:
        pairs = {host: socket.socketpair() for host in range(1, COUNT)}
        own = {0: {host: pair[0] for host, pair in pairs.items()}}
        own |= {host: {0: pair[1]} for host, pair in pairs.items()}
        self.codes: dict[int, int] = {}
        self.hosts = [Watch(k, COUNT, own[k], leave=self.leaving(k, own[k])) for k in range(COUNT)]

    def leaving(self, host: int, peers: dict[int, socket.socket]) -> Callable[[int], None]:
        def leave(code: int) -> None:
            self.codes[host] = code
            for peer in peers.values():
                with suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)

        return leave

    def over(self, *hosts: int) -> bool:
        """Whether these have ended within the time that they have."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if set(self.codes) >= set(hosts):
                return all(self.codes[host] == 1 for host in hosts)
            time.sleep(0.01)
        return False


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    monkeypatch.setattr(watch, "SHORT", 0.3)
    monkeypatch.setattr(watch, "LONG", 1.0)
    made = Group()
    yield made
    for host in made.hosts:
        host.close()


@pytest.mark.parametrize("who", range(COUNT))
def test_a_host_that_raises_ends_all_and_each_says_which_and_why(
    group: Group, who: int, capsys: pytest.CaptureFixture[str]
) -> None:
    group.hosts[who].raised(ValueError("the rows of May are bad"))
    group.hosts[who].ends()
    assert group.over(0, 1, 2)
    said = capsys.readouterr().err.splitlines()
    why = f"vi_recipes: host {who} has failed (ValueError: the rows of May are bad), and all end"
    assert [line.startswith(why) for line in said] == [True] * COUNT


@pytest.mark.parametrize("who", range(COUNT))
def test_a_host_that_is_killed_ends_the_others(
    group: Group, who: int, capsys: pytest.CaptureFixture[str]
) -> None:
    group.hosts[who].close()  # it hears nothing of its own end
    others = {0, 1, 2} - {who}
    assert group.over(*others)
    why = f"host {who} is gone (killed, out of memory, or cut off)"
    assert capsys.readouterr().err.count(why) >= len(others)


def test_a_host_that_fails_in_a_fit_ends_those_that_wait_for_it_there(
    group: Group, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def waits() -> None:
        with group.hosts[0].together("a fit by map"):
            begun.set()
            go_on.wait(PATIENCE)

    def fails() -> None:
        begun.wait(PATIENCE)
        with group.hosts[2].together("a fit by map"):
            raise MemoryError

    with ThreadPoolExecutor(2) as pool:
        at_it, failed = pool.submit(waits), pool.submit(fails)
        assert group.over(0, 1, 2)
        go_on.set()
        assert at_it.exception() is None
        assert isinstance(failed.exception(), MemoryError)
    why = "host 2 has failed in a fit by map (MemoryError: the memory is used up"
    assert capsys.readouterr().err.count(why) == COUNT


def raise_in(host: Watch, error: Exception) -> None:
    """Have a host raise in what all are at."""
    with host.together("a fit by map"):
        raise error


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([MemoryError(), ValueError(), MemoryError()], (MemoryError, ValueError)),
        ([ModelError("no start")] * COUNT, ModelError),
        ([MethodFailure(Status.DIVERGED, "it runs away")] * COUNT, MethodFailure),
    ],
)
def test_what_every_host_raises_in_a_fit_ends_none(
    group: Group,
    errors: list[Exception],
    kind: type[Exception],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They go on together: a comparison has a row that says why."""
    with ThreadPoolExecutor(COUNT) as pool:
        raised = [
            pool.submit(raise_in, host, error)
            for host, error in zip(group.hosts, errors, strict=True)
        ]
        assert all(isinstance(one.exception(), kind) for one in raised)
    for host in group.hosts:
        with host.together("another fit"):
            pass
    time.sleep(1.2 * watch.LONG)
    with ThreadPoolExecutor(COUNT) as pool:
        list(pool.map(Watch.ends, group.hosts))
    time.sleep(2 * watch.SHORT)
    assert group.codes == {}
    assert capsys.readouterr().err == ""


def test_a_host_that_has_ended_is_not_waited_for(
    group: Group, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ended without an error: by sys.exit, or because its program is another."""
    entered, go_on = threading.Event(), threading.Event()

    def waits() -> None:
        with group.hosts[1].together("a fit by map"):
            entered.set()
            go_on.wait(PATIENCE)

    with ThreadPoolExecutor(2) as pool:
        at_it = pool.submit(waits)
        entered.wait(PATIENCE)
        ends = pool.submit(group.hosts[2].ends)
        until = time.monotonic() + PATIENCE
        while 2 not in group.hosts[0].left and time.monotonic() < until:
            time.sleep(0.01)
        with (
            pytest.raises(ModelError, match="host 2 has ended, and host 0 goes on to another fit"),
            group.hosts[0].together("another fit"),
        ):
            pass
        assert group.over(1)
        go_on.set()
        at_it.result()
        ends.result()
    why = "host 2 has ended, and host 1 waits for it in a fit by map"
    assert why in capsys.readouterr().err


def test_a_failure_after_another_host_is_done_reaches_it(
    group: Group, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one that writes has no room: the others wait for it at their end."""
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(host.ends) for host in group.hosts[1:]]
        time.sleep(2 * watch.LONG)  # as long as it may be at that
        assert not any(one.done() for one in waiting)
        group.hosts[0].raised(OSError(28, "No space left on device"))
        group.hosts[0].ends()
        assert group.over(0, 1, 2)
    assert capsys.readouterr().err.count("host 0 has failed (OSError: [Errno 28]") == COUNT


def test_who_is_no_host_is_not_let_in() -> None:
    door, invitation = open_door("127.0.0.1")
    known = json.loads(invitation)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(let_in, door, invitation, 2, PATIENCE)
        with socket.create_connection(("127.0.0.1", known["port"])) as stranger:
            stranger.sendall(b"GET /")
            assert not stranger.recv(10)
        peers = go_in(invitation, 1, PATIENCE)
        assert list(waits.result()) == [1]
    for peer in (*peers.values(), *waits.result().values()):
        peer.close()


def test_a_first_host_that_cannot_be_reached_is_not_waited_for() -> None:
    """Its port is closed, or its name stands for nothing here."""
    door, invitation = open_door("127.0.0.1")
    door.close()
    assert go_in(invitation, 1, 5.0) == {}
    assert let_in(open_door(None)[0], invitation, 2, 0.2) == {}
