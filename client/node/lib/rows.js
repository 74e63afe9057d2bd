// Matrices as they are sent: the caller's own numbers, or an error that names the argument.
import { DType } from './messages.js';

const arrayTypes = new Map([
  [Float32Array, 'float32'],
  [Float64Array, 'float64'],
  [Int8Array, 'int8'],
]);
const elementBytes = { float32: 4, float64: 8, int8: 1, float16: 2, bfloat16: 2 };

/** A typed array with `dim`, {values, dim, dtype}, or an array of arrays of numbers, as {data, dim, dtype, count}. */
export function toRows(matrix, dim, name) {
  if (matrix !== null && typeof matrix === 'object' && 'values' in matrix && !ArrayBuffer.isView(matrix) && !Array.isArray(matrix)) {
    return flat(matrix.values, matrix.dim ?? dim, matrix.dtype, name);
  }
  if (Array.isArray(matrix) && (matrix.length === 0 || matrix[0]?.length !== undefined)) {
    const width = matrix[0]?.length ?? dim ?? 0;
    const values = new Float64Array(matrix.length * width);
    matrix.forEach((row, i) => {
      if (row.length !== width) throw new RangeError(`${name}[${i}] has ${row.length} numbers, and the first row ${width}`);
      values.set(row, i * width);
    });
    return flat(values, width, undefined, name);
  }
  return flat(matrix, dim, undefined, name);
}

function flat(values, dim, dtype, name) {
  if (!Number.isInteger(dim) || dim < 0) throw new TypeError(`${name}: dim is ${dim}; the number of elements of a row is needed`);
  if (Array.isArray(values)) values = Float64Array.from(values);
  const half = dtype === 'float16' || dtype === 'bfloat16';
  const type = half && values instanceof Uint16Array ? dtype : arrayTypes.get(values?.constructor);
  if (type === undefined || (dtype !== undefined && dtype !== type)) {
    const kind = values?.constructor?.name ?? String(values);
    throw new TypeError(
      `${name}: cannot send ${kind}${dtype ? ` as ${dtype}` : ''}; Float32Array, Float64Array, Int8Array, and Uint16Array ` +
        "with dtype 'float16' or 'bfloat16' can be sent",
    );
  }
  if (dim === 0 ? values.length > 0 : values.length % dim !== 0) {
    throw new RangeError(`${name}: ${values.length} elements are not a whole number of rows of dim ${dim}`);
  }
  return {
    bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    dim,
    dtype: DType[type.toUpperCase()],
    count: dim === 0 ? 0 : values.length / dim,
    rowBytes: dim * elementBytes[type],
  };
}

/** The Matrix message of rows [first, first + count), which are not copied. */
export const matrixOf = ({ bytes, dim, dtype, rowBytes }, first, count) => ({
  rows: count,
  dim,
  dtype,
  data: bytes.subarray(first * rowBytes, (first + count) * rowBytes),
});
