// The wire contract, read from the .proto files, and its parts as JavaScript has them.
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import protobuf from 'protobufjs';

// Within the package beside lib/; in the source tree at the top.
const protos = ['../proto/', '../../../proto/']
  .map((path) => fileURLToPath(new URL(path, import.meta.url)))
  .find((path) => existsSync(path));

const root = new protobuf.Root();
root.resolvePath = (_, target) => (target.startsWith('google/protobuf/') ? target : protos + target);
root.loadSync(['dotmax/v1/dotmax.proto', 'dotmax/v1/collections.proto', 'google/rpc/error_details.proto']);
root.resolveAll();

const type = (name) => root.lookupType(name);
const values = (name) => root.lookupEnum(name).values;

export const DType = values('dotmax.v1.DType');
export const Metric = values('dotmax.v1.Metric');
export const Reduction = values('dotmax.v1.Reduction');
export const SelfPairs = values('dotmax.v1.SelfPairs');
export const Stage = type('dotmax.v1.LoadProgress').lookupEnum('Stage').valuesById;
export const Status = type('google.rpc.Status');
export const ErrorInfo = type('google.rpc.ErrorInfo');
export const BadRequest = type('google.rpc.BadRequest');
export const RetryInfo = type('google.rpc.RetryInfo');

function method(service, name) {
  const { requestType, responseType } = root.lookupService(service).methods[name];
  const [request, response] = [requestType, responseType].map((t) => type(`dotmax.v1.${t}`));
  return {
    path: `/${service}/${name}`,
    serialize: (message) => Buffer.from(request.encode(message).finish()),
    deserialize: (bytes) => response.decode(bytes),
  };
}

export const methods = {
  search: method('dotmax.v1.Dotmax', 'Search'),
  searchStream: method('dotmax.v1.Dotmax', 'SearchStream'),
  max: method('dotmax.v1.Dotmax', 'MaxInnerProduct'),
  maxStream: method('dotmax.v1.Dotmax', 'MaxInnerProductStream'),
  pairsStream: method('dotmax.v1.Dotmax', 'BatchMaxInnerProductStream'),
  list: method('dotmax.v1.Collections', 'ListCollections'),
  load: method('dotmax.v1.Collections', 'LoadCollection'),
  reload: method('dotmax.v1.Collections', 'ReloadCollection'),
  swap: method('dotmax.v1.Collections', 'SwapCollections'),
  drop: method('dotmax.v1.Collections', 'DropCollection'),
  // Of grpc.health.v1: field 1 of the response is 1 for SERVING.
  health: {
    path: '/grpc.health.v1.Health/Check',
    serialize: () => Buffer.alloc(0),
    deserialize: (bytes) => bytes.equals(Buffer.from([8, 1])),
  },
};

export const searchRequest = type('dotmax.v1.SearchRequest');

/** A uint64 of protobufjs, which is a Long, or what fits into a number. */
export const toBigInt = (x) =>
  typeof x === 'object' ? (BigInt(x.high >>> 0) << 32n) | BigInt(x.low >>> 0) : BigInt(x);

/** A uint64 that counts things: exact up to 2^53. */
export const toNumber = (x) => (typeof x === 'object' ? (x.high >>> 0) * 2 ** 32 + (x.low >>> 0) : x);

/** A bigint or a number as protobufjs takes a uint64. */
export const fromBigInt = (x) => {
  const wide = BigInt.asUintN(64, BigInt(x));
  return protobuf.util.Long
    ? new protobuf.util.Long(Number(wide & 0xffffffffn) | 0, Number(wide >> 32n) | 0, true)
    : Number(wide);
};
