// The list of tests/conformance (DOTMAX_CONFORMANCE), asked by the Node client.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { Client, DotmaxError } from 'dotmax';
import { serve, stop } from './servers.js';

const folder = process.env.DOTMAX_CONFORMANCE;
const cases = JSON.parse(readFileSync(path.join(folder, 'cases.json'), 'utf8'));
const types = { FLOAT32: Float32Array, FLOAT64: Float64Array, INT8: Int8Array };

const matrix = ({ dtype, dim, values, bits }) =>
  bits ? { values: Uint16Array.from(bits), dim, dtype: dtype.toLowerCase() } : { values: types[dtype].from(values), dim };

const options = ({ collection, top_k: topK, min_score: minScore, max_score: maxScore, count_only: countOnly, exclude, version, ...names }) => ({
  ...{ collection, topK, minScore, maxScore, countOnly, exclude, version },
  metric: names.metric?.toLowerCase(),
  reduction: names.reduction?.toLowerCase(),
  selfPairs: names.self_pairs?.toLowerCase(),
});

const errorOf = (error) => {
  if (!(error instanceof DotmaxError)) throw error;
  return { code: error.code, reason: error.reason, fields: error.fields.map(({ field }) => field) };
};

const bestOf = (best) => (best ? { ...(best.pair === undefined ? {} : { pair: best.pair }), query_row: best.queryRow, id: Number(best.id), score: best.score } : null);

const replyOf = (result) => ({
  ids: Array.from(result.ids, Number),
  scores: [...result.scores],
  best: bestOf(result.best),
  ...(result.pairs ? { pairs: [...result.pairs] } : {}),
  ...(result.queryRows ? { query_rows: [...result.queryRows] } : { row_splits: [...result.rowSplits] }),
  ...(result.truncated?.length ? { truncated: result.truncated } : {}),
  ...(result.counts?.length ? { counts: result.counts } : {}),
});

async function ask(client, call, request) {
  if (call === 'search' && request.queries) return { reply: replyOf(await client.search(matrix(request.queries), options(request))) };
  if (call === 'search') {
    const { collection: of, first, rows } = request.resident_queries;
    return { reply: replyOf(await client.searchRows({ of, first, rows, ...options(request) })) };
  }
  if (call === 'max') {
    const asked = { ...options(request), reduction: request.reduction?.toLowerCase() ?? 'per_row' };
    return { reply: replyOf(await client.max(matrix(request.queries), matrix(request.base), asked)) };
  }
  if (call === 'pairs') {
    const pairs = request.pairs.map(({ queries, base }) => ({ queries: matrix(queries), base: matrix(base) }));
    return { reply: replyOf(await client.pairs(pairs, { metric: request.metric?.toLowerCase() })) };
  }
  if (call === 'stream') {
    const replies = [];
    const onError = (error) => (replies[error.tag] = { error: errorOf(error) });
    const batches = request.map(({ queries }) => matrix(queries));
    for await (const result of client.searchStream(batches, { ...options(request[0]), onError })) replies[result.tag] = { reply: replyOf(result) };
    return { replies };
  }
  if (call === 'list') {
    const { collections } = await client.describe();
    return { reply: collections.map(({ name, rows, dim, dtype }) => ({ name, rows, dim, dtype: dtype.toUpperCase() })) };
  }
  return { reply: await client[call](...Object.values(request)) };
}

let client;
before(async () => {
  const files = readdirSync(folder).filter((name) => name.endsWith('.npy'));
  client = new Client(await serve(...files.map((name) => `--matrix=${path.join(folder, name)}`), `--data-dir=${folder}`));
});
after(() => {
  client.close();
  stop();
});

assert.ok(cases.length > 50);
for (const { name, call, request, ...expected } of cases) {
  test(name, async () => {
    const got = await ask(client, call, request).catch((error) => ({ error: errorOf(error) }));
    assert.deepStrictEqual(got, expected); // 0 is not -0
  });
}
