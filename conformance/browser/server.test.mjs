// Pages of the server sample, at $SERVER_URL, whose admin token is $ADMIN_TOKEN, in the browser $CHROMIUM.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch, openPage } from "./pages.mjs";

const options = { timeout: 60_000 };
const url = process.env.SERVER_URL, token = process.env.ADMIN_TOKEN;
const complaints = [];
let browser, ann, ben;

const open = (settings) => openPage(browser, url, complaints, settings);

async function say(page, to, text) {
  await page.getByLabel("To", { exact: true }).selectOption({ label: to });
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.getByLabel("Message", { exact: true }).press("Enter");
}

const bubble = (page, text) => page.getByRole("log").locator("p").filter({ hasText: text });
const arrives = (page, text) => bubble(page, text).first().waitFor();
const submit = async (page, label, text) => {
  await page.getByLabel(label, { exact: true }).fill(text);
  await page.getByLabel(label, { exact: true }).press("Enter");
};

before(async () => {
  browser = await launch();
  ann = await open();
  ben = await open({ colorScheme: "dark" });
}, options);

after(() => browser?.close(), options);

test("names, and a message to everyone", options, async () => {
  await submit(ann, "Your name", "Ann");
  await submit(ben, "Your name", "Ben");
  await arrives(ann, "is now Ben");
  await say(ann, "Everyone", "hello everyone");
  await arrives(ben, "hello everyone");
  assert.equal(await bubble(ben, "hello everyone").locator(".who").textContent(), "Ann");
  assert.equal(await bubble(ann, "hello everyone").locator(".who").textContent(), "You");
});

test("a message in a room reaches its members, and nobody else", options, async () => {
  const stranger = await open();
  for (const page of [ann, ben]) await submit(page, "Room", "garden");
  await ann.getByRole("button", { name: "Leave garden" }).waitFor();
  await ben.getByRole("button", { name: "Leave garden" }).waitFor();
  await say(ben, "Room garden", "only in here");
  await arrives(ann, "only in here");
  assert.equal(await bubble(ann, "only in here").locator(".who").textContent(), "Ben in garden");
  await say(ben, "Everyone", "and out there");
  await arrives(stranger, "and out there");
  assert.equal(await bubble(stranger, "only in here").count(), 0);
  await stranger.context().close();
});

test("a whisper is for one", options, async () => {
  const option = ann.getByLabel("To", { exact: true }).locator("option").filter({ hasText: "Ben (" });
  await option.waitFor({ state: "attached" });
  await say(ann, await option.textContent(), "between us");
  await arrives(ben, "between us");
  assert.equal(await bubble(ben, "between us").locator(".who").textContent(), "Ann, privately");
});

test("markup is shown as it was typed, wherever it goes", options, async () => {
  const markup = `<img src=x onerror="document.title='taken'"><b>bold</b>`;
  const name = "<i>Ben</i><img src=x>";
  await submit(ben, "Your name", name);
  await submit(ben, "Room", "<u>room</u>");
  await ben.getByRole("button", { name: "Leave <u>room</u>" }).waitFor();
  await say(ben, "Everyone", markup);
  await arrives(ann, "<b>bold</b>");
  await ann.getByRole("cell", { name, exact: true }).waitFor();
  await ann.getByRole("listitem").filter({ hasText: "<u>room</u>" }).waitFor();
  for (const page of [ann, ben]) {
    assert.equal(await page.locator("img, b, i, u, main script").count(), 0);
    assert.equal(await page.title(), "StormSocket server");
  }
  await submit(ben, "Your name", "Ben");
  await ann.getByRole("cell", { name: "Ben", exact: true }).waitFor();
});

test("a refusal is told to whoever asked", options, async () => {
  await submit(ann, "Your name", "ben");
  await ann.getByRole("alert").getByText("the name `ben` is taken").waitFor();
  assert.equal(await ben.getByRole("alert").textContent(), "");
  await submit(ann, "Your name", "Ann");
  await ann.getByRole("alert").getByText("taken").waitFor({ state: "detached" });
});

