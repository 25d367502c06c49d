"""Head-ends that are started fast: `headend` as a process with everything loaded, which forks for each life.

    python -m tests.system.nursery
    < ["run", "headend.toml", "--json"]     arguments of `headend`, one JSON array per line
    > 4711                                  the process that is it; its output goes to nursery.log beside the configuration
    < 4711                                  wait for its end
    > -9                                    how it ended, as subprocess has it

What runs is `headend` itself; only the second that Python takes to load it is spared, so that a test can kill it often. With the
argument `--forgetful` the head-ends are broken: they move a destination's cursor before it has acknowledged.
"""

import importlib
import json
import os
import sys
from pathlib import Path

from headend.cli import main
from headend.feed.pusher import Pusher, _Work
from headend.quantities import load_contract, resolve

# What `headend run` loads on its way.
LOADED = (
    "headend.serving",
    "headend.assembly.upstream",
    "headend.ledger.view",
    "litestar.plugins.pydantic.dto",
    "pydantic.v1",
)


def serve() -> None:
    for name in LOADED:
        importlib.import_module(name)
    resolve(load_contract("dlt645/base_2007"), "1-0:1.8.0")  # both remember what they have read
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            _, status = os.waitpid(asked, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        child = os.fork()
        if child == 0:
            live(asked)
        print(child, flush=True)


def live(arguments: list[str]) -> None:
    log = os.open(Path(arguments[1]).with_name("nursery.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, standard in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(ours, standard)
    sys.argv = ["headend", *arguments]
    code = 1
    try:
        main.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(code)


def forget() -> None:
    """A mistake that a pusher can have, made on purpose: a test shows that it would be found."""
    offer = Pusher._push

    async def push(self: Pusher, work: _Work) -> None:
        await self._acknowledged(work, work.batch.last, [])
        await offer(self, work)

    Pusher._push = push  # type: ignore[method-assign]


if __name__ == "__main__":
    if "--forgetful" in sys.argv:
        forget()
    serve()
