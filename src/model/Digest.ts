/**
 * One spelling for every value that is hashed.
 *
 * Canonical JSON here: object keys sorted by UTF-16 code unit, no white space, absent and `undefined` members left out, `-0`
 * written as `0`. Anything JSON cannot say exactly (`NaN`, infinities, functions, symbols, bigints, dates, maps) is refused
 * rather than spelled in some way: two values that mean different things must never share a digest.
 */
import { createHash } from "node:crypto"
import { byCodeUnit } from "./ByCodeUnit.ts"

export class NotCanonical extends Error {
  override readonly name = "NotCanonical"
}

export type Sha256 = string

export const canonicalJson = (value: unknown, path = "$"): string => {
  if (value === null || typeof value === "boolean" || typeof value === "string") return JSON.stringify(value)
  if (typeof value === "number") {
    if (!Number.isFinite(value)) throw new NotCanonical(`${path} is ${value}: it has no JSON spelling`)
    return JSON.stringify(Object.is(value, -0) ? 0 : value)
  }
  if (Array.isArray(value)) return `[${value.map((item, index) => canonicalJson(item, `${path}[${index}]`)).join(",")}]`
  if (typeof value === "object") {
    const prototype = Object.getPrototypeOf(value)
    if (prototype !== Object.prototype && prototype !== null)
      throw new NotCanonical(`${path} is a ${prototype.constructor?.name ?? "class instance"}, not plain data`)
    const entries = Object.entries(value)
      .filter(([, member]) => member !== undefined)
      .sort(([a], [b]) => byCodeUnit(a, b))
    return `{${entries.map(([key, member]) => `${JSON.stringify(key)}:${canonicalJson(member, `${path}.${key}`)}`).join(",")}}`
  }
  throw new NotCanonical(`${path} is a ${typeof value}: it has no JSON spelling`)
}

/** Hexadecimal sha256 of bytes, or of the UTF-8 of a string. */
export const sha256 = (bytes: string | Uint8Array): Sha256 => createHash("sha256").update(bytes).digest("hex")

/** Hexadecimal sha256 of a value's canonical JSON. */
export const digest = (value: unknown): Sha256 => sha256(canonicalJson(value))