test("numbers and plots live", options, async () => {
  const online = ann.locator("#numbers div").filter({ hasText: "Online" }).locator("dd");
  await ann.waitForFunction(() => document.querySelector("#numbers dd")?.textContent === "2");
  assert.equal(await online.textContent(), "2");
  assert.equal(await ann.getByRole("img").count(), 4);
  const label = await ann.getByRole("img", { name: /^Messages over the last two minutes; now out [\d,]+\/s, in [\d,]+\/s$/ });
  assert.equal(await label.count(), 1);
  const points = () => ann.locator("svg .curve").first().evaluate((curve) => curve.getAttribute("d").split("L").length);
  const before = await points();
  await ann.waitForFunction((before) => document.querySelector("svg .curve").getAttribute("d").split("L").length > before, before);
});

test("the keyboard is enough, and the focus stays", options, async () => {
  await ben.getByLabel("Message", { exact: true }).focus();
  await ben.keyboard.type("no mouse");
  await ben.keyboard.press("Tab");
  assert.equal(await ben.evaluate(() => document.activeElement.textContent), "Send");
  await ben.keyboard.press("Space");
  await arrives(ann, "no mouse");
  assert.equal(await ben.evaluate(() => document.activeElement.id), "text");
  // Lists are redrawn every second; the button that has the focus stays the same.
  await ben.getByRole("button", { name: "Leave garden" }).focus();
  const ticks = await ben.locator("svg .curve").first().getAttribute("d");
  await ben.waitForFunction((old) => document.querySelector("svg .curve").getAttribute("d") !== old, ticks);
  assert.equal(await ben.evaluate(() => document.activeElement.getAttribute("aria-label")), "Leave garden");
});

test("a wrong token is refused in so many words, and unlocks nothing", options, async () => {
  await submit(ann, "Admin token", "open sesame");
  await ann.locator("#admin-result").getByText("wrong admin token, 2 more attempts").waitFor();
  assert.equal(await ann.getByRole("button", { name: /^Kick/ }).count(), 0);
  assert.equal(await ann.getByLabel("Announcement").isVisible(), false);
});

test("an admin announces and kicks; who was kicked is told, and may come back", options, async () => {
  await submit(ann, "Admin token", token);
  await submit(ann, "Announcement", "closing soon");
  await arrives(ben, "closing soon");
  assert.equal(await ann.getByLabel("Admin token").isVisible(), false);
  assert.equal((await ann.content()).includes(token), false);
  await ann.screenshot({ path: process.env.PICTURE, fullPage: true });
  await ann.getByRole("button", { name: /^Kick Ben \(/ }).click();
  await ben.getByRole("status").getByText("disconnected: kicked by an admin").waitFor();
  await ann.getByRole("cell", { name: "Ben", exact: true }).waitFor({ state: "detached" });
  await ben.getByRole("button", { name: "Connect again" }).click();
  await ben.getByRole("status").getByText("connected", { exact: true }).waitFor();
  await ann.getByRole("cell", { name: "Ben", exact: true }).waitFor();
});

test("small screens need no sideways scrolling", options, async () => {
  const phone = await open({ viewport: { width: 360, height: 740 } });
  await phone.locator("#numbers div").first().waitFor();
  assert.ok(await phone.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  await phone.context().close();
});

test("the page of another site does not get in", options, async () => {
  const elsewhere = await (await browser.newContext()).newPage();
  await elsewhere.goto("about:blank");
  const ended = await elsewhere.evaluate((url) => new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.onopen = () => resolve("open");
    socket.onerror = () => resolve("refused");
  }), url.replace(/^http/, "ws"));
  assert.equal(ended, "refused");
  await elsewhere.context().close();
});

test("nothing to complain about", options, async () => {
  assert.deepEqual(complaints, []);
});
