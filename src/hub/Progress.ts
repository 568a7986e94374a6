/**
 * How far a publication is, in files and bytes, from what it tells of. A large file counts while it goes out or comes back; one that
 * has to be sent once more begins again.
 */
import type { PublishEvent } from "./Publication.ts"

export interface Progress {
  readonly doing: "sent" | "read back"
  readonly files: number
  readonly bytes: number
  readonly of: { readonly files: number; readonly bytes: number }
  /** What is on its way, or has just come through. */
  readonly path: string
}

/** Gives, for each event that moves something, where everything is then. */
export const counting = (): ((event: PublishEvent) => Progress | undefined) => {
  let doing: Progress["doing"] = "sent"
  let done = { files: 0, bytes: 0 }
  let of = { files: 0, bytes: 0 }
  const counted = new Set<string>()
  const parts = new Map<string, number>()
  const at = (path: string): Progress => {
    const bytes = [...parts.values()].reduce((sum, part) => sum + part, done.bytes)
    return { doing, files: done.files, bytes: Math.min(bytes, of.bytes), of, path }
  }
  const through = (path: string, bytes: number): Progress | undefined => {
    parts.delete(path)
    if (counted.has(path)) return undefined
    counted.add(path)
    done = { files: done.files + 1, bytes: done.bytes + bytes }
    return at(path)
  }
  return (event) => {
    switch (event._tag) {
      case "Sending":
        doing = "sent"
        parts.clear()
        // what earlier commits sent counts on; what has to be sent again does not count twice
        of = { files: done.files + event.files, bytes: done.bytes + event.bytes }
        return undefined
      case "ReadingBack":
        doing = "read back"
        done = { files: 0, bytes: 0 }
        of = { files: event.files, bytes: event.bytes }
        counted.clear()
        parts.clear()
        return undefined
      case "Part":
        if (counted.has(event.path)) return undefined
        parts.set(event.path, event.bytes)
        return at(event.path)
      case "File":
        return event.state === "sent" ? through(event.path, event.bytes) : undefined
      case "ReadBack":
        return through(event.path, event.bytes)
      case "Did":
        return undefined
    }
  }
}
