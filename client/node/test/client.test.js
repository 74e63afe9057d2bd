// The Node client against real servers: the program that DOTMAX_SERVER_BINARY names.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Client, DotmaxError } from 'dotmax';
import { serve, stop } from './servers.js';

const ROWS = 500;
const DIM = 12;
const directory = mkdtempSync(path.join(tmpdir(), 'dotmax-node-'));
let target;

// Small integers times 2^-10: float32 numbers whose products and sums are exact in doubles, in any order.
let state = 12345;
const draw = (rows, dim = DIM) =>
  Float32Array.from({ length: rows * dim }, () => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return ((state >> 8) % 4096 - 2048) / 1024;
  });

function npy(name, values, dim) {
  const kind = values instanceof Float64Array ? '<f8' : '<f4';
  const shape = `(${values.length / dim}, ${dim})`;
  const text = `{'descr': '${kind}', 'fortran_order': False, 'shape': ${shape}, }`;
  const header = text.padEnd(128 - 10 - 1) + '\n';
  const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
  const file = path.join(directory, `${name}.npy`);
  writeFileSync(file, Buffer.concat([Buffer.from('\x93NUMPY\x01\x00', 'latin1'), Buffer.from([118, 0]), Buffer.from(header), bytes]));
  return `--matrix=${name}=${file}`;
}

/** The hits of one query by exact arithmetic, best first, ties by id. */
function exact(query, base, metric = 'inner_product') {
  const sign = metric === 'squared_euclidean' ? 1 : -1;
  return Array.from({ length: base.length / query.length }, (_, id) => {
    const row = base.subarray(id * query.length, (id + 1) * query.length);
    const score = query.reduce((sum, x, i) => sum + (sign === 1 ? (x - row[i]) ** 2 : x * row[i]), 0);
    return { id, score };
  }).sort((a, b) => sign * (a.score - b.score) || a.id - b.id);
}

const rowOf = (rows, i, dim = DIM) => rows.subarray(i * dim, (i + 1) * dim);
const numbers = (ids) => Array.from(ids, Number);
const hits = (result, i) => numbers(result.row(i).ids).map((id, h) => ({ id, score: result.row(i).scores[h] }));

const base = draw(ROWS);
let client;
before(async () => {
  target = await serve(
    npy('base', base, DIM),
    npy('other', Float64Array.from(draw(50, 4)), 4),
    `--data-dir=${directory}`,
    '--max-message-bytes=1048576',
  );
  client = new Client(target, { maxMessageBytes: 2 ** 20 });
});
after(() => {
  client.close();
  stop();
  rmSync(directory, { recursive: true });
});

const refused = (code, reason) => (error) => {
  assert.ok(error instanceof DotmaxError, error);
  assert.deepEqual([error.code, error.reason], [code, reason]);
  return true;
};

