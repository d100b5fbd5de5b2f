// Two pages of the chat sample, at $CHAT_URL, in the browser $CHROMIUM.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch, openPage } from "./pages.mjs";

const options = { timeout: 60_000 };
const complaints = [];
let browser, first, second;

const open = () => openPage(browser, process.env.CHAT_URL, complaints, { viewport: { width: 820, height: 640 } });

const shown = (page) => page.getByRole("log").locator("p").allTextContents();
const arrives = (page, text) => page.getByRole("log").locator("p").filter({ hasText: text }).waitFor();

before(async () => {
  browser = await launch();
  first = await open();
  second = await open();
}, options);

after(() => browser?.close(), options);

test("a message typed in one page arrives in the other, and in its own once", options, async () => {
  await first.getByLabel("Message", { exact: true }).fill("hello from the first");
  await first.getByRole("button", { name: "Send" }).click();
  await arrives(second, "hello from the first");
  // What the second says comes behind any echo of what the first said.
  await second.getByLabel("Message", { exact: true }).fill("hello from the second");
  await second.getByLabel("Message", { exact: true }).press("Enter");
  await arrives(first, "hello from the second");
  assert.deepEqual(await shown(first), ["You: hello from the first", "Someone: hello from the second"]);
  assert.deepEqual(await shown(second), ["Someone: hello from the first", "You: hello from the second"]);
});

test("the keyboard is enough", options, async () => {
  const page = await open();
  await page.keyboard.type("no mouse");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Space");
  await arrives(first, "no mouse");
  assert.equal(await page.getByLabel("Message", { exact: true }).inputValue(), "");
  await page.context().close();
});

test("markup is shown as it was typed", options, async () => {
  const markup = `<img src=x onerror="document.title='taken'"><b>bold</b><script>document.title="taken"</script>`;
  await first.getByLabel("Message", { exact: true }).fill(markup);
  await first.getByLabel("Message", { exact: true }).press("Enter");
  await arrives(second, "<b>bold</b>");
  for (const page of [first, second]) {
    assert.ok((await shown(page)).at(-1).endsWith(markup));
    assert.equal(await page.locator("#log img, #log b, #log script").count(), 0);
    assert.equal(await page.title(), "StormSocket chat");
  }
});

test("nothing is sent for nothing", options, async () => {
  const before = await shown(first);
  await second.getByLabel("Message", { exact: true }).fill("   ");
  await second.getByLabel("Message", { exact: true }).press("Enter");
  await second.getByLabel("Message", { exact: true }).fill("something");
  await second.getByLabel("Message", { exact: true }).press("Enter");
  await arrives(first, "something");
  assert.deepEqual(await shown(first), [...before, "Someone: something"]);
});

test("health, and no other page", options, async () => {
  const answers = await Promise.all(["health", "nothing"].map((path) => fetch(process.env.CHAT_URL + path)));
  assert.deepEqual(answers.map((answer) => answer.status), [200, 404]);
});

test("a picture of it, and nothing to complain about", options, async () => {
  await first.screenshot({ path: process.env.PICTURE });
  assert.deepEqual(complaints, []);
});
