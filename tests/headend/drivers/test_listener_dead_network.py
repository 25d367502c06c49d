"""A network that drops everything without a word: both an idle and a busy connection are found dead within 30 s.

Two network namespaces, a virtual cable between them. The DTUs live in the inner one; then its address is taken away, and from there
on packets vanish: the cable is up, nothing answers, nothing resets. Measured with the real sockets and the real timers of the
system, idle and busy at once, and busy in the worst way: the request leaves shortly before the idle connection would be given up.
"""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headend.clock import SystemClock
from headend.drivers.listener import DialIn
from headend.drivers.transport import DEAD_PEER_S, LineUrl

OURS, THEIRS = "10.99.0.1", "10.99.0.2"
LIMIT_S = 30.0
ROOT = Path(__file__).parents[3]
# In the inner namespace: one connection for each id, held until the end.
DTUS = """
import socket, sys, time
held = []
for dtu in sys.argv[3:]:
    held.append(socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10))
    held[-1].sendall(dtu.encode())
print("connected", flush=True)
time.sleep(90)
"""
CASES = {"idle-0001": None, "busy-0001": 0.0, "late-0001": DEAD_PEER_S / 2 - 0.7}  # when a request leaves


class Owner(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def measure() -> dict[str, float]:
    """Runs inside the outer namespace: seconds from the end of the network to the loss of each connection."""
    loop = asyncio.get_running_loop()
    inner = await asyncio.create_subprocess_exec("unshare", "-n", "sleep", "120")
    assert inner.returncode is None
    enter = ("nsenter", "-n", "-t", str(inner.pid))
    dtus: asyncio.subprocess.Process | None = None
    dial_in = DialIn(OURS, 0, clock=SystemClock())
    try:
        await asyncio.sleep(0.5)  # until `unshare` has unshared; it says nothing when it has
        await ip("link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", str(inner.pid))
        await ip("addr", "add", f"{OURS}/24", "dev", "v0")
        await ip("link", "set", "v0", "up")
        await ip("addr", "add", f"{THEIRS}/24", "dev", "v1", within=enter)
        await ip("link", "set", "v1", "up", within=enter)
        await dial_in.start()
        dtus = await asyncio.create_subprocess_exec(
            *(*enter, sys.executable, "-c", DTUS, OURS, str(dial_in.port), *CASES), stdout=asyncio.subprocess.PIPE
        )
        owners = {dtu: Owner() for dtu in CASES}
        for dtu, owner in owners.items():
            url = LineUrl.parse(f"listen://{OURS}:{dial_in.port}?dtu={dtu}")
            await asyncio.wait_for(dial_in.connect(url, owner), 20)
        assert dtus.stdout is not None
        await dtus.stdout.readline()
        # The neighbour stays known, or the system would find the host unreachable, which is not the silence meant here.
        await ip("neigh", "replace", THEIRS, "lladdr", await address_of_v1(enter), "dev", "v0", "nud", "permanent")
        await ip("addr", "flush", "dev", "v1", within=enter)
        began = loop.time()

        async def lost(dtu: str) -> float:
            after_s, owner = CASES[dtu], owners[dtu]
            if after_s is not None:
                await asyncio.sleep(after_s)
                assert owner.transport is not None
                owner.transport.write(b"\xfe\xfe\x68request\x16")
            await asyncio.wait_for(owner.lost.wait(), 60)
            return loop.time() - began

        return dict(zip(CASES, await asyncio.gather(*(lost(dtu) for dtu in CASES)), strict=True))
    finally:
        await dial_in.aclose()
        for process in (dtus, inner):
            if process is not None:
                process.kill()
                await process.wait()


async def ip(*arguments: str, within: tuple[str, ...] = ()) -> str:
    process = await asyncio.create_subprocess_exec(*within, "ip", *arguments, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)} ended with {process.returncode}")
    return said.decode()


async def address_of_v1(enter: tuple[str, ...]) -> str:
    address: str = json.loads(await ip("-json", "link", "show", "v1", within=enter))[0]["address"]
    return address


def namespaces_are_allowed() -> bool:
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return False
    probe = "unshare -n true && ip link add v0 type veth peer name v1"
    return subprocess.run(["unshare", "-rn", "sh", "-c", probe], capture_output=True, timeout=20).returncode == 0


@pytest.mark.slow
def test_a_dropped_network_is_noticed_within_30_s_idle_and_busy() -> None:
    if not namespaces_are_allowed():
        pytest.skip("network namespaces and virtual cables are not permitted here")
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-m", "tests.headend.drivers.test_listener_dead_network"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seconds = json.loads(done.stdout.splitlines()[-1])
    print(f"noticed after (s): {seconds}")
    assert set(seconds) == set(CASES)
    for dtu, noticed_s in seconds.items():
        assert 2.0 < noticed_s < LIMIT_S, (dtu, seconds)


if __name__ == "__main__":
    print(json.dumps({dtu: round(seconds, 1) for dtu, seconds in asyncio.run(measure()).items()}))
