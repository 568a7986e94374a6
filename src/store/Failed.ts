/**
 * What the system refused, as something to read and act on.
 */
import * as Schema from "effect/Schema"

export class StoreFailed extends Schema.TaggedError<StoreFailed>()("StoreFailed", {
  path: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `store, ${this.path}: ${this.problem}\n  hint: ${this.hint}`
  }
}

/** A failure of the system, not of the code: Node's own complaints have a code too, but no system call. */
export const isPlatform = (cause: unknown): cause is NodeJS.ErrnoException =>
  cause instanceof Error && "code" in cause && ("syscall" in cause || cause.code === "ERR_SQLITE_ERROR")

const hintFor = (code: string | undefined): string => {
  switch (code) {
    case "ENOSPC":
    case "EDQUOT":
      return "the disk is full: free some room and run again, nothing is lost"
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return "make the runs folder writable, or choose another with `--runs`"
    case "EMFILE":
    case "ENFILE":
      return "too many files are open: raise `ulimit -n`"
    default:
      return "look at the path, then run again: nothing half-made was kept"
  }
}

export const refused = (path: string, cause: NodeJS.ErrnoException): StoreFailed =>
  new StoreFailed({ path, problem: cause.message, hint: hintFor(cause.code) })
