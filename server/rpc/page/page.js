// Figures of /metrics as they change, what is resident, and searches by the names of rows. Whatever comes from outside
// is put in as text, never as markup.
'use strict';

const PERIOD_MS = 2000;
const KEPT = 90; // samples: three minutes
const $ = (id) => document.getElementById(id);
let token = sessionStorage.getItem('dotmax-token') ?? '';

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function get(path) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const reply = await fetch(path, { headers, cache: 'no-store' });
  const text = await reply.text();
  if (reply.ok) return text;
  let message = text.trim();
  try {
    message = JSON.parse(text).error.message;
  } catch {
    // it is no JSON
  }
  if (reply.status === 401) {
    $('token-form').hidden = false;
    message = token ? 'the token is not known here' : 'a token is needed';
  }
  throw new Refused(reply.status, message);
}

// ---- Prometheus' text format

class Samples {
  #samples = [];

  constructor(text) {
    for (const line of text.split('\n')) {
      const parts = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
      if (parts === null) continue;
      const labels = {};
      for (const [, name, value] of (parts[2] ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
        labels[name] = value.replace(/\\(.)/g, (_, c) => (c === 'n' ? '\n' : c));
      }
      this.#samples.push({ name: parts[1], labels, value: Number(parts[3].replace('Inf', 'Infinity')) });
    }
  }

  all(name, labels = {}) {
    const fits = (sample) => sample.name === name && Object.entries(labels).every(([k, v]) => sample.labels[k] === v);
    return this.#samples.filter(fits);
  }

  sum(name, labels) {
    return this.all(name, labels).reduce((sum, { value }) => sum + value, 0);
  }

  // Cumulative counts by upper bound, of all series together.
  buckets(name, labels) {
    const counts = new Map();
    for (const { labels: { le }, value } of this.all(`${name}_bucket`, labels)) {
      const bound = le === '+Inf' ? Infinity : Number(le);
      counts.set(bound, (counts.get(bound) ?? 0) + value);
    }
    return [...counts].sort(([a], [b]) => a - b);
  }
}

// As Prometheus' histogram_quantile does, of what came between two scrapes; NaN if nothing did.
function quantile(q, before, after) {
  const fresh = after.map(([bound, count], i) => [bound, count - (before[i]?.[1] ?? 0)]);
  const total = fresh.at(-1)?.[1] ?? 0;
  if (!(total > 0)) return NaN;
  const rank = q * total;
  const at = fresh.findIndex(([, count]) => count >= rank);
  const [low, below] = at > 0 ? fresh[at - 1] : [0, 0];
  const [high, count] = fresh[at];
  return high === Infinity ? low : low + ((high - low) * (rank - below)) / Math.max(count - below, 1e-9);
}

// ---- for people

const plain = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const brief = new Intl.NumberFormat('en', { maximumSignificantDigits: 3, notation: 'compact' });
const short = (x) => (Number.isFinite(x) ? brief.format(x) : '–');

function time(seconds) {
  if (!Number.isFinite(seconds)) return '–';
  if (seconds < 1e-3) return `${short(seconds * 1e6)} µs`;
  return seconds < 1 ? `${short(seconds * 1e3)} ms` : `${short(seconds)} s`;
}

function bytes(count) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  const unit = Math.min(Math.floor(Math.log10(Math.max(count, 1)) / 3), units.length - 1);
  return `${Number((count / 1000 ** unit).toPrecision(3))} ${units[unit]}`;
}

function span(seconds) {
  const [days, hours, minutes] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor);
  return days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const cell = (content, className = '') => element('td', { className }, content);
const number = (content) => cell(content, 'number');

// ---- charts

