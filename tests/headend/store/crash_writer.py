"""Run by test_crash: stores reads for ever and prints every feed number once it is acknowledged."""

import asyncio
import sys
from itertools import count

from headend.clock import SystemClock
from headend.store import Store, Writer
from headend.store.writer import own_thread
from tests.headend.support import a_read


async def main(url: str, run: int) -> None:
    store = Store(url, "luoyang-west")
    with own_thread() as execute:
        writer = Writer(store, execute, clock=SystemClock(), group_max=50)

        async def line(number: int) -> None:
            for slot in count():
                sequence = await writer.submit(a_read(f"R{run:02d}L{number:02d}", slot=slot))
                sys.stdout.write(f"{sequence} R{run:02d}L{number:02d} {slot}\n")
                sys.stdout.flush()

        await asyncio.gather(*(line(number) for number in range(40)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
