/**
 * The client of dotmax: typed arrays in, typed arrays out.
 *
 *     import { Client } from 'dotmax';
 *     const client = new Client('localhost:50051');
 *     const result = await client.search(queries, { dim: 100, topK: 10 }); // Float32Array of M x 100
 *     result.row(0).ids; // BigUint64Array: the best rows for the first query, best first
 *
 * Every score is the true value of the numbers that were sent, rounded once to a double; ties go to the lowest row.
 * What does not fit into one message is sent in parts, or streamed. Failures reject with DotmaxError; arguments that
 * cannot be, with TypeError or RangeError, before anything is sent.
 */

/** Row-major rows of `dim` elements. numbers[][] are float64 rows. float16 and bfloat16 are the bits of each number. */
export type Matrix =
  | Float32Array
  | Float64Array
  | Int8Array
  | number[][]
  | { values: Float32Array | Float64Array | Int8Array | number[]; dim: number }
  | { values: Uint16Array; dim: number; dtype: 'float16' | 'bfloat16' };

export type Metric = 'inner_product' | 'cosine' | 'squared_euclidean';

/** A file's path, or its bytes: PEM. */
export type Pem = string | Buffer;

export interface TlsOptions {
  /** The certificates that may have signed the server's; without, the system's. */
  ca?: Pem;
  /** What the client shows to servers that ask for it: both or none. */
  certificate?: Pem;
  key?: Pem;
  /** That the server's certificate must bear; without, the target's. */
  serverName?: string;
}

export interface ClientOptions {
  /** Of each method call that does not give its own; 60,000. */
  timeoutMs?: number;
  /** true: TLS with the system's certificates. */
  tls?: boolean | TlsOptions;
  /** Sent with every call; without tls in the clear, too. */
  token?: string;
  /** Both ways; 64 MiB. The server has a limit of its own. */
  maxMessageBytes?: number;
  /** How often a call that is refused with a delay to wait is tried again, within its timeout; 0. */
  retries?: number;
}

export interface CallOptions {
  timeoutMs?: number;
  /** Cancels the call. */
  signal?: AbortSignal;
}

export interface QuestionOptions extends CallOptions {
  /** Elements of a row, where the matrices do not say it. */
  dim?: number;
  /** How many hits; 1. 0 with a range: all within it, up to the server's limit (`truncated`). */
  topK?: number;
  metric?: Metric;
  /** per_row: topK for each query row; global: the topK of all (query row, row) pairs. */
  reduction?: 'per_row' | 'global';
  /** The range: only scores of at least this, or, of squared_euclidean, of at most maxScore. */
  minScore?: number;
  maxScore?: number;
  /** Only count the pairs within the range. */
  countOnly?: boolean;
  /** For each query row, ids that are no hits of it. */
  exclude?: ArrayLike<number | bigint>[];
  /** Told how many query rows are done, of how many. */
  progress?: (done: number, total: number) => void;
}

export interface SearchOptions extends QuestionOptions {
  /** Without, the server's only one. */
  collection?: string;
  /** That must answer; other ones are FAILED_PRECONDITION. */
  version?: bigint;
}

export interface SearchRowsOptions extends SearchOptions {
  /** The collection whose rows are the queries; without, the one that is searched. */
  of?: string;
  /** Rows [first, first + rows); rows = 0: all from first on. */
  first?: number;
  rows?: number;
  /** not_itself: no row is its own hit. each_once: of (i, j) and (j, i) only the one with the smaller query row. */
  selfPairs?: 'all' | 'not_itself' | 'each_once';
}

export interface StreamOptions extends Omit<SearchOptions, 'exclude' | 'progress'> {
  /** false: results come as they are done. */
  ordered?: boolean;
  /** Takes the error of a batch that fails (its `tag` says which), and the others go on; without, it is thrown. */
  onError?: (error: DotmaxError) => void;
}

export interface Best {
  queryRow: number;
  id: bigint;
  score: number;
}

export interface Stats {
  queueSeconds: number;
  computeSeconds: number;
  pairsScreened: number;
  pairsSurvived: number;
  pairsChecked: number;
  pairsRescored: number;
}

