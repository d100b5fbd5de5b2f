// The page of the server sample: one WebSocket, events in, commands out.

import { button, bytes, count, duration, setText, sync } from "./lists.js";
import { Plot, binary } from "./plots.js";

const find = (id) => document.getElementById(id);
const MOST_SHOWN = 300, HISTORY = 120;

// What this page knows. The token is kept in memory only, to present it again when the connection is back.
let socket, me = null, token = null, isAdmin = false, pause = 500, samples = [], asked = [];
let wanted = { name: "", rooms: new Set() };

// -------------------------------------------------------------------------------------------- connection

function send(command) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(command));
}

function become(state, words) {
  find("status").dataset.state = state;
  find("status").textContent = words;
  find("send").disabled = state !== "open";
}

function connect() {
  find("again").hidden = true;
  become("connecting", "connecting");
  socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/");
  socket.onopen = () => {
    pause = 500;
    become("open", "connected");
    problem("");
    // What was set before the connection was lost is set again.
    if (token) send({ type: "admin", token });
    send({ type: "watch" });
    if (wanted.name) send({ type: "setName", name: wanted.name });
    for (const room of wanted.rooms) send({ type: "join", room });
  };
  socket.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    on[event.type]?.(event);
  };
  socket.onclose = ({ code, reason }) => {
    me = null;
    lock();
    if (code === 1008) {
      become("closed", `disconnected: ${reason}`);
      find("again").hidden = false;
      return;
    }
    become("closed", code === 1001 ? "the server stops, trying again" : "connection lost, trying again");
    setTimeout(connect, pause);
    pause = Math.min(pause * 2, 10_000);
  };
}

// -------------------------------------------------------------------------------------------- chat

