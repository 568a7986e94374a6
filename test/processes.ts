/** Who runs on this machine, and whose child each is: what Linux tells in `/proc`. Elsewhere nobody's children are known. */
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { setTimeout as sleep } from "node:timers/promises"

interface Process {
  readonly pid: number
  readonly parent: number
  readonly group: number
}

const told = existsSync("/proc/self/stat")

/** One that has ended and waits for its parent to ask how is gone. */
const processOf = (pid: number): Process | undefined => {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8")
    // the name before may hold anything, brackets and blanks too
    const [state, parent, group] = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
    return state === "Z" || state === "X" ? undefined : { pid, parent: Number(parent), group: Number(group) }
  } catch {
    return undefined
  }
}

const processes = (): ReadonlyArray<Process> =>
  told ? readdirSync("/proc").flatMap((name) => (/^\d+$/.test(name) ? (processOf(Number(name)) ?? []) : [])) : []

/** Processes below one, itself left out. */
export const descendants = (of: number): ReadonlyArray<number> => {
  const all = processes()
  const below = (one: number): ReadonlyArray<number> =>
    all.flatMap(({ pid, parent }) => (parent === one ? [pid, ...below(pid)] : []))
  return below(of)
}

/** Members of a process group. */
export const groupOf = (group: number): ReadonlyArray<number> =>
  processes().flatMap((one) => (one.group === group ? [one.pid] : []))

export const alive = (pid: number): boolean => {
  if (told) return processOf(pid) !== undefined
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** Waits until none of them is alive; false when one still is after that long. */
export const gone = async (pids: ReadonlyArray<number>, milliseconds = 10_000): Promise<boolean> => {
  for (const deadline = performance.now() + milliseconds; performance.now() < deadline; await sleep(20))
    if (!pids.some(alive)) return true
  return !pids.some(alive)
}

/** Whether the system tells what a process has resided in. */
export const onLinux = process.platform === "linux"
export const titledOnLinux = (title: string): string =>
  onLinux ? title : `${title} (skipped: only Linux tells what a process has resided in)`
