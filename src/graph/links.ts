/** Writing access to the IR, for the files of this folder that build or edit graphs; nobody else may import it. */
import type { Body, Node, Value } from './ir.ts';

/** The IR type with its fields writable. */
export type Mutable<T> = {
  -readonly [K in keyof T]: T[K] extends readonly (infer E)[]
    ? E[]
    : T[K] extends ReadonlyMap<infer A, infer B>
      ? Map<A, B>
      : T[K] extends ReadonlySet<infer A>
        ? Set<A>
        : T[K];
};

/** The same object, writable. */
export const mutable = <T extends object>(object: T): Mutable<T> => object as unknown as Mutable<T>;

export function newValue(name: string, body: Body | null): Value {
  const value: Value = {
    name,
    declared: null,
    producer: null,
    index: 0,
    body,
    initializer: null,
    isInput: false,
    users: new Map(),
  };
  return value;
}

export function addUser(value: Value, user: Node | Body): void {
  mutable(value).users.set(user, (value.users.get(user) ?? 0) + 1);
}

export function dropUser(value: Value, user: Node | Body): void {
  const count = (value.users.get(user) ?? 0) - 1;
  if (count > 0) mutable(value).users.set(user, count);
  else mutable(value).users.delete(user);
}
