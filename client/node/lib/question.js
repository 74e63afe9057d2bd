// What is asked about query rows, how it is cut into messages, and how results are joined: as in client/cpp/join.cc.
import { Metric, Reduction, fromBigInt, toBigInt, toNumber } from './messages.js';

export const ENVELOPE_BYTES = 4096; // what a request holds besides rows and exclusions, generously
const VARINT_BYTES = 10; // at most
const HIT_BYTES = 24; // of a reply, at most: id, score, query row
const RANGE_HITS = 10_000; // that a query row gets room for when all are wanted: the default of the server's limit

export function choice(name, value, choices) {
  const number = choices[String(value).toUpperCase()];
  if (number === undefined || number === 0) {
    throw new RangeError(`${name}: ${value} is none of ${Object.keys(choices).slice(1).join(', ').toLowerCase()}`);
  }
  return number;
}

export class Question {
  constructor(options) {
    const { topK = 1, metric = 'inner_product', reduction = 'per_row', exclude } = options;
    if (!Number.isInteger(topK) || topK < 0 || topK >= 2 ** 32) throw new RangeError(`topK: ${topK} is not from 0 to 2^32 - 1`);
    this.topK = topK;
    this.metric = choice('metric', metric, Metric);
    this.reduction = choice('reduction', reduction, Reduction);
    this.exclude = exclude;
    this.options = options;
    this.isGlobal = this.reduction === Reduction.GLOBAL;
    const hasRange = options.minScore !== undefined || options.maxScore !== undefined;
    this.wantsAll = hasRange && topK === 0 && !options.countOnly;
  }

  better(a, b) {
    return this.metric === Metric.SQUARED_EUCLIDEAN ? a < b : a > b;
  }

  /** What is asked of query rows [first, first + rows), without matrices. */
  request(first, rows, version) {
    const { minScore, maxScore, countOnly, collection } = this.options;
    const request = {
      topK: countOnly ? 0 : this.topK,
      reduction: this.reduction,
      metric: this.metric,
      countOnly: Boolean(countOnly),
      collection: collection ?? '',
    };
    if (minScore !== undefined) request.minScore = minScore;
    if (maxScore !== undefined) request.maxScore = maxScore;
    if (version !== undefined) request.version = fromBigInt(version);
    if (this.exclude !== undefined) {
      const some = this.exclude.slice(first, first + rows);
      const rowSplits = [0];
      for (const ids of some) rowSplits.push(rowSplits.at(-1) + ids.length);
      request.exclude = { rowSplits, ids: some.flatMap((ids) => Array.from(ids, fromBigInt)) };
    }
    return request;
  }

  checkExclusions(total) {
    if (this.exclude !== undefined && this.exclude.length !== total) {
      throw new RangeError(`exclude: ${this.exclude.length} lists of ids for ${total} query rows`);
    }
  }

  /** How many of the query rows [first, total) go into one message, and their hits into one reply. */
  rowsOfPart(first, total, rowBytes, budget) {
    const hits = this.options.countOnly ? 0 : this.wantsAll ? RANGE_HITS : Math.max(this.topK, 1);
    const replyBytes = this.isGlobal ? 0 : hits * HIT_BYTES + 2 * VARINT_BYTES;
    const most = Math.min(Math.max(Math.floor(budget / Math.max(rowBytes, replyBytes, 1)), 1), total - first);
    if (this.exclude === undefined) return most;
    let rows = 0;
    for (let bytes = 0; rows < most; ++rows) {
      bytes += rowBytes + (this.exclude[first + rows].length + 1) * VARINT_BYTES;
      if (bytes > budget) break;
    }
    return Math.max(rows, 1);
  }
}

export const bestOf = (best) =>
  best === null || best === undefined
    ? undefined
    : {
        ...('pair' in best ? { pair: toNumber(best.pair) } : {}),
        queryRow: toNumber(best.queryRow),
        id: toBigInt(best.id),
        score: best.score,
      };

export const statsOf = (stats) => ({
  queueSeconds: stats?.queueSeconds ?? 0,
  computeSeconds: stats?.computeSeconds ?? 0,
  pairsScreened: toNumber(stats?.pairsScreened ?? 0),
  pairsSurvived: toNumber(stats?.pairsSurvived ?? 0),
  pairsChecked: toNumber(stats?.pairsChecked ?? 0),
  pairsRescored: toNumber(stats?.pairsRescored ?? 0),
});

