// The client of dotmax for Node.js. What everything means: index.d.ts.
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import * as grpc from '@grpc/grpc-js';
import { DotmaxError, fromGrpc, fromStatus } from './lib/errors.js';
import { DType, Metric, SelfPairs, Stage, fromBigInt, methods, searchRequest, toBigInt, toNumber } from './lib/messages.js';
import { ENVELOPE_BYTES, Question, SearchResult, bestOf, choice, join, statsOf, sum } from './lib/question.js';
import { matrixOf, toRows } from './lib/rows.js';

export { DotmaxError, SearchResult };

const BLOCK_BYTES = 4 * 2 ** 20; // cheap to send each, and the first ones are searched while others are sent
const PAIR_BYTES = 64; // what a pair takes beside its rows
const LOAD_TIMEOUT_MS = 3600e3;

// Servers that one name stands for take turns. UNAVAILABLE means that nothing was done: a connection that failed, a server that is draining.
const SERVICE_CONFIG = JSON.stringify({
  loadBalancingConfig: [{ round_robin: {} }],
  methodConfig: [
    {
      name: [{}],
      retryPolicy: {
        maxAttempts: 4,
        initialBackoff: '0.1s',
        maxBackoff: '1s',
        backoffMultiplier: 2,
        retryableStatusCodes: ['UNAVAILABLE'],
      },
    },
  ],
});

const pem = (file) => (file === undefined ? null : typeof file === 'string' ? readFileSync(file) : file);

function credentials(tls) {
  if (!tls) return grpc.credentials.createInsecure();
  const { ca, certificate, key } = tls === true ? {} : tls;
  if ((certificate === undefined) !== (key === undefined)) {
    throw new TypeError("tls: a client's certificate and its key need each other");
  }
  return grpc.credentials.createSsl(pem(ca), pem(key), pem(certificate));
}

const collectionOf = (c) => ({
  name: c.name,
  rows: toNumber(c.rows),
  dim: c.dim,
  dtype: Object.keys(DType).find((name) => DType[name] === c.dtype).toLowerCase(),
  residentBytes: toNumber(c.residentBytes),
  screen: c.screen,
  version: toBigInt(c.version),
  fileChanged: c.fileChanged,
  estimates: c.estimates.map((e) => ({
    screen: e.screen,
    batchQuerySeconds: e.batchQuerySeconds,
    singleQuerySeconds: Object.hasOwn(e, 'singleQuerySeconds') ? e.singleQuerySeconds : undefined,
  })),
});

export class Client {
  #grpc;
  #token;
  #timeoutMs;
  #maxMessageBytes;
  #retries;

  constructor(target = 'localhost:50051', options = {}) {
    const { timeoutMs = 60e3, tls = false, token, maxMessageBytes = 64 * 2 ** 20, retries = 0 } = options;
    if (!(maxMessageBytes > ENVELOPE_BYTES && maxMessageBytes < 2 ** 31)) {
      throw new RangeError(`maxMessageBytes is ${maxMessageBytes}; it must be from ${ENVELOPE_BYTES + 1} to 2^31 - 1`);
    }
    this.#token = token;
    this.#timeoutMs = timeoutMs;
    this.#maxMessageBytes = maxMessageBytes;
    this.#retries = retries;
    const channel = {
      'grpc.max_receive_message_length': maxMessageBytes,
      'grpc.max_send_message_length': maxMessageBytes,
      'grpc.service_config': SERVICE_CONFIG,
      'grpc.initial_reconnect_backoff_ms': 100,
      // A request that is not kept whole is never tried again.
      'grpc.per_rpc_retry_buffer_size': maxMessageBytes,
    };
    if (tls?.serverName !== undefined) channel['grpc.ssl_target_name_override'] = tls.serverName;
    this.#grpc = new grpc.Client(target, credentials(tls), channel);
  }

  close() {
    this.#grpc.close();
  }

