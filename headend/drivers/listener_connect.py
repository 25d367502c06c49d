"""`Connect` for every kind of line: what `app.py` and one-shot commands hand to their lines."""

import asyncio
from collections.abc import Mapping

from headend.clock import Clock
from headend.drivers.errors import LineDown
from headend.drivers.listener import DialIn
from headend.drivers.listener_settings import BadListener, ListenerSettings
from headend.drivers.transport import Connect, LineUrl, connect

__all__ = ["DialInConnect"]


class DialInConnect:
    """Lines that are dialled in to share one `DialIn` per HOST:PORT, the others connect out.

    settings: by (host, port); ports that are not in it have the defaults. wait_s: for one-shot commands, see `DialIn.connect`.
    """

    def __init__(
        self,
        settings: Mapping[tuple[str, int], ListenerSettings] | None = None,
        *,
        clock: Clock,
        otherwise: Connect = connect,
        wait_s: float | None = None,
    ) -> None:
        self._settings = dict(settings or {})
        self._clock = clock
        self._otherwise = otherwise
        self._wait_s = wait_s
        self._listeners: dict[tuple[str, int], DialIn] = {}

    async def __call__(self, url: LineUrl, protocol: asyncio.Protocol) -> asyncio.Transport:
        if url.scheme != "listen":
            return await self._otherwise(url, protocol)
        try:
            listener = self.of(url)
        except BadListener as error:
            raise LineDown(url.text, str(error)) from error
        return await listener.connect(url, protocol, wait_s=self._wait_s)

    def of(self, url: LineUrl) -> DialIn:
        """The listener of this line, made when it is first asked for. Raises BadListener."""
        place = (url.host, url.port)
        if place not in self._listeners:
            self._listeners[place] = DialIn(
                url.host, url.port, self._settings.get(place), clock=self._clock, is_tls=url.is_tls
            )
        return self._listeners[place]

    def expect(self, line: str, url: LineUrl, dtu: str = "") -> None:
        """As DialIn.expect, for lines of any kind. Raises BadListener."""
        if url.scheme == "listen":
            self.of(url).expect(line, url, dtu)

    def expect_all(self, lines: Mapping[str, LineUrl], adopted: Mapping[str, str]) -> dict[str, str]:
        """All lines at once, with the DTUs that were adopted in earlier runs, by line; whatever order they were adopted in.

        Gives the adoptions that hold no longer: their line is gone, or another line's URL names their DTU by now. Raises BadListener.
        """
        waiting = {name: url for name, url in lines.items() if url.scheme == "listen"}
        holding = {name: dtu for name, dtu in adopted.items() if name in waiting}
        while True:
            written = {(url.host, url.port, url.dtu) for name, url in waiting.items() if name not in holding}
            lost = [name for name, dtu in holding.items() if (waiting[name].host, waiting[name].port, dtu) in written]
            if not lost:
                break
            for name in lost:  # its line goes back to the DTU of its URL, which another line may have adopted
                del holding[name]
        for name, url in waiting.items():
            self.expect(name, url, holding.get(name, ""))
        return {name: dtu for name, dtu in adopted.items() if name not in holding}

    @property
    def listeners(self) -> list[DialIn]:
        return list(self._listeners.values())

    def adopt(self, dtu: str, line: str) -> bool:
        """As DialIn.adopt, of whichever listener serves the line. Raises BadListener."""
        for listener in self._listeners.values():
            if listener.serves(line):
                return listener.adopt(dtu, line)
        raise BadListener(f"no line {line!r} is dialled in to; expected one whose url begins with listen://")

    async def aclose(self) -> None:
        for listener in self._listeners.values():
            await listener.aclose()
