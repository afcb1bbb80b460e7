"""Processes that wait for one another at an address before they begin.

JAX ends a process whose partners do not come; here each is told who is missing.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

MARK = "vi_recipes"
"""The first word of what is said: others may knock at the door."""

LONGEST = 200
"""Bytes of what is said."""

KEPT_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""When the system asks whether a silent machine is still there, in seconds, and how often."""


def parse_address(address: str) -> tuple[str, int]:
    """Return name and port of ``host:port``; an address of IPv6 stands in brackets.

    Raises
    ------
    ValueError
        For what is none.
    """
    name, colon, port = address.rpartition(":")
    if not (colon and name and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"address: got '{address}', expected host:port, such as '10.0.0.1:5000'")
    inner = name[1:-1] if name.startswith("[") and name.endswith("]") else ""
    if inner and _is_ipv6(inner):
        return inner, int(port)
    if set(name) & set("[]:"):
        raise ValueError(
            f"address: got '{address}', expected host:port, an address of IPv6 in brackets, such "
            "as '[fd00::1]:5000'"
        )
    return name, int(port)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _listen(address: str) -> socket.socket:
    """Return a socket that listens at an address, by IPv4 where its name stands for one."""
    name, port = parse_address(address)
    known = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    families = {family for family, *_ in known}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    return socket.create_server((name, port), family=family)


def meet(address: str, count: int, number: int, timeout: float) -> None:
    """Wait until all have come: the first one listens at the address, the others knock.

    Parameters
    ----------
    address
        Host and port of the first one.
    count, number
        How many there are, and which this is, from 0.
    timeout
        Seconds to wait.

    Raises
    ------
    ValueError
        Where the others do not come in time or leave again, nobody answers, the first one cannot
        listen there, or two have one number.
    """
    if count == 1:
        return
    until = time.monotonic() + timeout
    if number:
        _knock(address, count, number, timeout, until)
    else:
        _receive(address, count, timeout, until)


def _receive(address: str, count: int, timeout: float, until: float) -> None:
    """Let the others in, and tell them to begin when all are there."""
    with ExitStack() as doors:
        try:
            door = doors.enter_context(_listen(address))
        except OSError as error:
            raise ValueError(
                f"address: host 0 cannot listen at '{address}' ({error.strerror or error}); give "
                "an address of this machine and a free port"
            ) from None
        here: dict[int, socket.socket] = {}
        while len(here) < count - 1:
            try:
                door.settimeout(max(until - time.monotonic(), 1e-3))
                guest = doors.enter_context(door.accept()[0])
                guest.settimeout(max(min(until - time.monotonic(), 5.0), 1e-3))
                words = guest.recv(LONGEST).decode(errors="replace").split()
            except OSError:
                if time.monotonic() < until:
                    continue
                missing = ", ".join(str(k) for k in range(1, count) if k not in here)
                raise ValueError(
                    f"host {missing} of the {count} hosts has not come to '{address}' within "
                    f"{timeout:g} s; start the program there too, with that address and number"
                ) from None
            if len(words) != 3 or words[0] != MARK or not "".join(words[1:]).isdigit():
                continue
            theirs, wants = int(words[1]), int(words[2])
            why = ""
            if wants != count:
                why = f"num_hosts is {wants} at host {theirs} and {count} at host 0"
            elif theirs in here:
                why = f"two hosts have the number {theirs}"
            if why:
                for other in (*here.values(), guest):
                    with suppress(OSError):  # one that has left
                        other.sendall(why.encode())
                raise ValueError(f"{why}; give all one num_hosts, and each its own number")
            here[theirs] = guest
        for theirs, guest in here.items():
            with _answering(theirs, address):
                guest.sendall(b"begin")
        for theirs, guest in here.items():  # who closes first keeps the port busy
            with _answering(theirs, address):
                guest.settimeout(5.0)
                guest.recv(LONGEST)


@contextmanager
def _answering(host: int, address: str) -> Iterator[None]:
    """Run a block that talks to a host which has come, and may have left since."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"host {host} came to '{address}' and has left, or answers no longer "
            f"({error.strerror or error}); start the program on all hosts anew"
        ) from None


def _knock(address: str, count: int, number: int, timeout: float, until: float) -> None:
    """Go to the first one, and wait there until it says to begin."""
    error: OSError | None = None
    while time.monotonic() < until:
        try:
            left = max(until - time.monotonic(), 1e-3)
            with socket.create_connection(parse_address(address), timeout=left) as door:
                door.sendall(f"{MARK} {number} {count}".encode())
                said = door.recv(LONGEST).decode(errors="replace")
        except OSError as failed:
            error = failed
            said = ""
        if said == "begin":
            return
        if said:
            raise ValueError(f"{said}; give all one num_hosts, and each its own number")
        time.sleep(min(0.2, timeout / 10))
    reason = f" ({error.strerror or error})" if error else ""
    raise ValueError(
        f"address: nobody lets host {number} in at '{address}' within {timeout:g} s{reason}; start "
        "the program on the first host (host=0) too and on all others, and check name, port and "
        "firewall"
    )


# -- connections that last ------------------------------------------------------------------


def open_door(name: str | None) -> tuple[socket.socket, str]:
    """Return where the first host listens, at any free port, and what the others need to come.

    Parameters
    ----------
    name
        Its address, which others know it by; ``None`` for all that it has.
    """
    if name is None:
        door = socket.create_server(("", 0))
        own = socket.gethostname()
        names = [own]
        with suppress(OSError):
            names += socket.gethostbyname_ex(own)[2]
    else:
        known = {family for family, *_ in socket.getaddrinfo(name, None)}
        family = socket.AF_INET if socket.AF_INET in known else socket.AF_INET6
        door, names = socket.create_server((name, 0), family=family), [name]
    said = {"names": names[:4], "port": door.getsockname()[1], "token": secrets.token_hex(8)}
    return door, json.dumps(said)


def let_in(
    door: socket.socket, invitation: str, count: int, seconds: float
) -> dict[int, socket.socket]:
    """Return the connections to those that come in time; others may knock at the door."""
    token = json.loads(invitation)["token"]
    until = time.monotonic() + seconds
    found: dict[int, socket.socket] = {}
    with door:
        while len(found) < count - 1 and time.monotonic() < until:
            door.settimeout(max(until - time.monotonic(), 1e-3))
            try:
                guest = door.accept()[0]
                guest.settimeout(1.0)
                words = guest.recv(200).decode(errors="replace").split()
            except OSError:
                continue
            if len(words) != 2 or not secrets.compare_digest(words[0], token):
                guest.close()
                continue
            guest.sendall(b"in")
            found[int(words[1])] = _kept(guest)
    return found


def go_in(invitation: str, index: int, seconds: float) -> dict[int, socket.socket]:
    """Return the connection to the first host; none where it cannot be reached."""
    known = json.loads(invitation)
    each = seconds / len(known["names"])
    for name in known["names"]:
        with suppress(OSError):
            peer = socket.create_connection((name, known["port"]), timeout=each)
            peer.sendall(f"{known['token']} {index}".encode())
            if peer.recv(2) == b"in":
                return {0: _kept(peer)}
            peer.close()
    return {}


def _kept(peer: socket.socket) -> socket.socket:
    """Return a connection that the system notes the end of, a machine's without power too."""
    peer.settimeout(5.0)  # a host that reads nothing for so long does not hold the others up
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEPT_ALIVE.items():
        if hasattr(socket, name):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return peer
