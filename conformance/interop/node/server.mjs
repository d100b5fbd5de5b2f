// A WebSocket server made with `ws` for our client to be tried on. What it does depends on the path:
// `/` echoes, `/closed` tells how the next of those connections was closed, the others are said where they are.
import { WebSocketServer } from "ws";

const perMessageDeflate = process.argv.includes("--deflate") ? { threshold: 0 } : false;
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate, maxPayload: 64 << 20 });
const closed = [];
let asking = () => {};

server.on("listening", () => console.log(`listening on 127.0.0.1:${server.address().port}`));
server.on("connection", (socket, request) => {
  switch (request.url) {
    case "/":
      socket.on("message", (data, binary) => socket.send(data, { binary }));
      socket.on("close", (code, reason) => {
        if (code !== 1006) closed.push(`${code} ${reason}`);
        asking();
      });
      break;
    case "/closed":
      asking = () => {
        if (closed.length === 0) return;
        asking = () => {};
        socket.send(closed.shift());
      };
      asking();
      break;
    case "/extensions":
      socket.send(socket.extensions);
      break;
    case "/close":
      socket.close(4002, "grün");
      break;
    case "/fragments":
      for (let part = 0; part < 5; part++) socket.send(`part ${part};`, { fin: part === 4 });
      break;
    case "/ping":
      socket.on("pong", (data) => socket.send(`pong ${data}`));
      socket.ping("are you there?");
      break;
  }
});
