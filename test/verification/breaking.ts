/**
 * Makes operations on files fail as an operating system does, whoever asks for them: loaded before anything that asks
 * (`vi.hoisted`), because some keep the functions they found. Only what lies below `inside` counts and fails.
 */
type Anything = any

const fs: Anything = process.getBuiltinModule("node:fs")
const { syncBuiltinESMExports } = process.getBuiltinModule("node:module")

const ERRNO: Readonly<Record<string, number>> = { ENOSPC: 28, EMFILE: 24, EIO: 5, EACCES: 13, ENOMEM: 12, EROFS: 30 }

export const breaking = {
  /** Folders whose files count. */
  inside: [] as ReadonlyArray<string>,
  /** Operations so far. */
  count: 0,
  /** The operation that fails, from 1; 0: none. */
  at: 0,
  code: "EIO",
  /** What failed. */
  failed: undefined as string | undefined,
}

const open = new Map<number, string>()

const failure = (syscall: string, path: string): Error =>
  Object.assign(new Error(`${breaking.code}: it was made to fail, ${syscall} '${path}'`), {
    code: breaking.code,
    errno: -(ERRNO[breaking.code] ?? 5),
    syscall,
    path,
  })

/** Counts an operation, and says how it fails, if it is its turn. */
const turn = (syscall: string, target: unknown): Error | undefined => {
  const path = typeof target === "number" ? open.get(target) : String(target)
  if (path === undefined || !breaking.inside.some((folder) => path.startsWith(folder))) return undefined
  if (++breaking.count !== breaking.at) return undefined
  breaking.failed = `${syscall} ${path}`
  return failure(syscall, path)
}

const SYNC = ["openSync", "readSync", "readFileSync", "writeFileSync", "writeSync", "mkdirSync", "mkdtempSync"]
const MORE = ["symlinkSync", "copyFileSync", "readdirSync", "lstatSync", "statSync", "fstatSync", "realpathSync"]
const LATER = ["open", "read", "readFile", "writeFile", "stat", "readdir", "mkdir", "mkdtemp", "rename"]

for (const name of [...SYNC, ...MORE]) {
  const real = fs[name]
  const broken = (...args: Array<unknown>) => {
    const error = turn(name.replace("Sync", ""), args[name === "symlinkSync" || name === "copyFileSync" ? 1 : 0])
    if (error !== undefined) throw error
    const result = real(...args)
    if (name === "openSync") open.set(result, String(args[0]))
    return result
  }
  fs[name] = Object.assign(broken, real)
}
for (const name of LATER) {
  const real = fs[name]
  fs[name] = (...args: Array<unknown>) => {
    const error = turn(name, args[0])
    const done = args.at(-1)
    if (error !== undefined && typeof done === "function") return void queueMicrotask(() => done(error))
    if (name === "open" && typeof done === "function")
      args[args.length - 1] = (problem: unknown, file: number) => {
        if (!problem) open.set(file, String(args[0]))
        done(problem, file)
      }
    return real(...args)
  }
  const promised = fs.promises[name]
  if (promised === undefined) continue
  fs.promises[name] = async (...args: Array<unknown>) => {
    const error = turn(name, args[0])
    if (error !== undefined) throw error
    const result = await promised(...args)
    if (name !== "open") return result
    const read = result.read.bind(result)
    result.read = async (...rest: Array<unknown>) => {
      const problem = turn("read", args[0])
      if (problem !== undefined) throw problem
      return read(...rest)
    }
    return result
  }
}
syncBuiltinESMExports()
