/**
 * A file of this disk as the hub's client takes it: a `Blob` that is read when it is asked for and never held. The client reads it to
 * hash it, cuts it into parts, and hands these to `fetch` as bodies; only there it counts what goes out (`Requests.ts` asks for
 * `going`), so that a large file is told of while it is sent.
 */
import { createReadStream } from "node:fs"
import { open, stat } from "node:fs/promises"
import { Readable } from "node:stream"

/** Told how many bytes of the file have gone out, of all its parts together. */
export type Told = (bytes: number) => void

/** Of one file: how much of each part has gone out, by where the part begins. */
class Count {
  readonly #parts = new Map<number, number>()
  readonly #told: Told
  constructor(told: Told) {
    this.#told = told
  }
  set(part: number, bytes: number): void {
    this.#parts.set(part, bytes)
    this.#told([...this.#parts.values()].reduce((sum, part) => sum + part, 0))
  }
}

export class SentFile extends Blob {
  override readonly size: number
  readonly #path: string
  readonly #start: number
  readonly #end: number
  readonly #count: Count

  private constructor(path: string, start: number, end: number, count: Count) {
    super([])
    this.size = end - start
    this.#path = path
    this.#start = start
    this.#end = end
    this.#count = count
  }

  static async open(path: string, told: Told): Promise<SentFile> {
    const { size } = await stat(path)
    return new SentFile(path, 0, size, new Count(told))
  }

  override slice(start = 0, end = this.size): SentFile {
    return new SentFile(this.#path, this.#start + start, Math.min(this.#start + end, this.#end), this.#count)
  }

  override async arrayBuffer(): Promise<ArrayBuffer> {
    const bytes = new ArrayBuffer(this.size)
    const file = await open(this.#path, "r")
    try {
      for (let done = 0; done < bytes.byteLength; ) {
        const rest = new Uint8Array(bytes, done)
        const { bytesRead } = await file.read(rest, 0, rest.length, this.#start + done)
        if (bytesRead === 0) throw new Error(`${this.#path} became shorter while it was read`)
        done += bytesRead
      }
      return bytes
    } finally {
      await file.close()
    }
  }

  override async text(): Promise<string> {
    return Buffer.from(await this.arrayBuffer()).toString("utf8")
  }

  override stream(): ReturnType<Blob["stream"]> {
    if (this.size === 0) return new Blob([]).stream()
    return Readable.toWeb(this.#read()) as ReturnType<Blob["stream"]>
  }

  #read(): Readable {
    return createReadStream(this.#path, { start: this.#start, end: this.#end - 1 })
  }

  /** The same, for one attempt to send it: each attempt counts from the beginning. */
  going(): Blob {
    return new Going(this.size, () => this.#counted())
  }

  async *#counted(): AsyncGenerator<Buffer> {
    let bytes = 0
    this.#count.set(this.#start, 0)
    for await (const chunk of this.#read() as AsyncIterable<Buffer>) {
      yield chunk
      // asked for the next one: this one has gone out
      bytes += chunk.length
      this.#count.set(this.#start, bytes)
    }
  }
}

class Going extends Blob {
  override readonly size: number
  readonly #bytes: () => AsyncIterable<Buffer>

  constructor(size: number, bytes: () => AsyncIterable<Buffer>) {
    super([])
    this.size = size
    this.#bytes = bytes
  }

  override stream(): ReturnType<Blob["stream"]> {
    return Readable.toWeb(Readable.from(this.#bytes(), { objectMode: false })) as ReturnType<Blob["stream"]>
  }
}