  async search(queries, options = {}) {
    const question = new Question(options);
    const rows = toRows(queries, options.dim, 'queries');
    return this.#inParts(question, rows.count, rows.rowBytes, options, (first, count, version, call) =>
      call.unary(methods.search, { ...question.request(first, count, version), queries: matrixOf(rows, first, count) }),
    );
  }

  async searchRows(options = {}) {
    const question = new Question(options);
    const { of = '', first: begin = 0, rows = 0, selfPairs = 'all' } = options;
    const pairs = selfPairs === 'all' ? 0 : choice('selfPairs', selfPairs, SelfPairs);
    let total = rows;
    if (total === 0) {
      const { collections } = await this.describe();
      const name = of || options.collection || '';
      const named = collections.find((c) => c.name === name || (name === '' && collections.length === 1));
      total = Math.max((named?.rows ?? 0) - begin, 0);
    }
    return this.#inParts(question, total, 0, options, (first, count, version, call) =>
      call.unary(methods.search, {
        ...question.request(first, count, version),
        residentQueries: { collection: of, first: begin + first, rows: count },
        selfPairs: pairs,
      }),
    );
  }

  async max(a, b, options = {}) {
    const question = new Question({ reduction: 'global', ...options, collection: undefined, version: undefined });
    const queries = toRows(a, options.dim, 'a');
    const base = toRows(b, options.dim, 'b');
    return this.#max(question, queries, base, options, this.#deadline(options));
  }

  async pairs(pairs, options = {}) {
    const metric = choice('metric', options.metric ?? 'inner_product', Metric);
    const deadline = this.#deadline(options);
    const budget = this.#maxMessageBytes - ENVELOPE_BYTES;
    const rows = pairs.map(({ queries, base }, p) => ({
      queries: toRows(queries, options.dim, `pairs[${p}].queries`),
      base: toRows(base, options.dim, `pairs[${p}].base`),
    }));
    const size = (p) => rows[p].queries.bytes.length + rows[p].base.bytes.length + PAIR_BYTES;
    const message = ([begin, end]) => ({
      metric,
      pairs: rows.slice(begin, end).map(({ queries, base }) => ({
        queries: matrixOf(queries, 0, queries.count),
        base: matrixOf(base, 0, base.count),
      })),
    });
    const found = { pairs: [], queryRows: [], ids: [], scores: [] };
    let best;
    let stats = statsOf();
    const add = (hit, cost) => {
      stats = sum(stats, cost);
      if (hit === undefined) return;
      const better = metric === Metric.SQUARED_EUCLIDEAN ? hit.score < best?.score : hit.score > best?.score;
      if (best === undefined || better) best = hit;
    };

    for (let next = 0; next < pairs.length; ) {
      if (size(next) > budget) {
        // Alone larger than a message.
        const question = new Question({ reduction: 'global', metric: options.metric });
        const alone = await this.#max(question, rows[next].queries, rows[next].base, options, deadline);
        add(alone.best && { ...alone.best, pair: next }, alone.stats);
        if (alone.best !== undefined) {
          found.pairs.push(next);
          found.queryRows.push(alone.best.queryRow);
          found.ids.push(alone.best.id);
          found.scores.push(alone.best.score);
        }
        ++next;
        continue;
      }
      const begin = next;
      const groups = [];
      while (next < pairs.length && size(next) <= budget) {
        const first = next;
        for (let bytes = 0; next < pairs.length && bytes + size(next) <= budget; ++next) bytes += size(next);
        groups.push([first, next]);
      }
      function* messages() {
        for (const group of groups) yield message(group);
      }
      const call = new Call(this, deadline, options.signal);
      // `best` of a response is of all pairs so far, so the last one decides.
      for await (const response of call.stream(methods.pairsStream, messages())) {
        response.pairs.forEach((pair) => found.pairs.push(toNumber(pair) + begin));
        response.queryRows.forEach((row) => found.queryRows.push(toNumber(row)));
        response.ids.forEach((id) => found.ids.push(toBigInt(id)));
        found.scores.push(...response.scores);
        const hit = bestOf(response.best);
        add(hit && { ...hit, pair: hit.pair + begin }, statsOf(response.stats));
      }
    }
    return {
      pairs: Float64Array.from(found.pairs),
      queryRows: Float64Array.from(found.queryRows),
      ids: BigUint64Array.from(found.ids),
      scores: Float64Array.from(found.scores),
      best,
      stats,
    };
  }

  async *searchStream(batches, options = {}) {
    const question = new Question({ ...options, exclude: undefined });
    const { ordered = true, onError } = options;
    const deadline = options.timeoutMs === undefined ? Infinity : this.#deadline(options);
    let failure;
    async function* requests() {
      let tag = 0;
      try {
        for await (const batch of batches) {
          const rows = toRows(batch, options.dim, `batches[${tag}]`);
          yield { ...question.request(0, rows.count, options.version), queries: matrixOf(rows, 0, rows.count), tag: tag++ };
        }
      } catch (thrown) {
        failure = { thrown }; // after the results of those before
      }
    }
    const early = new Map();
    let next = 0;
    const call = new Call(this, deadline, options.signal);
    for await (const message of call.stream(methods.searchStream, requests())) {
      const tag = toNumber(message.tag);
      const result = message.response
        ? SearchResult.of(message.response, question, tag)
        : Object.assign(fromStatus(message.status), { tag });
      early.set(ordered ? tag : next, result);
      for (; early.has(next); ++next) {
        const due = early.get(next);
        early.delete(next);
        if (due instanceof SearchResult) yield due;
        else if (onError === undefined) throw due;
        else onError(due);
      }
    }
    if (failure !== undefined) throw failure.thrown;
  }

  async describe() {
    const { collections, limits } = await this.#unary(methods.list, {});
    return {
      collections: collections.map(collectionOf),
      maxTopK: limits.maxTopK,
      maxMessageBytes: toNumber(limits.maxMessageBytes),
    };
  }

  load(name, path, options = {}) {
    return this.#load(methods.load, { name, path }, options);
  }

  reload(name, options = {}) {
    return this.#load(methods.reload, { name }, options);
  }

  async swap(a, b) {
    const now = await this.#unary(methods.swap, { a, b });
    return [collectionOf(now.a), collectionOf(now.b)];
  }

  async drop(name) {
    await this.#unary(methods.drop, { name });
  }

  isServing() {
    return this.#unary(methods.health, {});
  }

  /** The channel, and what every call goes with; for Call. */
  get _wire() {
    const metadata = new grpc.Metadata();
    if (this.#token !== undefined) metadata.set('authorization', `Bearer ${this.#token}`);
    return { channel: this.#grpc, metadata, retries: this.#retries };
  }

  #deadline({ timeoutMs = this.#timeoutMs }) {
    return Date.now() + timeoutMs;
  }

  #unary(method, request) {
    return new Call(this, this.#deadline({})).unary(method, request);
  }

  async #load(method, request, { timeoutMs = LOAD_TIMEOUT_MS, signal, progress } = {}) {
    let loaded;
    for await (const message of new Call(this, this.#deadline({ timeoutMs }), signal).stream(method, request)) {
      if (message.collection) loaded = collectionOf(message.collection);
      else progress?.(Stage[message.stage].toLowerCase(), toNumber(message.bytesDone), toNumber(message.bytesTotal));
    }
    return loaded;
  }

  #max(question, queries, base, options, deadline) {
    const budget = this.#maxMessageBytes - ENVELOPE_BYTES;
    const blockRows = Math.max(Math.floor(Math.min(budget, BLOCK_BYTES) / Math.max(base.rowBytes, 1)), 1);
    function* blocks(start) {
      yield { start };
      for (let row = 0; row < base.count; row += blockRows) {
        yield { base: matrixOf(base, row, Math.min(blockRows, base.count - row)) };
      }
    }
    const about = (first, count, _, call) => {
      const request = { ...question.request(first, count), queries: matrixOf(queries, first, count) };
      const size = searchRequest.encode(request).len + base.bytes.length;
      if (size > budget) return call.clientStream(methods.maxStream, () => blocks(request));
      return call.unary(methods.max, { ...request, base: matrixOf(base, 0, base.count) });
    };
    return this.#inParts(question, queries.count, queries.rowBytes, options, about, deadline);
  }

  /** Asks about query rows [0, total) in parts that fit into messages, all of one version, and joins the results. */
  async #inParts(question, total, rowBytes, options, ask, deadline = this.#deadline(options)) {
    question.checkExclusions(total);
    const budget = this.#maxMessageBytes - ENVELOPE_BYTES;
    const parts = [];
    const firsts = [];
    let { version } = options;
    let first = 0;
    do {
      const count = total === 0 ? 0 : question.rowsOfPart(first, total, rowBytes, budget);
      const response = await ask(first, count, version, new Call(this, deadline, options.signal));
      parts.push(SearchResult.of(response, question));
      firsts.push(first);
      if (parts[0].version !== 0n) version = parts[0].version;
      first += count;
      options.progress?.(first, total);
    } while (first < total);
    return join(question, parts, firsts);
  }
}

