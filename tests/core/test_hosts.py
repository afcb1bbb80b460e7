"""Hosts that wait for one another, and what is no way to join them."""

from __future__ import annotations

import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import jax
import pytest

import vi_recipes as vr
from vi_recipes.core.hosts import LAUNCHED_BY_MPI
from vi_recipes.core.meeting import meet, parse_address


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_hosts_that_do_not_come_are_told_of() -> None:
    """The first one waits for the others, and the others for it."""
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ValueError, match=f"nobody lets host 1 in at '{address}' within 0.3 s"):
        vr.join_hosts(address, 2, 1, timeout=0.3)
    with pytest.raises(ValueError, match="host 1, 2 of the 3 hosts has not come"):
        vr.join_hosts(address, 3, 0, timeout=0.3)
    with pytest.raises(ValueError, match="host 0 cannot listen at"):
        vr.join_hosts("192.0.2.1:5000", 3, 0, timeout=0.3)  # an address of nobody


def test_hosts_that_count_otherwise_are_told_of() -> None:
    address = f"127.0.0.1:{free_port()}"
    for told in ("two hosts have the number 1", "num_hosts is 4 at host 2 and 3 at host 0"):
        others = [(3, 1), (3, 1) if "two" in told else (4, 2)]
        with ThreadPoolExecutor(2) as pool:
            knocks = [pool.submit(meet, address, n, k, 3.0) for n, k in others]
            with pytest.raises(ValueError, match=told):
                meet(address, 3, 0, 3.0)
        assert any(told in str(knock.exception()) for knock in knocks)


def test_hosts_meet_at_an_address_of_ipv6() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
            address = f"[::1]:{free.getsockname()[1]}"
    except OSError:
        pytest.skip("this machine has no IPv6")
    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(meet, address, 2, host, 10.0) for host in range(2)]
        assert [wait.result() for wait in waits] == [None, None]


@pytest.mark.parametrize("name", ["::1", "[::1", "::1]", "[10.0.0.1]", "[fd00::1::]", "[]", "a:b"])
def test_an_address_of_ipv6_stands_in_brackets(name: str) -> None:
    with pytest.raises(ValueError, match=r"an address of IPv6 in brackets, such as '\[fd00::1\]"):
        parse_address(f"{name}:5000")


def connected(address: str) -> socket.socket:
    """Knock at an address until somebody listens there."""
    while True:
        with suppress(OSError):
            return socket.create_connection(parse_address(address))


def test_who_is_no_host_does_not_count_as_one() -> None:
    """Something else knocks first."""
    address = f"127.0.0.1:{free_port()}"
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(meet, address, 2, 0, 10.0)
        with connected(address) as stranger:
            stranger.sendall(b"GET / HTTP/1.1")
        assert not waits.done()
        meet(address, 2, 1, 10.0)
        assert waits.result() is None


def test_a_host_that_comes_and_leaves_is_told_of() -> None:
    """Its process is ended as the first one says to begin."""
    address = f"127.0.0.1:{free_port()}"
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(meet, address, 2, 0, 10.0)
        with connected(address) as guest:
            guest.sendall(b"vi_recipes 1 2")
            assert guest.recv(200) == b"begin"
            reset = struct.pack("ii", 1, 0)
            guest.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        with pytest.raises(
            ValueError, match=f"host 1 came to '{address}' and has left, or answers"
        ):
            waits.result()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither SLURM nor MPI has started this process"),
        ({"num_hosts": 2}, "address: got None with num_hosts or host"),
        ({"address": "10.0.0.1:5000", "host": 0}, "num_hosts: got None with address"),
        ({"address": "10.0.0.1", "num_hosts": 2, "host": 0}, "expected host:port"),
        ({"address": "10.0.0.1:5000", "num_hosts": 2, "host": 2}, "host: got 2, expected 0 to 1"),
        ({"address": "10.0.0.1:5000", "num_hosts": 2, "host": 0, "timeout": 0}, "timeout: got 0"),
    ],
)
def test_what_is_no_way_to_join_is_told_of(
    given: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", *LAUNCHED_BY_MPI):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=message):
        vr.join_hosts(**given)


def test_hosts_that_come_too_late_in_a_program_are_told_of() -> None:
    """This process has computed something already."""
    jax.numpy.zeros(1).block_until_ready()
    with pytest.raises(ValueError, match="JAX has computed something already"):
        vr.join_hosts(f"127.0.0.1:{free_port()}", 1, 0, timeout=5)
