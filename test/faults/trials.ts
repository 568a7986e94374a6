/**
 * Faults, one trial each: something goes wrong, what is left is looked at, and a run without faults follows. For the tests and for
 * `bench/faults.ts`.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { stream } from "../../src/model/Random.ts"
import { type Action, arm, type Failure } from "../../src/store/Failpoint.ts"
import { groupOf } from "../processes.ts"
import { flip } from "../store/damage.ts"
import { artifactsIn, attempt, finalsIn, JOBS, type PlanName, storeOf, wrongIn } from "./world.ts"

export interface Trial {
  /** Whether the fault came to pass: a run may be over before it. */
  readonly struck: boolean
  /** Artifacts that were in the store and not whole. */
  readonly wrong: ReadonlyArray<string>
  /** Work that was done and done again, or was not there in the end. */
  readonly lost: ReadonlyArray<string>
  /** What somebody would have to see to: the next run failed, a process stayed or hung. */
  readonly manual: ReadonlyArray<string>
}

export const isClean = (trial: Trial): boolean =>
  trial.wrong.length === 0 && trial.lost.length === 0 && trial.manual.length === 0

/** A kill and a failed call do not ask what disk they happen on: memory, where there is some, is quicker. */
const memory = "/dev/shm"
const scratch = fs.existsSync(memory) ? memory : tmpdir()

const inFolder = async <A>(use: (runs: string) => Promise<A>, base = scratch): Promise<A> => {
  const runs = fs.mkdtempSync(join(base, "exp-faults-"))
  try {
    return await use(runs)
  } finally {
    fs.rmSync(runs, { recursive: true, force: true })
  }
}

const clean = new Map<PlanName, Promise<ReadonlyArray<string>>>()
/** What a run that nothing happens to leaves. */
export const cleanFinals = (plan: PlanName = "world"): Promise<ReadonlyArray<string>> => {
  const known = clean.get(plan)
  if (known !== undefined) return known
  const finals = inFolder(async (runs) => {
    const error = await attempt(runs, { plan })
    if (error !== undefined) throw new Error(error)
    return finalsIn(runs)
  })
  clean.set(plan, finals)
  return finals
}

/** A run without faults, by the same command: it must complete, and with the same bytes. */
export const recover = async (
  runs: string,
  plan: PlanName = "world",
): Promise<Pick<Trial, "wrong" | "lost" | "manual">> => {
  const wanted = await cleanFinals(plan)
  const error = await attempt(runs, { plan })
  const got = new Set(finalsIn(runs))
  return {
    wrong: await wrongIn(runs),
    lost: wanted.filter((line) => !got.has(line)),
    manual: error === undefined ? [] : [`the next run failed: ${error}`],
  }
}

/** Errors and bugs, in this very process: a fresh store each time is what a fresh process would have. */
export const trialOfError = (failure: Failure): Promise<Trial & { readonly error: string | undefined }> =>
  inFolder(async (runs) => {
    await cleanFinals("short")
    arm(failure)
    const error = await attempt(runs, { plan: "short" })
    const struck = arm(undefined)
    const left = { wrong: await wrongIn(runs), lost: [], manual: [] }
    return { error, ...merge([left, await recover(runs, "short")], struck) }
  })

const START = join(import.meta.dirname, "child.ts")

interface Child {
  readonly process: ChildProcess
  readonly begun: Promise<void>
  /** Its exit code, or the signal that ended it. */
  readonly ended: Promise<number | string>
  readonly output: () => string
}

const start = (runs: string, env: Readonly<Record<string, string>>, plan: PlanName = "world"): Child => {
  const child = spawn(process.execPath, [START, runs, plan], {
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...env },
  })
  let text = ""
  const begun = Promise.withResolvers<void>()
  child.stdout.on("data", (chunk) => {
    text += chunk
    begun.resolve()
  })
  child.stderr.on("data", (chunk) => {
    text += chunk
  })
  const ended = new Promise<number | string>((resolve) =>
    child.on("exit", (code, signal) => {
      begun.resolve()
      resolve(code ?? signal!)
    }),
  )
  return { process: child, begun: begun.promise, ended, output: () => text }
}