export const sum = (a, b) => Object.fromEntries(Object.keys(a).map((key) => [key, a[key] + b[key]]));

/** See index.d.ts. */
export class SearchResult {
  constructor(fields) {
    Object.assign(this, fields);
  }

  static of(response, question, tag = 0) {
    return new SearchResult({
      rowSplits: question.isGlobal ? undefined : Float64Array.from(response.rowSplits, toNumber),
      ids: BigUint64Array.from(response.ids, toBigInt),
      scores: Float64Array.from(response.scores),
      queryRows: question.isGlobal ? Float64Array.from(response.queryRows, toNumber) : undefined,
      best: bestOf(response.best),
      truncated: [...response.truncated],
      counts: Array.from(response.counts, toNumber),
      version: toBigInt(response.version),
      coverage: response.coverage,
      stats: statsOf(response.stats),
      tag,
    });
  }

  get length() {
    return this.rowSplits === undefined ? this.ids.length : Math.max(this.rowSplits.length - 1, 0);
  }

  row(i) {
    if (this.rowSplits === undefined) throw new TypeError('hits over all query rows are not by row: see queryRows');
    if (!(i >= 0 && i < this.length)) throw new RangeError(`row ${i} of ${this.length}`);
    const [begin, end] = [this.rowSplits[i], this.rowSplits[i + 1]];
    return { ids: this.ids.subarray(begin, end), scores: this.scores.subarray(begin, end) };
  }
}

function concat(arrays) {
  const all = new arrays[0].constructor(arrays.reduce((length, array) => length + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    all.set(array, at);
    at += array.length;
  }
  return all;
}

/** Two sorted lists; on ties the first one comes first. Of one that was cut short nothing is known from its end on. */
function mergeGlobal(question, lists) {
  const wanted = question.wantsAll ? Infinity : Math.max(question.topK, 1);
  const at = [0, 0];
  const merged = { ids: [], scores: [], queryRows: [] };
  const ended = (l) => at[l] === lists[l].ids.length;
  while (merged.ids.length < wanted && !(ended(0) && ended(1))) {
    if (lists.some((list, l) => ended(l) && list.truncated[0])) break;
    const first = ended(1) || (!ended(0) && !question.better(lists[1].scores[at[1]], lists[0].scores[at[0]]));
    const from = first ? 0 : 1;
    for (const name of Object.keys(merged)) merged[name].push(lists[from][name][at[from]]);
    ++at[from];
  }
  return {
    ids: BigUint64Array.from(merged.ids),
    scores: Float64Array.from(merged.scores),
    queryRows: Float64Array.from(merged.queryRows),
    truncated: lists[0].truncated.map((cut, i) => cut || lists[1].truncated[i]),
    counts: lists[0].counts.map((count, i) => count + lists[1].counts[i]),
  };
}

/** The results of consecutive runs of query rows, `firsts` being where each begins, as one. */
export function join(question, parts, firsts) {
  if (parts.length === 1) return parts[0];
  let best;
  parts.forEach((part, p) => {
    if (part.best === undefined) return;
    if (best === undefined || question.better(part.best.score, best.score)) {
      best = { ...part.best, queryRow: part.best.queryRow + firsts[p] };
    }
  });
  const all = {
    ...parts[0],
    best,
    coverage: Math.min(...parts.map((part) => part.coverage)),
    stats: parts.map((part) => part.stats).reduce(sum),
  };
  if (question.isGlobal) {
    parts.forEach((part, p) => part.queryRows.forEach((row, i) => (part.queryRows[i] = row + firsts[p])));
    Object.assign(all, parts.reduce((a, b) => mergeGlobal(question, [a, b])));
  } else {
    let offset = 0;
    const splits = parts.map((part, p) => {
      const moved = part.rowSplits.subarray(p === 0 ? 0 : 1).map((split) => split + offset);
      offset += part.ids.length;
      return moved;
    });
    all.rowSplits = concat(splits);
    all.ids = concat(parts.map((part) => part.ids));
    all.scores = concat(parts.map((part) => part.scores));
    all.truncated = parts.flatMap((part) => part.truncated);
    all.counts = parts.flatMap((part) => part.counts);
  }
  return new SearchResult(all);
}
