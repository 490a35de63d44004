"""A TCP proxy that treats connections badly, as toxiproxy does: late, slow, in slices, cut off, half open."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from typing import NamedTuple


class Toxic(NamedTuple):
    """What is done to a connection."""

    name: str
    latency: float = 0.0  # seconds before each piece
    slice: int = 65536  # bytes of a piece at most
    rate: float = 0.0  # bytes a second; 0: no limit
    cut_after: int = 0  # bytes of both directions together, then it is reset; 0: never
    silent_after: int = 0  # bytes, then nothing passes any more until it is closed; 0: never

    @property
    def fair(self) -> bool:
        """Whether all bytes arrive in the end."""
        return not (self.cut_after or self.silent_after)


SILENCE = 1.0  # seconds until a silent connection is closed


def draw(rng: random.Random) -> Toxic:
    """A toxic for the next connection; most leave it whole."""
    return rng.choice(
        [
            Toxic("none"),
            Toxic("latency", latency=rng.uniform(0.001, 0.02)),
            Toxic("slices", slice=rng.randint(1, 40)),
            Toxic("bandwidth", rate=rng.uniform(20_000, 200_000), slice=2_000),
            Toxic("reset", cut_after=rng.randint(1, 3_000), slice=100),
            Toxic("half open", silent_after=rng.randint(1, 3_000), slice=100),
        ]
    )


class Proxy:
    """Passes connections on to target, each with a toxic of its own; close it when done."""

    def __init__(self, target: str, rng: random.Random) -> None:
        host, port = target.rsplit(":", 1)
        self._target = host, int(port)
        self._rng = rng
        self.toxics: Counter[str] = Counter()
        self._tasks: set[asyncio.Future[None]] = set()  # asyncio itself holds none of them
        self._fair: dict[int, bool] = {}  # by the client's port
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()

    def fair(self, port: int) -> bool:
        """Whether the connection from that local port delivers everything."""
        return self._fair.get(port, False)

    def close(self) -> None:
        """Cut all connections and stop."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        await asyncio.sleep(0.01)  # those that have been accepted become tasks
        while others := [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        toxic = draw(self._rng)
        self.toxics[toxic.name] += 1
        self._fair[writer.get_extra_info("peername")[1]] = toxic.fair
        passed = [0]
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        ways = [
            asyncio.ensure_future(self._pump(reader, back, toxic, passed)),
            asyncio.ensure_future(self._pump(there, writer, toxic, passed)),
        ]
        self._tasks.update(ways)
        try:
            await asyncio.wait(ways)
        except asyncio.CancelledError:
            pass  # what started this task would take it for a failure
        finally:
            for way in ways:
                way.cancel()
                self._tasks.discard(way)
            for end in (back, writer):
                end.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, toxic: Toxic, passed: list[int]
    ) -> None:
        try:
            while piece := await reader.read(toxic.slice):
                passed[0] += len(piece)
                if toxic.cut_after and passed[0] > toxic.cut_after:
                    self._reset(writer)
                    reader.feed_eof()
                    return
                if toxic.silent_after and passed[0] > toxic.silent_after:
                    await asyncio.sleep(SILENCE)
                    return
                await asyncio.sleep(toxic.latency + (len(piece) / toxic.rate if toxic.rate else 0))
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
        except OSError:
            pass
        finally:
            if not toxic.fair:
                writer.close()

    @staticmethod
    def _reset(writer: asyncio.StreamWriter) -> None:
        """Close a connection with RST."""
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