/** To one that may be gone by now. */
const signal = (pid: number, name: NodeJS.Signals): void => {
  try {
    process.kill(pid, name)
  } catch (cause) {
    if (!(cause instanceof Error && "code" in cause && cause.code === "ESRCH")) throw cause
  }
}

const sleep = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds))

const within = <A>(milliseconds: number, promise: Promise<A>): Promise<A | undefined> => {
  const over = new AbortController()
  const late = new Promise<undefined>((resolve) => {
    const timer = setTimeout(() => resolve(undefined), milliseconds)
    over.signal.addEventListener("abort", () => clearTimeout(timer))
  })
  return Promise.race([promise, late]).finally(() => over.abort())
}

/** Processes of a group that are still there after 5 seconds; they are ended then. */
const orphansOf = async (group: number): Promise<ReadonlyArray<string>> => {
  for (const deadline = performance.now() + 5000; performance.now() < deadline; await sleep(20))
    if (groupOf(group).length === 0) return []
  const left = groupOf(group)
  for (const pid of left) signal(pid, "SIGKILL")
  return left.map((pid) => `process ${pid} stayed`)
}

const executionsIn = (log: string): ReadonlyArray<{ readonly pid: number; readonly artifact: string }> =>
  !fs.existsSync(log)
    ? []
    : fs
        .readFileSync(log, "utf8")
        .trim()
        .split("\n")
        .filter((line) => line !== "")
        .map((line) => ({ pid: Number(line.split(" ")[0]), artifact: line.split(" ")[1]! }))

/** Lets a process run into something deadly, and looks at what it left and at what it did that had been done before. */
const runToDeath = async (
  runs: string,
  env: Readonly<Record<string, string>>,
  strike: (child: Child) => Promise<void>,
  plan: PlanName = "world",
): Promise<Trial> => {
  const log = join(runs, "executions")
  const before = new Set(artifactsIn(runs))
  const child = start(runs, { ...env, EXP_TEST_LOG: log }, plan)
  await strike(child)
  const ended = await within(30_000, child.ended)
  const manual: Array<string> = []
  if (ended === undefined) {
    manual.push("it hangs")
    signal(-child.process.pid!, "SIGKILL")
  } else if (ended !== 0 && ended !== "SIGKILL") manual.push(`it ended with ${ended}: ${child.output()}`)
  manual.push(...(await orphansOf(child.process.pid!)))
  const after = new Set(artifactsIn(runs))
  const mine = executionsIn(log).filter(({ pid }) => pid === child.process.pid)
  const again = mine.filter(({ artifact }) => before.has(artifact)).map(({ artifact }) => `${artifact} was made again`)
  const inFlight = mine.filter(({ artifact }) => !after.has(artifact))
  const gone = [...before].filter((artifact) => !after.has(artifact)).map((artifact) => `${artifact} is gone`)
  return {
    struck: ended === "SIGKILL",
    wrong: await wrongIn(runs),
    lost: [...again, ...gone, ...(inFlight.length > JOBS ? [`${inFlight.length} steps were in flight`] : [])],
    manual,
  }
}

const merge = (trials: ReadonlyArray<Omit<Trial, "struck">>, struck: boolean): Trial => ({
  struck,
  wrong: trials.flatMap(({ wrong }) => wrong),
  lost: trials.flatMap(({ lost }) => lost),
  manual: trials.flatMap(({ manual }) => manual),
})

/** kill -9 by its own hand, at a place or at an operation. */
export const trialOfKill = (env: Readonly<Record<string, string>>): Promise<Trial> =>
  inFolder(async (runs) => {
    const killed = await runToDeath(runs, env, async () => {}, "short")
    return merge([killed, await recover(runs, "short")], killed.struck)
  })

