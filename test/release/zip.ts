/** A zip archive read back by somebody who knows the format and not its writer: the list at the end first, then what it points to. */
import { crc32 } from "node:zlib"

export interface ZipRecord {
  readonly name: string
  readonly bytes: Buffer
  /** Where its content begins. */
  readonly offset: number
}

const WIDE = 0xffffffff

/** Wide numbers of an extra field, in the order they have. */
const wideIn = (extra: Buffer): Array<number> => {
  for (let at = 0; at < extra.length; at += 4 + extra.readUInt16LE(at + 2))
    if (extra.readUInt16LE(at) === 1)
      return Array.from({ length: extra.readUInt16LE(at + 2) / 8 }, (_, i) =>
        Number(extra.readBigUInt64LE(at + 4 + 8 * i)),
      )
  return []
}

/** Throws at the first thing that is not as it should be: a sum, a signature, a stretch of the file that belongs to nothing. */
export const readZip = (file: Buffer): ReadonlyArray<ZipRecord> => {
  const expect = (holds: boolean, what: string) => {
    if (!holds) throw new Error(what)
  }
  const end = file.length - 22
  expect(file.readUInt32LE(end) === 0x06054b50, "no end")
  const locator = end - 20
  expect(file.readUInt32LE(locator) === 0x07064b50, "no locator of the wide end")
  const wideEnd = Number(file.readBigUInt64LE(locator + 8))
  expect(file.readUInt32LE(wideEnd) === 0x06064b50 && wideEnd + 56 === locator, "no wide end before its locator")
  const [entries, bytes, begins] = [32, 40, 48].map((at) => Number(file.readBigUInt64LE(wideEnd + at))) as [
    number,
    number,
    number,
  ]
  expect(begins + bytes === wideEnd, "the list does not end where the wide end begins")
  expect(file.readUInt16LE(end + 10) === Math.min(entries, 0xffff), "entries")
  expect(file.readUInt32LE(end + 12) === Math.min(bytes, WIDE), "length of the list")
  expect(file.readUInt32LE(end + 16) === Math.min(begins, WIDE), "start of the list")
  const records: Array<ZipRecord> = []
  let [at, next] = [begins, 0]
  for (let entry = 0; entry < entries; entry++) {
    expect(file.readUInt32LE(at) === 0x02014b50, "no entry")
    const [flags, method] = [file.readUInt16LE(at + 8), file.readUInt16LE(at + 10)]
    const [nameLength, extraLength] = [file.readUInt16LE(at + 28), file.readUInt16LE(at + 30)]
    const wide = wideIn(file.subarray(at + 46 + nameLength, at + 46 + nameLength + extraLength))
    const number = (narrow: number) => (narrow === WIDE ? wide.shift()! : narrow)
    const sum = file.readUInt32LE(at + 16)
    const length = number(file.readUInt32LE(at + 24))
    expect(number(file.readUInt32LE(at + 20)) === length && method === 0, "it is compressed")
    const header = number(file.readUInt32LE(at + 42))
    const name = file.subarray(at + 46, at + 46 + nameLength).toString()
    expect(header === next, `${name}: begins at ${header}, and what is before it ends at ${next}`)
    expect(file.readUInt32LE(header) === 0x04034b50, `${name}: no header`)
    expect(file.readUInt16LE(header + 6) === flags, `${name}: flags`)
    const offset = header + 30 + file.readUInt16LE(header + 26) + file.readUInt16LE(header + 28)
    expect(file.subarray(header + 30, header + 30 + nameLength).toString() === name, `${name}: named otherwise`)
    const content = file.subarray(offset, offset + length)
    expect(crc32(content) === sum, `${name}: sum`)
    const hasFooter = (flags & 8) !== 0
    if (hasFooter) {
      expect(file.readUInt32LE(offset + length) === 0x08074b50, `${name}: nothing behind it`)
      expect(file.readUInt32LE(offset + length + 4) === sum, `${name}: another sum behind it`)
      expect(file.readUInt32LE(offset + length + 8) === length, `${name}: another length behind it`)
    }
    next = offset + length + (hasFooter ? 16 : 0)
    records.push({ name, bytes: content, offset })
    at += 46 + nameLength + extraLength
  }
  expect(next === begins && at === wideEnd, "something lies between the records and their list")
  return records
}
