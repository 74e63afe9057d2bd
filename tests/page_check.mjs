// The page in a real browser: it loads, moves under load, searches, asks for a token, escapes, and asks nobody else.
// Usage: node page_check.mjs BROWSER DOTMAX_SERVER DOTMAX SAMPLE.npy SCREENSHOTS (by page_check.sh)
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const [browserPath, serverPath, dotmaxPath, sample, screenshots] = process.argv.slice(2);
const started = [];

async function serve(...flags) {
  const words = ['--listen=127.0.0.1:0', '--metrics-listen=127.0.0.1:0', '--threads=1', ...flags];
  const child = spawn(serverPath, words, { stdio: ['ignore', 'ignore', 'pipe'] });
  started.push(child);
  let ports;
  for await (const line of createInterface({ input: child.stderr })) {
    const event = JSON.parse(line);
    if (event.event === 'listening') ports = event;
    if (event.event === 'ready') {
      child.stderr.resume();
      return { child, grpc: `127.0.0.1:${ports.grpc_port}`, page: `http://127.0.0.1:${ports.http_port}/` };
    }
  }
  throw new Error('the server does not start');
}

const browser = await chromium.launch({ executablePath: browserPath, args: ['--no-sandbox'] });

/** A tab that fails the check on any error, and on any request that is not the server's own. */
async function open(server, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const wrong = [];
  page.on('console', (message) => message.type() === 'error' && wrong.push(message.text()));
  page.on('pageerror', (error) => wrong.push(String(error)));
  page.on('request', (request) => {
    if (!request.url().startsWith(server.page) && !request.url().startsWith('data:')) wrong.push(`asks ${request.url()}`);
  });
  await page.goto(server.page);
  return { page, wrong, close: () => context.close() };
}

async function figures() {
  const server = await serve(`--matrix=words=${sample}`);
  const load = spawn(dotmaxPath, ['bench', `--server=${server.grpc}`, '--concurrency=4', '--duration=60s', '--json'], { stdio: 'ignore' });
  started.push(load);
  const { page, wrong, close } = await open(server);
  const tile = (name) => page.locator('#tiles div', { hasText: name }).locator('dd').innerText();
  await page.waitForFunction(() => document.querySelectorAll('#tiles dd').length === 8);
  await page.waitForFunction(() => /\d/.test(document.querySelector('#tiles dd').textContent) && document.querySelector('#tiles dd').textContent !== '0');
  const before = await page.locator('#levels').innerText();
  await page.waitForTimeout(6500);
  assert.notEqual(await page.locator('#levels').innerText(), before, 'figures do not move');
  assert.match(await tile('Median call'), /^[\d.]+ (µs|ms)$/);
  assert.match(await page.locator('#state').innerText(), /ready, up/);
  assert.match(await page.locator('#chart-rate svg').getAttribute('aria-label'), /^now per second: /);
  const lines = await page.locator('#chart-latency path').evaluateAll((paths) => paths.map((p) => p.getAttribute('d')));
  assert.ok(lines.length === 2 && lines.every((d) => /M.*L/.test(d)), lines);
  assert.match(await page.locator('#collections tbody').innerText(), /words\s+10,000\s+100\s+float16/);

  // By keyboard alone.
  await page.locator('#word').focus();
  await page.keyboard.type('piano');
  await page.keyboard.press('Enter');
  await page.waitForSelector('#hits tbody tr');
  assert.match(await page.locator('#hits tbody').innerText(), /^1\s+guitar\s+3607\s+0.7777583857727212/);
  assert.equal(await page.locator('#hits tbody tr').count(), 10);
  await page.locator('#hits tbody button').first().focus();
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.getElementById('search-said').textContent.includes('guitar'));
  await page.locator('#word').fill('<img src=x onerror=alert(1)>');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.getElementById('search-said').className === 'bad');
  assert.match(await page.locator('#search-said').innerText(), /is named "<img src=x onerror=alert\(1\)>"/);
  // The browser says of every 404 that it is an error; nothing else may be one.
  assert.deepEqual(wrong.filter((text) => !/404/.test(text)), []);
  await page.locator('#word').fill('piano');
  await page.keyboard.press('Enter');
  await page.waitForSelector('#hits tbody tr');
  for (const colorScheme of ['light', 'dark']) {
    for (const width of [1280, 360]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height: 900 });
      await page.waitForTimeout(2500);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(wide <= 0, `the page is ${wide} pixels wider than ${width}`);
      await page.screenshot({ path: path.join(screenshots, `page-${colorScheme}-${width}.png`), fullPage: true });
    }
  }
  assert.deepEqual(wrong.filter((text) => !/404/.test(text)), []);
  load.kill();
  server.child.kill();
  await page.waitForFunction(() => /does not answer/.test(document.getElementById('state').textContent));
  await close();
}

async function names(directory) {
  // Names and a file's name that are markup.
  const hostile = '<img src=x onerror="document.title=1">';
  cpSync(sample, path.join(directory, 'hostile.npy'));
  writeFileSync(path.join(directory, 'hostile.ids'), Array.from({ length: 10000 }, (_, i) => `${hostile}${i}\n`).join(''));
  const server = await serve(`--matrix=${path.join(directory, 'hostile.npy')}`);
  const { page, wrong, close } = await open(server);
  await page.waitForSelector('#search:not([hidden])');
  await page.locator('#word').fill(`${hostile}7`);
  await page.keyboard.press('Enter');
  await page.waitForSelector('#hits tbody tr');
  assert.ok((await page.locator('#hits tbody').innerText()).includes(hostile));
  assert.equal(await page.locator('img').count(), 0);
  assert.equal(await page.title(), 'dotmax');
  assert.deepEqual(wrong, []);
  await close();
}

async function tokens(directory) {
  const file = path.join(directory, 'tokens');
  const made = spawn('sh', ['-c', '"$0" token web --scopes=search 2>"$1"', dotmaxPath, file], { stdio: ['ignore', 'pipe', 'inherit'] });
  let token = '';
  for await (const piece of made.stdout) token += piece;
  const server = await serve(`--matrix=${sample}`, `--tokens-file=${file}`, '--metrics-token');
  const { page, close } = await open(server);
  await page.waitForSelector('#token-form:not([hidden])');
  assert.match(await page.locator('#state').innerText(), /a token is needed/);
  await page.locator('#token').fill('wrong');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => /not known/.test(document.getElementById('state').textContent));
  await page.locator('#token').fill(token.trim());
  await page.keyboard.press('Enter');
  await page.waitForSelector('#tiles dd');
  assert.ok(await page.locator('#token-form').isHidden());
  assert.ok(!(await page.content()).includes(token.trim()), 'the token is in the page');
  await page.reload();
  await page.waitForSelector('#tiles dd'); // still known in this tab
  await close();
}

try {
  mkdirSync(screenshots, { recursive: true });
  await figures();
  await names(screenshots);
  await tokens(screenshots);
  console.log('the page is as it should be');
} finally {
  await browser.close();
  for (const child of started) child.kill();
}
