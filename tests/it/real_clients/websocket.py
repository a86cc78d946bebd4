"""WebSockets by a real library: websocket.py serve PORT, or websocket.py ask URL [--ca FILE]"""

import asyncio
import os
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosedError

LARGE = 32 << 20


async def echo(socket):
    async for message in socket:
        if message == "leave":
            return await socket.close(4321, "as you wish")
        await socket.send(message)


def choose(socket, offered):
    return "one" if "one" in offered else None


def refuse(socket, request):
    return socket.respond(403, "not here\n") if request.path == "/refused" else None


async def serving(port):
    settings = {"select_subprotocol": choose, "max_size": LARGE, "process_request": refuse}
    async with serve(echo, "127.0.0.1", port, **settings) as server:
        await server.serve_forever()


async def asking(url, ca):
    context = ssl.create_default_context(cafile=ca) if ca else None
    for compression in ("deflate", None):
        settings = {"subprotocols": ["one"], "compression": compression, "max_size": LARGE, "ssl": context}
        async with connect(url, **settings) as socket:
            assert socket.subprotocol == "one", socket.subprotocol
            assert bool(socket.protocol.extensions) == bool(compression), socket.protocol.extensions
            for message in ("", "hello", "grüß dich " * 1000, b"", os.urandom(4 << 20)):
                await socket.send(message)
                assert await socket.recv() == message
            await socket.send(iter(["in ", "three ", "parts"]))
            assert await socket.recv() == "in three parts"
            await asyncio.wait_for(await socket.ping(), 5)
            await socket.send("leave")
            try:
                await socket.recv()
            except ConnectionClosedError as closed:
                assert (closed.rcvd.code, closed.rcvd.reason) == (4321, "as you wish"), closed.rcvd
            else:
                raise AssertionError("not closed")
    many = [connect(url, ssl=context) for _ in range(50)]
    sockets = await asyncio.gather(*many)
    await asyncio.gather(*(socket.send(str(number)) for number, socket in enumerate(sockets)))
    assert await asyncio.gather(*(socket.recv() for socket in sockets)) == [str(number) for number in range(50)]
    await asyncio.gather(*(socket.close() for socket in sockets))
    print("ok")


if sys.argv[1] == "serve":
    asyncio.run(serving(int(sys.argv[2])))
else:
    ca = sys.argv[4] if sys.argv[3:4] == ["--ca"] else None
    asyncio.run(asyncio.wait_for(asking(sys.argv[2], ca), 30))
