"""Our server, as `websockets` sees it. Its address is $ECHO_URL: messages up to 16 MiB, compression if asked for."""
import asyncio
import os
import unittest

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.protocol import State

URL = os.environ["ECHO_URL"]
TEXT = "Grüße, 世界 🌍 " * 40


class WithoutCompression(unittest.IsolatedAsyncioTestCase):
    extensions = None

    async def asyncSetUp(self):
        self.socket = await connect(URL, compression=None, extensions=self.extensions, max_size=None, open_timeout=10)

    async def asyncTearDown(self):
        # To close what is closed it does not take if writing had been held up.
        if self.socket.state is not State.CLOSED:
            await self.socket.close()

    async def echo(self, message):
        await self.socket.send(message)
        self.assertEqual(await asyncio.wait_for(self.socket.recv(), 30), message)

    async def test_what_was_agreed(self):
        agreed = self.socket.response.headers.get("Sec-WebSocket-Extensions", "")
        self.assertEqual("permessage-deflate" in agreed, bool(self.extensions))

    async def test_text_binary_and_nothing(self):
        for message in (TEXT, "", bytes(range(256)) * 300, b""):
            await self.echo(message)

    async def test_many_messages_that_are_like_each_other(self):
        messages = [f'{{"number":{number},"text":"{TEXT[:number]}"}}' for number in range(500)]
        for message in messages:
            await self.socket.send(message)
        for message in messages:
            self.assertEqual(await asyncio.wait_for(self.socket.recv(), 30), message)

    async def test_8_mib(self):
        large = bytearray(b"never the same river twice " * 310_000)
        large[5_000_000:5_000_004] = b"\xde\xad\xbe\xef"
        await self.echo(bytes(large))

    async def test_fragments_with_a_ping_between_them(self):
        async def parts():
            yield "one, "
            await (await self.socket.ping("in between"))
            yield "two, "
            yield "three"

        await self.socket.send(parts())
        self.assertEqual(await asyncio.wait_for(self.socket.recv(), 30), "one, two, three")

    async def test_pings(self):
        for payload in (b"", b"x" * 125):
            await asyncio.wait_for(await self.socket.ping(payload), 30)

    async def test_close_codes_come_back(self):
        for code in (1000, 1001, 1011, 3000, 4999):
            async with connect(URL, compression=None, extensions=self.extensions) as socket:
                await socket.close(code, "enough")
                self.assertEqual(socket.protocol.close_rcvd.code, code)

    async def test_what_is_too_big_is_closed_with_the_code_for_it(self):
        with self.assertRaises(ConnectionClosed) as closed:
            await self.socket.send(bytes((16 << 20) + 1))
            await asyncio.wait_for(self.socket.recv(), 30)
        self.assertEqual(closed.exception.rcvd.code, 1009)


class WithCompression(WithoutCompression):
    extensions = [ClientPerMessageDeflateFactory()]


class WithCompressionAndNoWindowKept(WithoutCompression):
    extensions = [ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)]


class WithCompressionAndSmallWindows(WithoutCompression):
    extensions = [ClientPerMessageDeflateFactory(server_max_window_bits=9, client_max_window_bits=10)]


if __name__ == "__main__":
    unittest.main()
