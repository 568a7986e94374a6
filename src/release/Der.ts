/** As much of DER (ITU-T X.690) as certificates and stamps of time ask for: elements one after another, lengths in their shortest form. */

export interface Element {
  /** Class, form and number in one byte: 0x30 a sequence, 0xa3 the fourth field of one. */
  readonly tag: number
  readonly content: Buffer
}

export class NotDer extends Error {
  override readonly name = "NotDer"
}

const lengthAt = (bytes: Buffer, at: number): readonly [length: number, next: number] => {
  const first = bytes[at]
  if (first === undefined || first === 0x80) throw new NotDer("a length is missing")
  if (first < 0x80) return [first, at + 1]
  const octets = first & 0x7f
  if (octets > 4 || at + 1 + octets > bytes.length) throw new NotDer("a length is too long")
  const length = bytes.readUIntBE(at + 1, octets)
  if (length < 0x80 || length < 2 ** (8 * (octets - 1))) throw new NotDer("a length is not in its shortest form")
  return [length, at + 1 + octets]
}

/** All elements that bytes consist of. Throws `NotDer` at anything else. */
export const elements = (der: Uint8Array): ReadonlyArray<Element> => {
  const bytes = Buffer.from(der.buffer, der.byteOffset, der.byteLength)
  const found: Array<Element> = []
  for (let at = 0; at < bytes.length; ) {
    const tag = bytes[at]!
    if ((tag & 0x1f) === 0x1f) throw new NotDer("a tag of several bytes")
    const [length, from] = lengthAt(bytes, at + 1)
    if (from + length > bytes.length) throw new NotDer("an element is longer than what holds it")
    found.push({ tag, content: bytes.subarray(from, from + length) })
    at = from + length
  }
  return found
}

/** An element of these contents, one after another. */
export const element = (tag: number, ...contents: ReadonlyArray<Uint8Array>): Buffer => {
  const content = Buffer.concat(contents)
  if (content.length < 0x80) return Buffer.concat([Buffer.from([tag, content.length]), content])
  const octets = Buffer.alloc(4)
  octets.writeUInt32BE(content.length)
  const length = octets.subarray(octets.findIndex((octet) => octet !== 0))
  return Buffer.concat([Buffer.from([tag, 0x80 | length.length]), length, content])
}

/** Content of an object identifier, in hex: `oid("2.5.29.17")` is `551d11`. */
export const oid = (dotted: string): string => {
  const [first = 0, second = 0, ...rest] = dotted.split(".").map(Number)
  const octets = [first * 40 + second, ...rest].flatMap((value) => {
    const groups = [value & 0x7f]
    for (let left = Math.floor(value / 128); left > 0; left = Math.floor(left / 128))
      groups.unshift((left & 0x7f) | 0x80)
    return groups
  })
  return Buffer.from(octets).toString("hex")
}