function svg(name, attributes, text) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Lines over the last samples: [{name, className, values}], drawn in pixels of the space that there is.
function draw(place, lines, format) {
  const width = Math.max(place.clientWidth, 200);
  const [height, left, bottom, top] = [160, 56, 20, 16];
  const shown = lines.flatMap(({ values }) => values).filter(Number.isFinite);
  const most = Math.max(...shown, 0) * 1.1 || 1;
  const x = (i) => left + ((width - left - 8) * i) / (KEPT - 1);
  const y = (value) => height - bottom - ((height - bottom - top) * value) / most;
  const latest = lines.map(({ name, values }) => `${name}: ${format(values.at(-1) ?? NaN)}`).join(', ');
  const chart = svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `now ${latest}; highest ${format(Math.max(...shown, 0))}` });
  for (const share of [0, 0.5, 1]) {
    const value = (most / 1.1) * share;
    chart.append(svg('line', { class: 'grid', x1: left, x2: width - 8, y1: y(value), y2: y(value) }));
    chart.append(svg('text', { x: left - 6, y: y(value) + 4, 'text-anchor': 'end' }, shown.length ? format(value) : ''));
  }
  chart.append(svg('text', { x: left, y: height - 4 }, '3 min ago'));
  chart.append(svg('text', { x: width - 8, y: height - 4, 'text-anchor': 'end' }, 'now'));
  lines.forEach(({ name, className, values }, l) => {
    let path = '';
    let pen = 'M';
    values.forEach((value, i) => {
      if (Number.isFinite(value)) path += `${pen}${x(KEPT - values.length + i).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = Number.isFinite(value) ? 'L' : 'M';
    });
    // One sample alone is a dot.
    chart.append(svg('path', { class: className, d: path.replace(/(M[^ML]+)(?=M|$)/g, '$1h0.1'), 'stroke-linecap': 'round' }));
    if (lines.length > 1) {
      chart.append(svg('text', { class: `${className}-text`, x: left + 8 + 90 * l, y: 12 }, `${className === 'two' ? '- -' : '—'} ${name}`));
    }
  });
  place.replaceChildren(chart);
}

// ---- what is shown

const history = { rate: [], p50: [], p99: [] };
let last;

function keep(list, value) {
  list.push(value);
  if (list.length > KEPT) list.shift();
}

const SEARCH = 'grpc_server_handling_seconds';

function showFigures(samples) {
  const now = performance.now() / 1000;
  const build = samples.all('dotmax_build_info')[0]?.labels ?? {};
  $('version').textContent = `${build.version ?? ''} with oneDNN ${build.onednn ?? '?'}`;
  const current = {
    at: now,
    rows: samples.sum('dotmax_query_rows_total'),
    calls: samples.sum('grpc_server_handled_total', { grpc_service: 'dotmax.v1.Dotmax' }),
    cpu: samples.sum('process_cpu_seconds_total'),
    started: samples.sum('process_start_time_seconds'),
    buckets: samples.buckets(SEARCH, { grpc_service: 'dotmax.v1.Dotmax' }),
  };
  const restarted = last !== undefined && last.started !== current.started;
  if (last !== undefined && !restarted) {
    const seconds = current.at - last.at;
    keep(history.rate, (current.rows - last.rows) / seconds);
    keep(history.p50, quantile(0.5, last.buckets, current.buckets));
    keep(history.p99, quantile(0.99, last.buckets, current.buckets));
    const tiles = {
      'Query vectors / s': short(history.rate.at(-1)),
      'Calls / s': short((current.calls - last.calls) / seconds),
      'Median call': time(history.p50.at(-1)),
      '99% of calls within': time(history.p99.at(-1)),
      'In flight': plain.format(samples.sum('dotmax_rpcs_in_flight')),
      Waiting: plain.format(samples.sum('dotmax_queue_requests')),
      'Processors busy': ((current.cpu - last.cpu) / seconds).toFixed(2),
      Memory: bytes(samples.sum('process_resident_memory_bytes')),
    };
    $('tiles').replaceChildren(
      ...Object.entries(tiles).map(([name, value]) => element('div', {}, element('dt', {}, name), element('dd', {}, value))),
    );
    draw($('chart-rate'), [{ name: 'per second', className: 'one', values: history.rate }], short);
    draw($('chart-latency'), [
      { name: 'median', className: 'one', values: history.p50 },
      { name: '99%', className: 'two', values: history.p99 },
    ], time);
  }
  last = current;

  const levels = {
    screened: samples.sum('dotmax_pairs_screened_total'),
    'left by the screen': samples.sum('dotmax_pairs_survived_total'),
    'left by a second look': samples.sum('dotmax_pairs_checked_total'),
    'scored exactly': samples.sum('dotmax_pairs_rescored_total'),
  };
  const all = levels.screened;
  // Shares span many powers of ten: bars are of their logarithms.
  const bar = (count) => (count > 0 ? Math.max(Math.log10(count) / Math.log10(Math.max(all, 10)), 0.01) : 0);
  $('levels').tBodies[0].replaceChildren(
    ...Object.entries(levels).map(([name, count]) => {
      const share = all > 0 && count < all ? ` (${Number(((100 * count) / all).toPrecision(2))}%)` : '';
      const meter = svg('svg', { class: 'bar', 'aria-hidden': 'true' });
      meter.append(svg('rect', { width: `${100 * bar(count)}%`, height: '100%' }));
      return element('tr', {}, element('th', { scope: 'row' }, name), cell(short(count) + share), cell(meter, 'bars'));
    }),
  );
  const refused = samples.all('dotmax_refused_total').filter(({ value }) => value > 0).sort((a, b) => b.value - a.value);
  $('refused').tBodies[0].replaceChildren(
    ...refused.map(({ labels, value }) => element('tr', {}, element('th', { scope: 'row' }, labels.reason), number(plain.format(value)))),
  );
  if (refused.length === 0) $('refused').tBodies[0].append(element('tr', {}, cell('none')));
  return span(Date.now() / 1000 - current.started);
}

function showCollections(collections) {
  $('collections').tBodies[0].replaceChildren(
    ...collections.map((c) =>
      element(
        'tr', {},
        element('th', { scope: 'row' }, c.name), number(plain.format(c.rows)), number(plain.format(c.dim)), cell(c.dtype),
        number(bytes(c.resident_bytes)),
        c.intact ? cell(c.screen) : cell('its file has changed: reload it', 'bad'),
        number(c.version),
      ),
    ),
  );
  const estimates = collections.flatMap((c) => c.estimates.map((e) => ({ collection: c.name, ...e })));
  $('estimates').hidden = estimates.length === 0;
  $('estimates').querySelector('tbody').replaceChildren(
    ...estimates.map((e) =>
      element(
        'tr', {}, cell(e.collection), cell(e.screen), number(time(e.single_query_seconds ?? NaN)), number(time(e.batch_query_seconds)),
      ),
    ),
  );
  // Replaced only when it changes: somebody may be choosing.
  const named = collections.filter((c) => c.named).map((c) => c.name);
  const select = $('collection');
  if (named.join('\n') !== [...select.options].map((option) => option.value).join('\n')) {
    const chosen = select.value;
    select.replaceChildren(...named.map((name) => element('option', { value: name }, name)));
    if (named.includes(chosen)) select.value = chosen;
  }
  $('search').hidden = named.length === 0;
}

async function refresh() {
  if (document.hidden) {
    last = undefined; // what comes next is not of two seconds
    return;
  }
  try {
    const [collections, metrics] = await Promise.all([get('collections.json'), get('metrics')]);
    showCollections(JSON.parse(collections).collections);
    const uptime = showFigures(new Samples(metrics));
    const ready = (await fetch('readyz', { cache: 'no-store' })).ok;
    $('state').textContent = ready ? `● ready, up ${uptime}` : `○ not ready, up ${uptime}`;
    $('token-form').hidden = true;
  } catch (failure) {
    last = undefined; // what comes next is no longer of two seconds
    $('state').textContent = failure instanceof Refused ? `○ ${failure.message}` : '○ the server does not answer';
  }
}

// ---- searches

async function search(word) {
  const asked = new URLSearchParams({
    collection: $('collection').value, word, metric: $('metric').value, top_k: $('top-k').value,
  });
  $('search-said').className = 'quiet';
  $('search-said').textContent = 'searching …';
  try {
    const { hits, milliseconds } = JSON.parse(await get(`search.json?${asked}`));
    $('hits').hidden = hits.length === 0;
    $('hits').tBodies[0].replaceChildren(
      ...hits.map(({ id, name, score }, i) => {
        const again = element('button', { type: 'button', title: `search for ${name}` }, name);
        again.addEventListener('click', () => {
          $('word').value = name;
          search(name);
        });
        return element('tr', {}, number(i + 1), cell(again), number(id), number(score));
      }),
    );
    $('search-said').textContent = `${hits.length} rows beside “${word}” itself, in ${milliseconds} ms`;
  } catch (failure) {
    $('hits').hidden = true;
    $('search-said').className = 'bad';
    $('search-said').textContent = failure instanceof Refused ? failure.message : 'the server does not answer';
  }
}

$('search-form').addEventListener('submit', (event) => {
  event.preventDefault();
  search($('word').value.trim());
});
$('token-form').addEventListener('submit', (event) => {
  event.preventDefault();
  token = $('token').value.trim();
  $('token').value = '';
  sessionStorage.setItem('dotmax-token', token);
  refresh();
});
document.addEventListener('visibilitychange', refresh);
setInterval(refresh, PERIOD_MS);
refresh();