describe('search', () => {
  test('hits are those of exact arithmetic', async () => {
    const queries = draw(7);
    for (const metric of ['inner_product', 'squared_euclidean']) {
      const result = await client.search(queries, { dim: DIM, topK: 5, collection: 'base', metric });
      assert.equal(result.length, 7);
      for (let i = 0; i < 7; ++i) assert.deepEqual(hits(result, i), exact(rowOf(queries, i), base, metric).slice(0, 5));
      assert.ok(result.ids instanceof BigUint64Array && result.scores instanceof Float64Array);
      assert.ok(result.version > 0n && result.coverage === 1);
    }
    assert.throws(() => new Client(target, { maxMessageBytes: 5 }), /maxMessageBytes is 5/);
  });

  test('global hits have their query rows', async () => {
    const queries = draw(6);
    const result = await client.search(queries, { dim: DIM, topK: 4, collection: 'base', reduction: 'global' });
    const all = Array.from({ length: 6 }, (_, q) => exact(rowOf(queries, q), base).map((hit) => ({ q, ...hit }))).flat();
    all.sort((a, b) => b.score - a.score || a.q - b.q || a.id - b.id);
    const got = numbers(result.ids).map((id, h) => ({ q: result.queryRows[h], id, score: result.scores[h] }));
    assert.deepEqual(got, all.slice(0, 4));
    assert.deepEqual(result.best, { queryRow: all[0].q, id: BigInt(all[0].id), score: all[0].score });
    assert.throws(() => result.row(0), /not by row/);
  });

  test('ranges, counts and exclusions', async () => {
    const queries = draw(3);
    const minScore = 4.0;
    const right = [0, 1, 2].map((i) => exact(rowOf(queries, i), base).filter((hit) => hit.score >= minScore));
    const result = await client.search(queries, { dim: DIM, topK: 0, minScore, collection: 'base' });
    for (let i = 0; i < 3; ++i) assert.deepEqual(hits(result, i), right[i]);
    assert.deepEqual(result.truncated, [false, false, false]);
    const counted = await client.search(queries, { dim: DIM, minScore, countOnly: true, collection: 'base' });
    assert.deepEqual(counted.counts, right.map((list) => list.length));
    const first = right.map((list) => list[0]?.id ?? 0);
    const exclude = [[first[0]], [], [BigInt(first[2]), 999999]];
    const without = await client.search(queries, { dim: DIM, exclude, collection: 'base' });
    assert.deepEqual(hits(without, 0), exact(rowOf(queries, 0), base).slice(1, 2));
    assert.deepEqual(hits(without, 1), exact(rowOf(queries, 1), base).slice(0, 1));
  });

  test('queries beyond a message go in parts', async () => {
    const some = draw(40);
    const queries = new Float32Array(30000 * DIM); // 1.4 MB; the limit is 1 MiB
    for (let i = 0; i < 750; ++i) queries.set(some, i * some.length);
    const steps = [];
    const options = { dim: DIM, topK: 2, collection: 'base' };
    const result = await client.search(queries, { ...options, progress: (...step) => steps.push(step) });
    assert.ok(steps.length > 1);
    assert.deepEqual(steps.at(-1), [30000, 30000]);
    const once = await client.search(some, options);
    for (const i of [0, 39, 40, 29999]) assert.deepEqual(hits(result, i), hits(once, i % 40));
    assert.deepEqual(result.best, once.best);
    const global = await client.search(queries, { ...options, topK: 3, reduction: 'global' });
    const row = once.best.queryRow;
    assert.deepEqual([...global.queryRows], [row, row + 40, row + 80]);
    assert.deepEqual(numbers(global.ids), Array(3).fill(Number(once.best.id)));
    const range = { ...options, topK: 0, reduction: 'global', minScore: once.best.score };
    assert.equal((await client.search(queries, range)).length, 750);
    assert.deepEqual((await client.search(queries, { ...range, countOnly: true })).counts, [750]);
  });

  test('rows of a collection as queries', async () => {
    const result = await client.searchRows({ collection: 'base', selfPairs: 'not_itself', metric: 'squared_euclidean' });
    assert.equal(result.length, ROWS);
    assert.deepEqual(hits(result, 3), exact(rowOf(base, 3), base, 'squared_euclidean').filter((hit) => hit.id !== 3).slice(0, 1));
    const two = await client.searchRows({ collection: 'base', of: 'base', first: 3, rows: 2, metric: 'squared_euclidean' });
    assert.deepEqual(numbers(two.ids), [3, 4]);
  });
});

describe('matrices that are sent', () => {
  test('the best of two, also where they must be streamed', async () => {
    assert.deepEqual((await client.max([[1, 2], [3, 4]], [[5, 6], [5, 6]])).best, { queryRow: 1, id: 0n, score: 39 });
    const [a, b] = [draw(3), draw(60000)]; // 2.9 MB
    const result = await client.max(a, b, { dim: DIM, topK: 2, reduction: 'per_row' });
    for (let i = 0; i < 3; ++i) assert.deepEqual(hits(result, i), exact(rowOf(a, i), b).slice(0, 2));
    const { best } = await client.max(b, a, { dim: DIM });
    assert.equal(best.score, Math.max(...result.scores));
  });

  test('every dtype', async () => {
    const b = { values: Int8Array.of(1, -2, 3, 4), dim: 2 };
    for (const a of [
      Float32Array.of(0.5, 2),
      Float64Array.of(0.5, 2),
      { values: Uint16Array.of(0x3800, 0x4000), dim: 2, dtype: 'float16' },
      { values: Uint16Array.of(0x3f00, 0x4000), dim: 2, dtype: 'bfloat16' },
      { values: [0.5, 2], dim: 2 },
    ]) {
      assert.deepEqual((await client.max(a, b, { dim: 2 })).best, { queryRow: 0, id: 1n, score: 9.5 });
    }
    assert.equal((await client.max(Int8Array.of(-128, 127), b, { dim: 2 })).best.score, 124);
  });

  test('pairs, in several messages, one alone larger than a message', async () => {
    const pairs = Array.from({ length: 120 }, (_, p) => ({
      queries: { values: draw(100), dim: DIM },
      base: p % 7 === 3 ? [] : { values: draw(150), dim: DIM },
    }));
    pairs[60].base = { values: draw(30000), dim: DIM };
    for (const metric of ['inner_product', 'squared_euclidean']) {
      const result = await client.pairs(pairs, { metric, dim: DIM });
      const full = pairs.map((_, p) => p).filter((p) => Array.isArray(pairs[p].base) === false);
      assert.deepEqual([...result.pairs], full);
      for (const at of [0, 50, 60, full.length - 1]) {
        const { best } = await client.max(pairs[full[at]].queries, pairs[full[at]].base, { metric });
        assert.deepEqual({ queryRow: result.queryRows[at], id: result.ids[at], score: result.scores[at] }, best);
      }
      const extreme = (metric === 'squared_euclidean' ? Math.min : Math.max)(...result.scores);
      assert.deepEqual([result.best.score, result.best.pair], [extreme, full[result.scores.indexOf(extreme)]]);
    }
    assert.equal((await client.pairs([])).best, undefined);
  });
});

