/**
 * Places where the store can be made to fail, compiled into the path that writes, so that what is tested is what is shipped. Nothing
 * is armed unless the environment says so before the process starts:
 *
 *     EXP_FAILPOINT=<name>:<action>[:<n>]    at the n-th passing (the first, if not said) of a named place, see FAILPOINTS
 *     EXP_FAIL_NTH=<n>:<action>              at the n-th file operation of the store, whatever it is
 *
 * `throw` is a bug in the code, `kill` is kill -9, `ENOSPC`, `EIO`, … are what the system answers. An operation that fails does half
 * its work first where it can: half a file is what a full disk and a killed process leave. It fails once: what comes after is whole.
 */
export const FAILPOINTS = [
  "make.locked",
  "make.place-made",
  "make.draft-written",
  "make.body-done",
  "commit.file-hashed",
  "commit.manifest-written",
  "commit.before-rename",
  "commit.renamed",
  "commit.before-note",
  "commit.noted",
  "make.before-clean",
  "journal.before-append",
] as const
export type Failpoint = (typeof FAILPOINTS)[number]

export type Action = "throw" | "kill" | "ENOSPC" | "EIO"
const ACTIONS: ReadonlyArray<Action> = ["throw", "kill", "ENOSPC", "EIO"]

export interface Failure {
  /** Which place; any file operation, if not said. */
  readonly at?: Failpoint
  readonly action: Action
  /** At which passing, counted from 1. */
  readonly nth: number
}

const fail = (action: Action, where: string): never => {
  if (action === "kill") process.kill(process.pid, "SIGKILL")
  if (action === "throw" || action === "kill") throw new Error(`failpoint ${where}`)
  throw Object.assign(new Error(`${action}: asked for at failpoint ${where}`), { code: action, syscall: where })
}

const parse = (env: NodeJS.ProcessEnv): Failure | undefined => {
  const named = env["EXP_FAILPOINT"]?.split(":")
  const counted = env["EXP_FAIL_NTH"]?.split(":")
  const [at, action, nth] = named ?? (counted === undefined ? [] : [undefined, counted[1], counted[0]])
  if (action === undefined) return undefined
  const known = ACTIONS.find((one) => one === action)
  const place = FAILPOINTS.find((one) => one === at)
  const count = Number(nth ?? 1)
  if (known === undefined || (at !== undefined && place === undefined) || !Number.isInteger(count) || count < 1)
    throw new Error(
      `EXP_FAILPOINT or EXP_FAIL_NTH cannot be understood\n  hint: places are ${FAILPOINTS.join(", ")}; actions are ${ACTIONS.join(", ")}`,
    )
  return { action: known, nth: count, ...(place !== undefined && { at: place }) }
}

let armed = parse(process.env)
let passed = 0

/** What the environment does for a process, for a test within one. Returns whether the last one came to pass. */
export const arm = (failure: Failure | undefined): boolean => {
  const happened = armed === undefined
  armed = failure
  passed = 0
  return happened
}

/** The failure whose time has come, if any. It is disarmed. */
const due = (at: Failpoint | undefined): Failure | undefined => {
  if (armed === undefined || armed.at !== at || ++passed < armed.nth) return undefined
  const failure = armed
  armed = undefined
  return failure
}

export const failpoint = (name: Failpoint): void => {
  if (armed === undefined) return
  const failure = due(name)
  if (failure !== undefined) fail(failure.action, name)
}

/** Before a file operation. `half`: what it leaves when it fails in the middle. */
export const operation = (syscall: string, half?: () => void): void => {
  if (armed === undefined) return
  const failure = due(undefined)
  if (failure === undefined) return
  half?.()
  fail(failure.action, syscall)
}
