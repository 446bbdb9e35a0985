"""Worker processes that behave, or misbehave, as a test wants: real processes over the real channel."""

from __future__ import annotations

import sys
from typing import Final

from bsfg.daemon.worker_process import Program

_SOURCE: Final = """
import asyncio, socket, sys, time
from bsfg.daemon.worker_channel import Channel
from bsfg.daemon.worker_words import *
how = sys.argv[1]
async def main():
    channel = await Channel.over(socket.socket(fileno=int(sys.argv[2])))
    assert type(await channel.receive()) is Beginning
    async def report():
        while True:
            channel.send(Report())
            await asyncio.sleep(0.05)
    taken = 0
    reporting = asyncio.create_task(report())
    while (word := await channel.receive()) is not None:
        if isinstance(word, Orders):
            taken += 1
            if how == "deaf" and taken > 1:
                continue
            channel.send(Taken(word.number))
            if how == "silent":
                reporting.cancel()
            if how == "mad":
                channel._writer.write(b"\\0\\0\\0\\1?")
            if how == "ends":
                sys.exit("it is enough")
        if isinstance(word, Stop) and how != "stubborn":
            return
asyncio.run(main())
"""


def program(how: str) -> Program:
    """``well``, ``deaf`` (takes its first orders alone), ``silent``, ``mad``, ``ends`` or ``stubborn``."""
    return Program([sys.executable, "-c", _SOURCE, how], lambda is_first: {})
