"""Three machines on one: network namespaces at a switch, or, where these are not permitted, loopback addresses.

In a namespace the cable is drawn out of the switch: nothing is said to either side, as with a real one. A loopback
address has a proxy that takes everything and passes nothing on. Either way each machine has a name of its own, so that
its workers are not seen to be gone by those of the others.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit, urlunsplit

from tests.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT: Final = 3
_NET: Final = os.getpid() % 250 + 1
"""Of the process that makes the machines; those that are forked from it keep it."""
_CLONE_NEWNET: Final = 0x40000000


class Hosts(Protocol):
    """The machines, by their numbers from 0."""

    kind: str

    def url(self, host: int) -> str:
        """Return how a machine reaches the server."""

    def enter(self, host: int) -> None:
        """Let this process, which is newly forked, be on that machine."""

    def cut(self, host: int) -> None:
        """Cut a machine off."""

    def heal(self, host: int) -> None:
        """Undo that."""


class Namespaces:
    """Machines that are network namespaces."""

    kind = "network namespaces"

    def __init__(self, server: str) -> None:
        """server: its URL; it must listen on the switch's address, and trust its network."""
        self._server = urlsplit(server)
        self._tag = f"sw{os.getpid() % 100000}"

    def set_up(self) -> None:
        """Make the switch, the machines and their cables. Raises OSError or CalledProcessError where it may not."""
        switch = f"{self._tag}s"
        _ip("link", "add", switch, "type", "bridge")
        _ip("link", "set", switch, "up")
        _ip("addr", "add", f"{switch_address()}/24", "dev", switch)
        for host in range(COUNT):
            name = self._name(host)
            _ip("netns", "add", name)
            _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", name, "master", switch, "up")
            _ip("-n", name, "addr", "add", f"{_address(host + 2)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def tear_down(self) -> None:
        """Remove everything; what is not there is left out."""
        for host in range(COUNT):
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", self._name(host))
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", f"{self._tag}s")

    def url(self, host: int) -> str:
        """Return how a machine reaches the server: over the switch, whichever machine it is."""
        del host
        port = self._server.port
        return urlunsplit(self._server._replace(netloc=f"{self._server.username}@{switch_address()}:{port}"))

    def enter(self, host: int) -> None:
        """Join the namespace."""
        with Path(f"/var/run/netns/{self._name(host)}").open("rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        _be_called(f"host-{host}")

    def cut(self, host: int) -> None:
        """Draw the cable out of the switch."""
        _ip("link", "set", self._name(host), "nomaster")

    def heal(self, host: int) -> None:
        """Put it back."""
        _ip("link", "set", self._name(host), "master", f"{self._tag}s")

    def _name(self, host: int) -> str:
        return f"{self._tag}{host}"


class Loopbacks:
    """Machines that are loopback addresses, each with a proxy between it and the server."""

    kind = "proxies"

    def __init__(self, server: str) -> None:
        """server: its URL."""
        self._proxies = [Proxy(server, at=f"127.0.0.{host + 2}") for host in range(COUNT)]

    def tear_down(self) -> None:
        """End the proxies."""
        for proxy in self._proxies:
            proxy.close()

    def url(self, host: int) -> str:
        """Return the address of the machine's proxy."""
        return self._proxies[host].url

    def enter(self, host: int) -> None:
        """Leave the parent's sockets: a connection ends only when every process has closed it."""
        for descriptor in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                if str(descriptor.readlink()).startswith("socket:"):
                    os.close(int(descriptor.name))
        _be_called(f"host-{host}")

    def cut(self, host: int) -> None:
        """Take everything, pass nothing on."""
        self._proxies[host].go_silent()

    def heal(self, host: int) -> None:
        """End what went silent, as TCP would have by now, and pass on what comes."""
        self._proxies[host].heal()
        self._proxies[host].cut()


def network() -> str:
    """Return the addresses of the switch and of the machines of this process."""
    return f"{_address(0)}/24"


def switch_address() -> str:
    """Return the address of the switch: the server's."""
    return _address(1)


def _address(number: int) -> str:
    return f"10.213.{_NET}.{number}"


def _be_called(name: str) -> None:
    socket.gethostname = lambda: name


def _ip(*arguments: str) -> None:
    program = shutil.which("ip") or "/usr/sbin/ip"
    subprocess.run([program, *arguments], check=True, capture_output=True)


def may_make_namespaces() -> bool:
    """Whether this process may make machines of namespaces."""
    probe = Namespaces("postgresql://x@127.0.0.1:1/x")
    try:
        probe.set_up()
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        with suppress(OSError):
            probe.tear_down()
    return True


@contextmanager
def connected(server: str, *, namespaces: bool) -> Iterator[Hosts]:
    """Yield the machines, connected to a server."""
    hosts: Namespaces | Loopbacks
    if namespaces:
        hosts = Namespaces(server)
        hosts.set_up()
    else:
        hosts = Loopbacks(server)
    try:
        yield hosts
    finally:
        hosts.tear_down()
