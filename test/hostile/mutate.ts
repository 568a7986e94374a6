/**
 * Mutated cases, in a process of their own so that a crash or a hang is seen for what it is.
 *
 *     npx node test/hostile/mutate.ts <seed> <cases for each format> [<format>:<case>]
 *
 * Prints a line of JSON for each case before it starts and after; with the last argument that case alone runs again.
 */
import { gunzipSync, gzipSync } from "node:zlib"
import { Effect } from "effect"
import { type RandomStream, stream } from "../../src/model/Random.ts"
import { type Seed, seeds } from "./files.ts"
import { judge } from "./judge.ts"

const [seed = "1", cases = "70", only] = process.argv.slice(2)

const hostileBytes = [
  "\u0000",
  "\ufeff",
  "\n",
  '"',
  "{",
  "[".repeat(3000),
  '"__proto__":{"text":"x"},',
  "-1",
  "1e999",
  "99999999999999999999",
  "\\ud800",
  "null",
  "../../",
].map((text) => Buffer.from(text))
const extremes = [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]

/** Draws one after another. */
const drawer = (random: RandomStream) => {
  let at = 0
  return (below: number) => Math.floor(random.uniform(at++) * below)
}

const mutated = (valid: Buffer, others: ReadonlyArray<Buffer>, draw: (below: number) => number): Buffer => {
  let bytes = Buffer.from(valid)
  for (let changes = 1 + draw(3); changes > 0; changes--) {
    const at = draw(bytes.length + 1)
    switch (draw(7)) {
      case 0:
        for (let flips = 1 + draw(8); flips > 0 && bytes.length > 0; flips--) bytes[draw(bytes.length)]! ^= 1 << draw(8)
        break
      case 1:
        bytes = bytes.subarray(0, at)
        break
      case 2:
        bytes = Buffer.concat([bytes.subarray(0, at), hostileBytes[draw(hostileBytes.length)]!, bytes.subarray(at)])
        break
      case 3:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + draw(20))])
        break
      case 4: {
        const other = others[draw(others.length)]!
        const from = draw(other.length)
        bytes = Buffer.concat([bytes.subarray(0, at), other.subarray(from, from + draw(200)), bytes.subarray(at)])
        break
      }
      case 5:
        if (bytes.length >= 4) bytes.writeUInt32LE(extremes[draw(extremes.length)]!, draw(bytes.length - 3))
        break
      default:
        // a number in text, or a varint, becomes another
        for (let tries = 0; tries < 20 && bytes.length > 0; tries++) {
          const place = draw(bytes.length)
          if (bytes[place]! >= 48 && bytes[place]! <= 57) bytes[place] = 48 + draw(10)
          else if (tries === 19) bytes[place] = draw(256)
          else continue
          break
        }
    }
  }
  return bytes
}

const say = (line: object) => process.stdout.write(`${JSON.stringify(line)}\n`)

const all: ReadonlyArray<Seed> = await Effect.runPromise(seeds)
const contents = all.map(({ files, victim }) => Buffer.from(files[victim] as Uint8Array))
for (const { name, reader, files, victim, target } of all) {
  const valid = Buffer.from(files[victim] as Uint8Array)
  for (let number = 0; number < Number(cases); number++) {
    const id = `${name}:${number}`
    if (only !== undefined && id !== only) continue
    const draw = drawer(stream(Number(seed), `hostile:${id}`))
    // half of the packed ones are damaged inside: damage outside is always found by the checksum
    const inside = name === "jsonl.gz" && number % 2 === 0
    const bytes = inside ? gzipSync(mutated(gunzipSync(valid), contents, draw)) : mutated(valid, contents, draw)
    say({ id })
    try {
      // case 0 is the valid file
      say({ id, outcome: await judge(reader, { ...files, [victim]: number === 0 ? valid : bytes }, target) })
    } catch (cause) {
      say({ id, wrong: cause instanceof Error ? cause.message : String(cause) })
    }
  }
}
say({ peakMegabytes: Math.round(process.resourceUsage().maxRSS / 1000) })