describe('streams', () => {
  const options = { dim: DIM, collection: 'base', topK: 2 };

  test('in order, or as they are done', async () => {
    const batches = Array.from({ length: 150 }, (_, i) => draw(1 + (i % 3)));
    const inOrder = [];
    for await (const result of client.searchStream(batches, options)) inOrder.push(result);
    assert.deepEqual(inOrder.map((result) => result.tag), [...batches.keys()]);
    for (const i of [0, 77, 149]) assert.deepEqual(hits(inOrder[i], 0), exact(rowOf(batches[i], 0), base).slice(0, 2));
    const tags = [];
    async function* slowly() {
      yield* batches;
    }
    for await (const { tag } of client.searchStream(slowly(), { ...options, ordered: false })) tags.push(tag);
    assert.deepEqual(tags.sort((a, b) => a - b), [...batches.keys()]);
  });

  test('a bad batch, and a caller that fails', async () => {
    const bad = draw(1).fill(NaN);
    const tags = [];
    const errors = [];
    for await (const { tag } of client.searchStream([draw(1), bad, draw(1)], { ...options, onError: (e) => errors.push(e) })) tags.push(tag);
    assert.deepEqual([tags, errors.map((e) => [e.tag, e.reason, e.fields[0].field])], [[0, 2], [[1, 'NOT_FINITE', 'queries.data']]]);
    const drain = async (batches) => {
      for await (const { tag } of client.searchStream(batches, options)) tags.push(tag);
    };
    await assert.rejects(drain([bad]), refused('INVALID_ARGUMENT', 'NOT_FINITE'));
    await assert.rejects(drain([draw(1), 'text']), /batches\[1\]: cannot send String/);
    await assert.rejects(drain((function* () { throw new Error('mine'); })()), /mine/);
    for await (const { tag } of client.searchStream((function* () { for (;;) yield draw(1); })(), options)) if (tag === 5) break;
  });
});

