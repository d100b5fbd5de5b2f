// A browser, and pages of users of their own.
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM,
    // Containers have neither user namespaces nor a large /dev/shm, and nothing is to be looked up or fetched.
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic",
           "--disable-background-networking", "--disable-component-update",
           "--disable-sync", "--no-first-run", "--no-default-browser-check",
           "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-proxy-server"],
  });
}

// A connected page of a user of its own. It may talk to `url` only; that, and whatever goes wrong in it, are complaints.
export async function openPage(browser, url, complaints, settings = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...settings });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(url)) complaints.push(request.url());
  });
  const response = await page.goto(url);
  assert.equal(response.status(), 200);
  await page.getByRole("status").getByText("connected", { exact: true }).waitFor();
  return page;
}