/** One call, with its deadline and what cancels it. */
class Call {
  #client;
  #deadline;
  #signal;

  constructor(client, deadline, signal) {
    this.#client = client;
    this.#deadline = deadline;
    this.#signal = signal;
  }

  unary(method, request) {
    return this.#retried((wire, options, done) =>
      wire.channel.makeUnaryRequest(method.path, method.serialize, method.deserialize, request, wire.metadata, options, done),
    );
  }

  clientStream(method, requests) {
    return this.#retried((wire, options, done) => {
      const call = wire.channel.makeClientStreamRequest(
        method.path, method.serialize, method.deserialize, wire.metadata, options, done);
      send(call, requests());
      return call;
    });
  }

  /** The responses to one request (an object), or to those of an iterator. */
  async *stream(method, requests) {
    const { channel, metadata } = this.#client._wire;
    const args = [method.path, method.serialize, method.deserialize];
    const many = Symbol.asyncIterator in requests || Symbol.iterator in requests;
    const options = { deadline: this.#deadline };
    const call = many
      ? channel.makeBidiStreamRequest(...args, metadata, options)
      : channel.makeServerStreamRequest(...args, requests, metadata, options);
    const cancel = () => call.cancel();
    this.#signal?.throwIfAborted();
    this.#signal?.addEventListener('abort', cancel);
    try {
      if (many) send(call, requests);
      yield* call;
    } catch (failure) {
      this.#signal?.throwIfAborted();
      throw fromGrpc(failure);
    } finally {
      this.#signal?.removeEventListener('abort', cancel);
      call.cancel();
      call.on('error', () => {}); // of its being cancelled
    }
  }

  async #retried(start) {
    for (let attempt = 0; ; ++attempt) {
      try {
        return await this.#once(start);
      } catch (failure) {
        this.#signal?.throwIfAborted();
        const error = fromGrpc(failure);
        const delay = error.retryDelayMs;
        const { retries } = this.#client._wire;
        if (delay === undefined || attempt === retries || Date.now() + delay >= this.#deadline) throw error;
        await sleep(delay, undefined, { signal: this.#signal });
      }
    }
  }

  #once(start) {
    const signal = this.#signal;
    signal?.throwIfAborted();
    // gRPC does not notice while an answer comes at once.
    if (Date.now() >= this.#deadline) {
      throw new DotmaxError(grpc.status.DEADLINE_EXCEEDED, 'the timeout has passed before the call');
    }
    return new Promise((resolve, reject) => {
      const call = start(this.#client._wire, { deadline: this.#deadline }, (error, response) => {
        signal?.removeEventListener('abort', cancel);
        if (error) reject(error);
        else resolve(response);
      });
      const cancel = () => call.cancel();
      signal?.addEventListener('abort', cancel);
    });
  }
}

/** Writes what an iterator gives, no faster than it is taken, until the call ends. */
async function send(call, requests) {
  let ended = false;
  let wake = () => {};
  const end = () => {
    ended = true;
    wake();
  };
  for (const event of ['error', 'status', 'close']) call.on(event, end);
  call.on('drain', () => wake());
  for await (const request of requests) {
    if (ended) return;
    if (!call.write(request)) {
      await new Promise((resolve) => {
        wake = resolve;
        if (ended) resolve();
      });
    }
  }
  if (!ended) call.end();
}
