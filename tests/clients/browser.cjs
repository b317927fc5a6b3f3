// Drives the browser SDK as a page would, and prints the bodies of all requests that it made.
// node browser.cjs ENDPOINT KEY; NODE_PATH names the folder of node_modules.
const listeners = {};
const listen = (name, handler) => (listeners[name] = [...(listeners[name] ?? []), handler]);
const page = new URL("http://127.0.0.1/p?utm_source=x");
const define = (name, value) =>
  Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
define("location", page);
define("screen", { width: 1920, height: 1080 });
define("document", { title: "Größe 😀", referrer: "", visibilityState: "visible",
  addEventListener: listen, removeEventListener() {} });
define("window", { location: page, innerWidth: 1200, innerHeight: 800, devicePixelRatio: 2,
  addEventListener: listen, removeEventListener() {} });
const made = [];
const beacons = [];
const fetchReally = globalThis.fetch;
define("fetch", async (url, options) => {
  const answer = await fetchReally(url, options);
  made.push({ path: new URL(url).pathname, body: await new Response(options.body).text(),
    status: answer.status, answer: await answer.json() });
  return answer;
});
define("navigator", { userAgent: "Mozilla/5.0 (X11; Linux) Chrome/120", language: "en-US",
  onLine: true, sendBeacon: (url, body) => beacons.push(fetch(url, { method: "POST", body })) });

const { tell } = require("@tell-rs/browser");
const problems = [];

async function main() {
  const [endpoint, key] = process.argv.slice(2);
  tell.configure(key, { endpoint, flushInterval: 600000, batchSize: 50, networkTimeout: 120000,
    onError: (error) => problems.push(String(error)) });
  tell.track("Page Viewed", { url: "/p", nested: { list: [1, "zwei", null, true] }, text: "ü\u2028\"\n" });
  tell.identify("user_1", { email: "a@b.co", name: "Zoë", plan: "pro" });
  tell.register({ shop: "north" });
  for (let n = 0; n < 40; n++) tell.track("Counted", { n });
  tell.group("org_1", { seats: 50 });
  tell.revenue(49.99, "EUR", "order_1", { product: "pro" });
  tell.alias("anon_1", "user_1");
  tell.logError("Failed \"quoted\"\nline two", { code: 500 });
  tell.logInfo("hello");
  tell.log("emergency", "worst", { deep: { er: [1] } });
  await tell.flush();
  tell.track("Page Left", { last: true });
  for (const leave of listeners.beforeunload) leave();
  await Promise.all(beacons);
  await tell.close();
  console.log(JSON.stringify({ made, problems }));
}

main();