/** kill -9 out of the blue, of the process or of its group, up to three times in a row, each while it recovers from the last. */
export const trialOfRandomKills = (seed: number): Promise<Trial> =>
  inFolder(async (runs) => {
    const random = stream(seed, "kills")
    const kills = 1 + (random.word(0) % 3)
    const trials: Array<Trial> = []
    for (let n = 1; n <= kills; n++) {
      const after = random.word(3 * n) % 300
      const group = random.word(3 * n + 1) % 2 === 1
      const trial = await runToDeath(runs, { EXP_TEST_PACE: "10" }, async (child) => {
        await child.begun
        await sleep(after)
        if (child.process.exitCode === null && child.process.signalCode === null)
          signal(group ? -child.process.pid! : child.process.pid!, "SIGKILL")
      })
      trials.push(trial)
      if (!trial.struck) break
    }
    return merge(
      [...trials, await recover(runs)],
      trials.some(({ struck }) => struck),
    )
  })

/** What a power cut may make of a file that was never synced: nothing, a part, or zeros of the right length with the times as they were. */
const tear = (path: string, how: number): void => {
  const { atime, mtime, size } = fs.statSync(path)
  if (how % 3 === 0) fs.rmSync(path)
  else if (how % 3 === 1) fs.truncateSync(path, how % (size + 1))
  else {
    fs.writeFileSync(path, Buffer.alloc(size))
    fs.utimesSync(path, atime, mtime)
  }
}

/**
 * The power is cut at some moment: the processes are gone, and of what is not noted as being on disk any file may be torn. Notes may
 * be torn too, but what one says is still true.
 */
export const trialOfPowerCut = (seed: number): Promise<Trial> =>
  inFolder(async (runs) => {
    const random = stream(seed, "power")
    let drawn = 0
    const draw = () => random.word(drawn++)
    await cleanFinals()
    const log = join(runs, "executions")
    const child = start(runs, { EXP_TEST_PACE: "10", EXP_TEST_LOG: log })
    await child.begun
    await sleep(draw() % 300)
    const struck = child.process.exitCode === null
    if (struck) signal(-child.process.pid!, "SIGKILL")
    await child.ended
    const manual = await orphansOf(child.process.pid!)
    const note = (artifact: string) => join(storeOf(runs), ".stat", `${artifact}.json`)
    const durable = artifactsIn(runs).filter((artifact) => fs.existsSync(note(artifact)))
    for (const artifact of artifactsIn(runs)) {
      if (durable.includes(artifact)) {
        if (draw() % 4 === 0) tear(note(artifact), draw())
      } else for (const path of filesBelow(join(storeOf(runs), artifact))) if (draw() % 2 === 0) tear(path, draw())
    }
    const before = executionsIn(log).length
    const after = start(runs, { EXP_TEST_LOG: log })
    const ended = await within(60_000, after.ended)
    const again = executionsIn(log)
      .slice(before)
      .filter(({ artifact }) => durable.includes(artifact))
      .map(({ artifact }) => `${artifact} was on disk and was made again`)
    return merge(
      [
        {
          wrong: [],
          lost: again,
          manual: [...manual, ...(ended === 0 ? [] : [`the next run ended with ${ended}: ${after.output()}`])],
        },
        await recover(runs),
      ],
      struck,
    )
  })

/** Two to eight processes that want the same; in two rounds of three, one of them sleeps a while in the middle of its work. */
export const trialOfCrowd = (seed: number): Promise<Trial> =>
  inFolder(async (runs) => {
    const random = stream(seed, "crowd")
    const log = join(runs, "executions")
    const children = Array.from({ length: 2 + (random.word(0) % 7) }, () =>
      start(runs, { EXP_TEST_PACE: "10", EXP_TEST_LOG: log }),
    )
    const manual: Array<string> = []
    const sleeper = children[random.word(1) % children.length]!
    await Promise.race(children.map(({ begun }) => begun))
    if (random.word(2) % 3 !== 0) {
      await sleeper.begun
      await sleep(random.word(3) % 200)
      if (sleeper.process.exitCode === null) {
        signal(sleeper.process.pid!, "SIGSTOP")
        await sleep(400)
        signal(sleeper.process.pid!, "SIGCONT")
      }
    }
    for (const child of children) {
      const ended = await within(60_000, child.ended)
      if (ended === undefined) {
        manual.push("a process hangs")
        signal(-child.process.pid!, "SIGKILL")
      } else if (ended !== 0) manual.push(`a process ended with ${ended}: ${child.output()}`)
    }
    const counts = new Map<string, number>()
    for (const { artifact } of executionsIn(log)) counts.set(artifact, (counts.get(artifact) ?? 0) + 1)
    const again = [...counts].flatMap(([artifact, count]) => (count > 1 ? [`${artifact} was made ${count} times`] : []))
    const wrong = await wrongIn(runs)
    return merge([{ wrong, lost: again, manual }, await recover(runs)], true)
  })

