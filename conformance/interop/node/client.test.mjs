// Our server, as `ws` sees it. Its address is $ECHO_URL: messages up to 16 MiB, compression for those who want it.
import assert from "node:assert/strict";
import { once } from "node:events";
import { after, test } from "node:test";
import WebSocket from "ws";

const TEXT = "Grüße, 世界 🌍 ".repeat(40);
const letters = [...TEXT];
const sockets = [];

async function open(perMessageDeflate) {
  const socket = new WebSocket(process.env.ECHO_URL, { perMessageDeflate });
  sockets.push(socket);
  socket.once("upgrade", (response) => { socket.agreed = response.headers["sec-websocket-extensions"] ?? ""; });
  await once(socket, "open");
  return socket;
}

async function echo(socket, data, options) {
  const answer = once(socket, "message");
  socket.send(data, options);
  const [message, binary] = await answer;
  return binary ? message : message.toString();
}

// A failed test must not leave a connection that keeps the process from ending.
after(() => sockets.forEach((socket) => socket.terminate()));

const settings = {
  "without compression": false,
  "with compression": { threshold: 0 },
  "with compression, no window kept": { threshold: 0, serverNoContextTakeover: true, clientNoContextTakeover: true },
  "with compression, small windows": { threshold: 0, serverMaxWindowBits: 9, clientMaxWindowBits: 10 },
};

for (const [name, deflate] of Object.entries(settings)) {
  const check = (what, run) => test(`${name}: ${what}`, { timeout: 30_000 }, async () => {
    const socket = await open(deflate);
    await run(socket);
    socket.close(1000);
    assert.equal((await once(socket, "close"))[0], 1000);
  });

  check("what was agreed", (socket) => {
    assert.equal(socket.agreed.startsWith("permessage-deflate"), Boolean(deflate));
    if (deflate.serverMaxWindowBits) assert.match(socket.agreed, /server_max_window_bits=9.*client_max_window_bits=10/);
    if (deflate.serverNoContextTakeover) assert.match(socket.agreed, /server_no_context_takeover/);
  });

  check("text, binary and nothing", async (socket) => {
    assert.equal(await echo(socket, TEXT), TEXT);
    assert.equal(await echo(socket, ""), "");
    const bytes = Buffer.from(Array.from({ length: 70_000 }, (_, index) => (index * 7919) >> 3));
    assert.deepEqual(await echo(socket, bytes), bytes);
    assert.deepEqual(await echo(socket, Buffer.alloc(0)), Buffer.alloc(0));
  });

  check("many messages that are like each other", async (socket) => {
    const sent = letters.slice(0, 500).map((_, index) => `${index}: ${letters.slice(0, index).join("")}`);
    const received = [];
    const all = new Promise((resolve) => socket.on("message", (data) => {
      received.push(data.toString());
      if (received.length === sent.length) resolve();
    }));
    sent.forEach((message) => socket.send(message));
    await all;
    assert.equal(received.findIndex((message, index) => message !== sent[index]), -1);
  });

  check("8 MiB", async (socket) => {
    const large = Buffer.alloc(8 << 20, "never the same river twice ");
    large.writeUInt32BE(0xdeadbeef, 5_000_000);
    assert.ok(large.equals(await echo(socket, large)));
  });

  check("fragments, with a ping between them", async (socket) => {
    const answer = once(socket, "message");
    const pong = once(socket, "pong");
    socket.send("one, ", { fin: false });
    socket.ping("in between");
    socket.send("two, ", { fin: false });
    socket.send("three", { fin: true });
    assert.equal((await answer)[0].toString(), "one, two, three");
    assert.equal((await pong)[0].toString(), "in between");
  });

  check("messages that are not compressed among those that are", async (socket) => {
    for (let turn = 0; turn < 10; turn++) assert.equal(await echo(socket, TEXT, { compress: turn % 2 === 0 }), TEXT);
  });

  check("pings", async (socket) => {
    for (const payload of ["", "x".repeat(125)]) {
      const pong = once(socket, "pong");
      socket.ping(payload);
      assert.equal((await pong)[0].toString(), payload);
    }
  });

  test(`${name}: close codes come back`, { timeout: 30_000 }, async () => {
    for (const code of [1000, 1001, 1011, 3000, 4999]) {
      const socket = await open(deflate);
      socket.close(code, "enough");
      assert.equal((await once(socket, "close"))[0], code);
    }
    const socket = await open(deflate);
    socket.close();
    assert.equal((await once(socket, "close"))[0], 1005);
  });

  test(`${name}: what is wrong is closed with the code for it`, { timeout: 30_000 }, async () => {
    const wrong = { 1007: (socket) => socket.send(Buffer.from([0xc0, 0x80]), { binary: false }),
                    1009: (socket) => socket.send(Buffer.alloc((16 << 20) + 1)) };
    for (const [code, send] of Object.entries(wrong)) {
      const socket = await open(deflate);
      socket.on("error", () => {});
      const closed = once(socket, "close");
      send(socket);
      assert.equal((await closed)[0], Number(code));
    }
  });
}
