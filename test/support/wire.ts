/** Protobuf's wire format without any schema: what the toolkit writes is judged by this, not by its own schema. */

export interface Field {
  readonly number: number;
  readonly wire: number;
  /** The payload: bytes of a length-delimited or fixed field, value of a varint. */
  readonly data: Buffer | bigint;
}

/** The fields of a message in order, or null where the bytes are none. */
export function parseFields(bytes: Buffer): Field[] | null {
  const fields: Field[] = [];
  for (let at = 0; at < bytes.length; ) {
    const tag = varint(bytes, at);
    if (!tag || tag.value >> 3n === 0n || tag.value >> 3n > 536_870_911n) return null;
    at = tag.end;
    const number = Number(tag.value >> 3n);
    const wire = Number(tag.value & 7n);
    if (wire === 0) {
      const value = varint(bytes, at);
      if (!value) return null;
      fields.push({ number, wire, data: value.value });
      at = value.end;
      continue;
    }
    let size: number;
    if (wire === 1 || wire === 5) size = wire === 1 ? 8 : 4;
    else if (wire === 2) {
      const length = varint(bytes, at);
      if (!length) return null;
      at = length.end;
      size = Number(length.value);
    } else return null;
    if (at + size > bytes.length) return null;
    fields.push({ number, wire, data: bytes.subarray(at, at + size) });
    at += size;
  }
  return fields;
}

function varint(bytes: Buffer, start: number): { value: bigint; end: number } | null {
  let value = 0n;
  for (let at = start; at < start + 10; at++) {
    const byte = bytes[at];
    if (byte === undefined) return null;
    value |= BigInt(byte & 127) << BigInt(7 * (at - start));
    if (byte < 128) return { value: BigInt.asUintN(64, value), end: at + 1 };
  }
  return null;
}

/**
 * Where two messages first differ, or null. Field by field in order per field number, nested messages recursively;
 * packed and unpacked runs of numbers are the same.
 */
export function difference(a: Buffer, b: Buffer, where = 'model'): string | null {
  if (a.equals(b)) return null;
  const left = parseFields(a);
  const right = parseFields(b);
  if (!left || !right) return `${where}: ${a.length} and ${b.length} bytes`;
  for (const number of new Set([...left, ...right].map((field) => field.number))) {
    const place = `${where}.${number}`;
    const sides = [left, right].map((fields) => fields.filter((field) => field.number === number));
    const scalar = sides.flat().find((field) => field.wire !== 2)?.wire;
    const [x = [], y = []] = sides.map((fields) => (scalar === undefined ? fields : unpack(fields, scalar)));
    if (x.length !== y.length) return `${place}: ${x.length} and ${y.length} times`;
    for (const [i, field] of x.entries()) {
      const other = y[i] as Field;
      if (field.wire !== other.wire) return `${place}[${i}]: wire types ${field.wire} and ${other.wire}`;
      if (typeof field.data === 'bigint' || typeof other.data === 'bigint') {
        if (field.data !== other.data) return `${place}[${i}]: ${field.data} and ${other.data}`;
        continue;
      }
      const inner = field.wire === 2 ? difference(field.data, other.data, `${place}[${i}]`) : null;
      if (inner) return inner;
      if (field.wire !== 2 && !field.data.equals(other.data)) return `${place}[${i}]: different bits`;
    }
  }
  return null;
}

/** Length-delimited fields as runs of numbers of wire type `wire`. */
function unpack(fields: Field[], wire: number): Field[] {
  return fields.flatMap((field): Field[] => {
    if (field.wire !== 2 || typeof field.data === 'bigint') return [field];
    const { number, data } = field;
    const out: Field[] = [];
    if (wire === 0)
      for (let at = 0; at < data.length; ) {
        const value = varint(data, at);
        if (!value) return [field];
        out.push({ number, wire, data: value.value });
        at = value.end;
      }
    else
      for (let size = wire === 1 ? 8 : 4, at = 0; at < data.length; at += size)
        out.push({ number, wire, data: data.subarray(at, at + size) });
    return out;
  });
}

/** One field on the wire. */
export function field(number: number, data: bigint | number | string | Uint8Array, wire?: number): Buffer {
  if (typeof data === 'bigint' || typeof data === 'number') {
    const tag = encodeVarint(BigInt((number << 3) | (wire ?? 0)));
    return Buffer.concat([tag, encodeVarint(BigInt.asUintN(64, BigInt(data)))]);
  }
  const bytes = typeof data === 'string' ? Buffer.from(data) : Buffer.from(data);
  const kind = wire ?? 2;
  const tag = encodeVarint(BigInt((number << 3) | kind));
  return Buffer.concat(kind === 2 ? [tag, encodeVarint(BigInt(bytes.length)), bytes] : [tag, bytes]);
}

/** A number in seven-bit groups. */
export function encodeVarint(value: bigint): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  bytes.push(Number(rest));
  return Buffer.from(bytes);
}