function show(kind, who, text) {
  const log = find("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  const item = document.createElement("p");
  item.className = kind;
  if (who) {
    const name = document.createElement("span");
    name.className = "who";
    name.textContent = who;
    item.append(name);
  }
  const words = document.createElement("span");
  words.textContent = text;
  item.append(words);
  log.append(item);
  if (log.childElementCount > MOST_SHOWN) log.firstElementChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

const problem = (text) => setText(find("problem"), text);

function receivers(sessions) {
  const others = sessions.filter((session) => session.id !== me);
  const items = [
    { key: "all", text: "Everyone" },
    ...[...wanted.rooms].map((room) => ({ key: `room:${room}`, text: `Room ${room}` })),
    ...others.map(({ id, name }) => ({ key: `session:${id}`, text: `${name} (${id}), privately` })),
  ];
  sync(find("to"), items, (item) => item.key, (item) => new Option("", item.key), (option, item) => setText(option, item.text));
}

function joined() {
  const leave = (room) => button("Leave", `Leave ${room}`, () => send({ type: "leave", room }));
  sync(find("joined"), [...wanted.rooms].sort(), (room) => room, (room) => {
    const item = document.createElement("li");
    const name = document.createElement("span");
    name.textContent = room;
    item.append(name, leave(room));
    return item;
  }, () => {});
  receivers(lastSessions);
}

// -------------------------------------------------------------------------------------------- numbers

let lastSessions = [];

const NUMBERS = [
  ["Online", (now) => count(now.online)],
  ["Rooms", (now, event) => count(event.totalRooms)],
  ["Messages in", (now) => `${count(now.messagesIn)}/s`],
  ["Messages out", (now) => `${count(now.messagesOut)}/s`],
  ["Bytes in", (now) => `${bytes(now.bytesIn)}/s`],
  ["Bytes out", (now) => `${bytes(now.bytesOut)}/s`],
  ["Slow readers", (now) => count(now.slow), (now) => now.slow > 0],
  ["Dropped", (now, event) => count(event.totals.dropped), (now) => now.dropped > 0],
];

const perSecond = (format) => (value) => `${format(value)}/s`;
const plots = [
  new Plot(find("plots"), "Messages", [["out", (s) => s.messagesOut], ["in", (s) => s.messagesIn]], perSecond(count)),
  new Plot(find("plots"), "Bytes", [["out", (s) => s.bytesOut], ["in", (s) => s.bytesIn]], perSecond(bytes), binary),
  new Plot(find("plots"), "Sessions", [["online", (s) => s.online], ["slow", (s) => s.slow]], count),
  new Plot(find("plots"), "Trouble", [["dropped", (s) => s.dropped], ["errors", (s) => s.errors]], perSecond(count)),
];

function numbers(event) {
  sync(find("numbers"), NUMBERS, ([label]) => label, ([label]) => {
    const box = document.createElement("div");
    const term = document.createElement("dt");
    term.textContent = label;
    box.append(term, document.createElement("dd"));
    return box;
  }, (box, [, value, alarm]) => {
    setText(box.lastElementChild, value(event.sample, event));
    box.className = alarm?.(event.sample) ? "alarm" : "";
  });
}

const CELLS = [
  ["number", (s) => String(s.id)],
  ["text", (s) => s.name],
  ["text", (s) => s.rooms.join(", ")],
  ["number", (s) => count(s.messagesIn)],
  ["number", (s) => count(s.messagesOut)],
  ["number", (s) => bytes(s.pending)],
  ["number", (s) => count(s.dropped)],
  ["number", (s) => s.roundTrip === undefined ? "–" : `${s.roundTrip.toFixed(1)} ms`],
  ["number", (s) => duration(s.uptime)],
  ["admin-only", (s) => s.address ?? "–"],
];

function sessionRow(session) {
  const row = document.createElement("tr");
  for (const [kind] of CELLS) {
    const cell = document.createElement("td");
    cell.className = kind;
    row.append(cell);
  }
  const cell = document.createElement("td");
  cell.className = "buttons admin-only";
  const kick = button("Kick", "", () => send({ type: "kick", id: session.id }), "danger");
  if (session.id !== me) cell.append(kick);
  row.append(cell);
  return row;
}

function tables({ sample, sessions, rooms, totalRooms }) {
  sync(find("sessions"), sessions, (session) => session.id, sessionRow, (row, session) => {
    CELLS.forEach(([, value], index) => setText(row.cells[index], value(session)));
    row.className = [session.id === me ? "me" : "", session.slow ? "slow" : ""].join(" ").trim();
    row.querySelector("button")?.setAttribute("aria-label", `Kick ${session.name} (${session.id})`);
  });
  const more = sample.online - sessions.length;
  setText(find("sessions-more"), more > 0 && sessions.length > 0 ? `and ${count(more)} more` : "");
  sync(find("rooms"), rooms, (room) => room.room, () => {
    const item = document.createElement("li");
    const name = document.createElement("span");
    item.append(name, document.createElement("strong"), document.createElement("span"));
    return item;
  }, (item, room) => {
    setText(item.children[0], room.room);
    setText(item.children[1], count(room.members));
  });
  setText(find("rooms-more"), totalRooms > rooms.length ? `and ${count(totalRooms - rooms.length)} more` : "");
}

// -------------------------------------------------------------------------------------------- admin

function unlock() {
  isAdmin = true;
  document.body.classList.add("admin");
  const hadFocus = find("admin-form").contains(document.activeElement);
  find("admin-form").hidden = true;
  find("broadcast-form").hidden = false;
  find("token").value = "";
  if (hadFocus) find("announcement").focus();
}

function lock() {
  isAdmin = false;
  document.body.classList.remove("admin");
  find("admin-form").hidden = false;
  find("broadcast-form").hidden = true;
}

const adminResult = (text, bad = false) => {
  find("admin-result").className = bad ? "problem" : "soft";
  setText(find("admin-result"), text);
};

// -------------------------------------------------------------------------------------------- events

const on = {
  welcome({ id, name }) {
    me = id;
    if (!wanted.name) find("name").value = name;
  },
  nameSet({ name }) {
    wanted.name = find("name").value = name;
    problem("");
  },
  chat({ from, fromId, room, message }) {
    const where = room === undefined ? "" : ` in ${room}`;
    show(fromId === me ? "mine" : "theirs", `${fromId === me ? "You" : from}${where}`, message);
  },
  whisper({ from, message }) {
    show("whisper", `${from}, privately`, message);
  },
  whisperSent({ to, message }) {
    const name = lastSessions.find((session) => session.id === to)?.name ?? `session ${to}`;
    show("mine whisper", `You to ${name}, privately`, message);
  },
  joined({ room }) {
    const isNew = !wanted.rooms.has(room);
    wanted.rooms.add(room);
    joined();
    // After a reconnect whoever was being written to stays.
    if (isNew) find("to").value = `room:${room}`;
    problem("");
  },
  left({ room }) {
    wanted.rooms.delete(room);
    joined();
  },
  system({ message }) {
    show("system", "", message);
  },
  announcement({ message }) {
    show("announcement", "Announcement", message);
  },
  watching({ history }) {
    samples = history;
    for (const plot of plots) plot.draw(samples);
  },
  stats(event) {
    samples.push(event.sample);
    if (samples.length > HISTORY) samples.shift();
    for (const plot of plots) plot.draw(samples);
    lastSessions = event.sessions;
    numbers(event);
    tables(event);
    receivers(event.sessions);
  },
  admin() {
    token = asked.shift() ?? token;
    unlock();
    adminResult("");
  },
  kicked({ id }) {
    adminResult(`Session ${id} was kicked.`);
  },
  error({ code, message }) {
    if (code === "wrongToken") {
      asked.shift();
      token = null;
      adminResult(message, true);
      find("token").select();
    } else if (["noSession", "notAdmin", "yourself"].includes(code) && isAdmin) adminResult(message, true);
    else problem(message);
  },
};

// -------------------------------------------------------------------------------------------- forms

function onSubmit(form, action) {
  find(form).addEventListener("submit", (event) => {
    event.preventDefault();
    if (socket?.readyState === WebSocket.OPEN) action();
  });
}

onSubmit("chat-form", () => {
  const message = find("text").value, to = find("to").value;
  if (message.trim() === "") return;
  problem("");
  if (to.startsWith("room:")) send({ type: "roomMsg", room: to.slice(5), message });
  else if (to.startsWith("session:")) send({ type: "whisper", to: Number(to.slice(8)), message });
  else send({ type: "chat", message });
  find("text").value = "";
  find("text").focus();
});

onSubmit("name-form", () => send({ type: "setName", name: find("name").value }));

onSubmit("room-form", () => {
  send({ type: "join", room: find("room").value });
  find("room").value = "";
});

onSubmit("admin-form", () => {
  asked.push(find("token").value);
  send({ type: "admin", token: find("token").value });
});

onSubmit("broadcast-form", () => {
  send({ type: "broadcast", message: find("announcement").value });
  find("announcement").value = "";
});

find("again").addEventListener("click", connect);

receivers([]);
connect();