/** Hits, best first, as arrays of the same length. */
export class SearchResult {
  /** Per row: hits of query row i are [rowSplits[i], rowSplits[i + 1]); undefined if global. */
  readonly rowSplits?: Float64Array;
  readonly ids: BigUint64Array;
  readonly scores: Float64Array;
  /** Only if global. */
  readonly queryRows?: Float64Array;
  /** Without, there is no hit. */
  readonly best?: Best;
  /** With a range and topK = 0, by query row (one if global): whether there are more. */
  readonly truncated: boolean[];
  /** With countOnly, by query row (one if global). */
  readonly counts: number[];
  /** Of the collection; 0n for matrices that were sent. */
  readonly version: bigint;
  /** Rows searched / rows held. */
  readonly coverage: number;
  readonly stats: Stats;
  /** Of searchStream: the number of the batch. */
  readonly tag: number;
  /** Query rows; hits if global. */
  readonly length: number;
  row(i: number): { ids: BigUint64Array; scores: Float64Array };
}

/** The best of each pair of matrices, as arrays of the same length; pairs without rows on a side are left out. */
export interface PairsResult {
  pairs: Float64Array;
  queryRows: Float64Array;
  ids: BigUint64Array;
  scores: Float64Array;
  /** Of all; the lowest pair on ties. */
  best?: Best & { pair: number };
  stats: Stats;
}

export interface Collection {
  name: string;
  rows: number;
  dim: number;
  dtype: 'float32' | 'float16' | 'bfloat16' | 'float64' | 'int8';
  residentBytes: number;
  screen: string;
  version: bigint;
  /** Its mapped file was changed: searches fail until it is loaded again. */
  fileChanged: boolean;
  estimates: { screen: string; batchQuerySeconds: number; singleQuerySeconds?: number }[];
}

export interface Server {
  collections: Collection[];
  maxTopK: number;
  maxMessageBytes: number;
}

export interface LoadOptions extends CallOptions {
  progress?: (stage: 'waiting' | 'reading' | 'preparing', bytesDone: number, bytesTotal: number) => void;
}

/** A call that failed. */
export class DotmaxError extends Error {
  /** A gRPC code's name: "INVALID_ARGUMENT". */
  code: string;
  /** A word for programs, as "DIM_MISMATCH"; empty if the server gave none. */
  reason: string;
  /** For INVALID_ARGUMENT, which fields are wrong. */
  fields: { field: string; description: string }[];
  /** After which the same call may succeed, where the server says so. */
  retryDelayMs?: number;
  /** Of searchStream: the number of the batch. */
  tag?: number;
}

/** One channel to a server, or to all that a name stands for, which take turns. Calls try again for about a second when it is UNAVAILABLE. */
export class Client {
  constructor(target?: string, options?: ClientOptions);
  close(): void;
  /** The best rows of a collection for queries of (M, dim). */
  search(queries: Matrix, options?: SearchOptions): Promise<SearchResult>;
  /** The same with rows of a collection as queries, which are not sent. */
  searchRows(options?: SearchRowsOptions): Promise<SearchResult>;
  /** The best pairs of rows of two matrices, which are sent and held by no server; the best of all without `reduction`. */
  max(a: Matrix, b: Matrix, options?: QuestionOptions): Promise<SearchResult>;
  /** The best of each of many pairs of matrices, of any shapes, and the best of all. */
  pairs(
    pairs: { queries: Matrix; base: Matrix }[],
    options?: CallOptions & { dim?: number; metric?: Metric },
  ): Promise<PairsResult>;
  /** `search` of any number of batches in one call; batches are taken while results are. Without timeoutMs, no limit. */
  searchStream(batches: Iterable<Matrix> | AsyncIterable<Matrix>, options?: StreamOptions): AsyncGenerator<SearchResult>;
  /** What is resident, and the server's limits. */
  describe(): Promise<Server>;
  /** Loads a file by its path within the server's --data-dir, as a new collection or a new version of one. */
  load(name: string, path: string, options?: LoadOptions): Promise<Collection>;
  /** Loads a collection again from the file that it came from. */
  reload(name: string, options?: LoadOptions): Promise<Collection>;
  /** Each name means what the other one did. Resolves to what they mean now. */
  swap(a: string, b: string): Promise<[Collection, Collection]>;
  drop(name: string): Promise<void>;
  /** Whether the server takes searches. Needs no token. */
  isServing(): Promise<boolean>;
}
