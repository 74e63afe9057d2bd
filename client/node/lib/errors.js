import { status as codes } from '@grpc/grpc-js';
import { BadRequest, ErrorInfo, RetryInfo, Status, toNumber } from './messages.js';

const names = Object.fromEntries(Object.entries(codes).map(([name, number]) => [number, name]));
const kinds = { 'google.rpc.ErrorInfo': ErrorInfo, 'google.rpc.BadRequest': BadRequest, 'google.rpc.RetryInfo': RetryInfo };

/** A call that failed; see index.d.ts. */
export class DotmaxError extends Error {
  constructor(code, message) {
    super(message);
    this.name = 'DotmaxError';
    this.code = names[code] ?? 'UNKNOWN';
    this.reason = '';
    this.fields = [];
    this.retryDelayMs = undefined;
    this.tag = undefined;
  }
}

/** The error that a google.rpc.Status is. */
export function fromStatus({ code, message, details }) {
  const error = new DotmaxError(code, message);
  for (const { type_url: url, value } of details ?? []) {
    const kind = url.slice(url.lastIndexOf('/') + 1);
    const detail = kinds[kind]?.decode(value);
    if (kind === 'google.rpc.ErrorInfo') error.reason = detail.reason;
    if (kind === 'google.rpc.BadRequest') {
      error.fields = detail.fieldViolations.map(({ field, description }) => ({ field, description }));
    }
    if (kind === 'google.rpc.RetryInfo') {
      error.retryDelayMs = toNumber(detail.retryDelay.seconds) * 1e3 + detail.retryDelay.nanos / 1e6;
    }
  }
  return error;
}

/** The error that a failed call of grpc-js is; others stay as they are. */
export function fromGrpc(failure) {
  if (failure?.code === undefined || failure.metadata === undefined) return failure;
  const [bytes] = failure.metadata.get('grpc-status-details-bin');
  const details = bytes === undefined ? [] : Status.decode(bytes).details;
  return fromStatus({ code: failure.code, message: failure.details, details });
}