const filesBelow = (folder: string): ReadonlyArray<string> =>
  fs
    .readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => fs.statSync(path).size > 0)
    .sort()

/**
 * A finished store rots: one bit of one file of an artifact, of a manifest or of a note about one, with its times as they were. In two
 * trials of three an artifact is missing too, so that whoever makes it anew reads its inputs. Each trial leaves the store as it found
 * it, or says what it left.
 */
export const trialsOfRot = (seeds: ReadonlyArray<number>): Promise<ReadonlyArray<readonly [string, Trial]>> =>
  inFolder(async (runs) => {
    await recover(runs)
    const trials: Array<readonly [string, Trial]> = []
    for (const seed of seeds) {
      const random = stream(seed, "rot")
      const all = [...artifactsIn(runs)].sort()
      if (random.word(0) % 3 !== 0)
        fs.rmSync(join(storeOf(runs), all[random.word(1) % all.length]!), { recursive: true, force: true })
      const places = [
        ...artifactsIn(runs).map((artifact) => join(storeOf(runs), artifact)),
        join(storeOf(runs), ".stat"),
      ]
      const files = places.flatMap(filesBelow)
      const path = files[random.word(2) % files.length]!
      flip(path, random.word(3) % fs.statSync(path).size, 1 << (random.word(4) % 8))
      trials.push([`${seed}: ${path.slice(runs.length + 1)}`, { struck: true, ...(await recover(runs)) }])
      fs.rmSync(join(storeOf(runs), ".damaged"), { recursive: true, force: true })
      for (const run of fs.readdirSync(runs))
        if (run !== "store") fs.rmSync(join(runs, run), { recursive: true, force: true })
    }
    return trials
  })

/** n = 1, 2, … until a run gets through: the operations of a whole run, and the trials that were not clean. `stride`: not all. */
export const everyOperation = async (
  action: Action,
  trial: (nth: number) => Promise<Trial>,
  stride = 1,
): Promise<{ readonly operations: number; readonly bad: ReadonlyArray<readonly [string, Trial]> }> => {
  const bad: Array<readonly [string, Trial]> = []
  for (let nth = 1; nth <= 1000; nth += stride) {
    const done = await trial(nth)
    if (!isClean(done)) bad.push([`${nth}:${action}`, done])
    if (!done.struck) return { operations: nth - stride, bad }
  }
  throw new Error("no end of it")
}

/** `sh` in a mount namespace of its own, where the system lets us have one; `undefined` and why where it does not. */
export const mayMount = (): string | undefined => {
  if (process.platform !== "linux") return "there are mount namespaces on Linux alone"
  try {
    execFileSync("unshare", ["-Urm", "sh", "-c", "mount -t tmpfs -o size=1m none /mnt"], { stdio: "pipe" })
    return undefined
  } catch (cause) {
    return `a small disk may not be mounted here: ${cause instanceof Error ? cause.message.trim().split("\n").at(-1) : cause}`
  }
}

const LIMITS = join(import.meta.dirname, "limits.ts")

/** What `limits.ts` says of a limit that the system really sets, under a shell's preparations. */
export const underLimit = (
  limit: "full" | "readonly" | "descriptors",
): ReadonlyArray<Trial & { readonly error?: string }> => {
  const folder = fs.mkdtempSync(join(scratch, "exp-faults-"))
  const mounted = 'mount -t tmpfs -o size=3m none "$3" && exec "$0" "$1" "$2" "$3"'
  const [command, args] =
    limit === "descriptors"
      ? ["sh", ["-c", 'ulimit -n 128 && exec "$0" "$1" "$2" "$3"']]
      : ["unshare", ["-Urm", "sh", "-c", mounted]]
  try {
    return JSON.parse(
      execFileSync(command!, [...args!, process.execPath, LIMITS, limit, folder] as ReadonlyArray<string>, {
        encoding: "utf8",
      }),
    )
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}
