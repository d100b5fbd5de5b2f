"""A WebSocket server made with `websockets` for our client to be tried on. What it does depends on the path:
`/` echoes, `/closed` tells how the next of those connections was closed, the others are said where they are."""
import asyncio
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

closed = asyncio.Queue()


async def serve_one(connection):
    match connection.request.path:
        case "/":
            try:
                while True:
                    await connection.send(await connection.recv())
            except ConnectionClosed as end:
                if end.rcvd:
                    closed.put_nowait(f"{end.rcvd.code} {end.rcvd.reason}")
        case "/closed":
            await connection.send(await closed.get())
            await connection.wait_closed()
        case "/extensions":
            await connection.send(connection.response.headers.get("Sec-WebSocket-Extensions", ""))
            await connection.wait_closed()
        case "/close":
            await connection.close(4002, "grün")
        case "/fragments":
            await connection.send(f"part {part};" for part in range(5))
            await connection.wait_closed()
        case "/ping":
            await (await connection.ping("are you there?"))
            await connection.send("pong are you there?")
            await connection.wait_closed()


async def main():
    compression = "deflate" if "--deflate" in sys.argv else None
    async with serve(serve_one, "127.0.0.1", 0, compression=compression, max_size=64 << 20) as server:
        print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


asyncio.run(main())