describe('failures', () => {
  test("the server's word is in the error", async () => {
    const ask = (options) => client.search(draw(1), { dim: DIM, collection: 'base', ...options });
    await assert.rejects(ask({ dim: 4 }), (error) => {
      assert.deepEqual(error.fields.map((f) => f.field), ['queries.dim']);
      assert.match(error.message, /4.*12|12.*4/);
      return refused('INVALID_ARGUMENT', 'DIM_MISMATCH')(error);
    });
    await assert.rejects(ask({ collection: 'none' }), refused('NOT_FOUND', 'COLLECTION_NOT_FOUND'));
    await assert.rejects(ask({ version: 99n }), refused('FAILED_PRECONDITION', 'VERSION_MISMATCH'));
    await assert.rejects(ask({ timeoutMs: 0 }), refused('DEADLINE_EXCEEDED', ''));
    const controller = new AbortController();
    const asked = client.search(draw(20000), { dim: DIM, collection: 'base', topK: 100, signal: controller.signal });
    controller.abort();
    await assert.rejects(asked, { name: 'AbortError' });
    await assert.rejects(new Client('127.0.0.1:1', { timeoutMs: 3000 }).search(draw(1), { dim: DIM }), refused('UNAVAILABLE', ''));
  });

  test('arguments that cannot be are named', async () => {
    for (const [call, named] of [
      [() => client.search(draw(1)), /queries: dim is undefined/],
      [() => client.search(draw(1), { dim: 5 }), /queries: 12 elements are not a whole number of rows of dim 5/],
      [() => client.search(Int16Array.of(1), { dim: 1 }), /queries: cannot send Int16Array/],
      [() => client.max([[1, 2], [3]], [[1, 2]]), /a\[1\] has 1 numbers/],
      [() => client.search(draw(1), { dim: DIM, metric: 'dot' }), /metric: dot is none of inner_product/],
      [() => client.search(draw(1), { dim: DIM, topK: -1 }), /topK: -1/],
      [() => client.search(draw(2), { dim: DIM, exclude: [[1]] }), /exclude: 1 lists of ids for 2/],
      [() => client.pairs([{ queries: [[1]], base: 'x' }], { dim: 1 }), /pairs\[0\].base: cannot send String/],
    ]) {
      await assert.rejects(call, named);
    }
  });

  test('tokens, and a delay that is waited for', async () => {
    const made = (scopes, rate) => {
      const tokens = path.join(directory, 'tokens');
      const words = ['-c', `"$0" token web --scopes=${scopes} --rate=${rate} 2>"$1"`, process.env.DOTMAX_BINARY, tokens];
      return [execFileSync('sh', words, { encoding: 'utf8' }).trim(), `--tokens-file=${tokens}`];
    };
    const [token, flag] = made('search', 2);
    const guarded = await serve(npy('base', base, DIM), flag);
    const without = new Client(guarded);
    await assert.rejects(without.search(draw(1), { dim: DIM }), refused('UNAUTHENTICATED', 'TOKEN_MISSING'));
    assert.equal(await without.isServing(), true);
    const hasty = new Client(guarded, { token });
    await assert.rejects(hasty.drop('base'), refused('PERMISSION_DENIED', 'SCOPE_MISSING'));
    await assert.rejects(async () => {
      for (let i = 0; i < 50; ++i) await hasty.search(draw(1), { dim: DIM });
    }, (error) => refused('RESOURCE_EXHAUSTED', 'RATE_LIMITED')(error) && error.retryDelayMs > 0);
    const patient = new Client(guarded, { token, retries: 3 });
    for (let i = 0; i < 4; ++i) await patient.search(draw(1), { dim: DIM });
    for (const each of [without, hasty, patient]) each.close();
  });

  test('certificates of both sides', async () => {
    const tls = path.join(directory, 'tls');
    mkdirSync(tls);
    const openssl = (words) => execFileSync('openssl', words.split(' '), { cwd: tls, stdio: 'pipe' });
    const key = '-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes';
    openssl(`req -x509 ${key} -keyout ca.key -out ca.pem -subj /CN=ca -days 2`);
    for (const name of ['localhost', 'client']) {
      openssl(`req ${key} -keyout ${name}.key -out ${name}.csr -subj /CN=${name}`);
      writeFileSync(path.join(tls, 'names'), `subjectAltName=DNS:${name}\n`);
      openssl(`x509 -req -in ${name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out ${name}.pem -days 2 -extfile names`);
    }
    const file = (name) => path.join(tls, name);
    const secure = await serve(
      npy('base', base, DIM),
      `--tls-cert=${file('localhost.pem')}`,
      `--tls-key=${file('localhost.key')}`,
      `--tls-client-ca=${file('ca.pem')}`,
    );
    const ca = file('ca.pem');
    const ours = { ca, certificate: file('client.pem'), key: file('client.key'), serverName: 'localhost' };
    const good = new Client(secure, { tls: ours });
    assert.equal((await good.search(rowOf(base, 0), { dim: DIM, metric: 'cosine' })).best.id, 0n);
    good.close();
    for (const bad of [{ ca, serverName: 'localhost' }, true, false]) {
      const stranger = new Client(secure, { tls: bad, timeoutMs: 10000 });
      await assert.rejects(stranger.search(draw(1), { dim: DIM }), { code: 'UNAVAILABLE' });
      stranger.close();
    }
    assert.throws(() => new Client(secure, { tls: { key: ours.key } }), /need each other/);
  });
});

test('what is resident, and its changes', async () => {
  const held = await client.describe();
  assert.deepEqual(
    held.collections.map(({ name, rows, dim, dtype }) => [name, rows, dim, dtype]),
    [['base', ROWS, DIM, 'float32'], ['other', 50, 4, 'float64']],
  );
  assert.equal(held.maxMessageBytes, 2 ** 20);
  npy('more', draw(5), DIM);
  const loaded = await client.load('more', 'more.npy', { progress: () => {} });
  assert.equal(loaded.rows, 5);
  assert.ok((await client.reload('more')).version > loaded.version);
  assert.deepEqual((await client.swap('more', 'other')).map((c) => c.rows), [50, 5]);
  await client.swap('more', 'other');
  await client.drop('more');
  await assert.rejects(client.drop('more'), refused('NOT_FOUND', 'COLLECTION_NOT_FOUND'));
  await assert.rejects(client.load('more', '../more.npy'), refused('PERMISSION_DENIED', 'PATH_NOT_ALLOWED'));
});
