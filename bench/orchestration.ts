/**
 * What orchestration itself costs, beside other tools on the same graph in the same run.
 *
 *     npx node bench/orchestration.ts [--sizes=100,1000,10000] [--jobs=1] [--snakemake] [--folder=/somewhere]
 *
 * The graph: ten layers of N/10 steps; each reads two files of the layer before and writes one. It is run into an empty store and
 * again with nothing to do, by the real `runPlan`, store and journal. Every figure is of a process of its own. CPU is user and
 * system time of the process and of all it started; "a step" leaves out starting up, which is shown apart.
 *
 * Trap: nothing is removed before the end. An ext4 without a journal gives no inode away for minutes after it was given back, and
 * looks past all of those for each new file: whoever comes after a removal pays for it, and that with milliseconds a step.
 */
import { execFileSync, spawnSync } from "node:child_process"
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { loadavg, tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"
import { parseArgs } from "node:util"

const LAYERS = 10
const self = fileURLToPath(import.meta.url)
const root = fileURLToPath(new URL("..", import.meta.url))

interface Figures {
  /** Milliseconds of CPU before the plan was begun, and from there to the end. */
  readonly start: number
  readonly cpu: number
  readonly plan: number
  /** Milliseconds from beginning the plan to the end. */
  readonly wall: number
  readonly megabytes: number
  readonly made: number
  /** Most steps that were at work at once. */
  readonly together: number
}

/** Of children that have ended, where the system tells: in ticks of 10 ms. */
const childrenCpu = (): number => {
  if (process.platform !== "linux") return 0
  const fields = readFileSync("/proc/self/stat", "utf8").split(") ")[1]!.split(" ")
  return 10 * (Number(fields[13]) + Number(fields[14]))
}

/**
 * Peak memory of this process, in MB. Trap: on Linux `maxRSS` begins with what the process that started this one held before it became
 * another program.
 */
const peakMegabytes = (): number =>
  process.platform === "linux"
    ? Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))![1]) / 1024
    : process.resourceUsage().maxRSS / 1024

const cpuNow = (): number => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000 + childrenCpu()
}

/** In a child: one run of the graph into `store`. */
const work = async (folder: string, steps: number, jobs: number): Promise<Figures> => {
  const Effect = await import("effect/Effect")
  const Layer = await import("effect/Layer")
  const Schema = await import("effect/Schema")
  const NodeServices = await import("@effect/platform-node/NodeServices")
  const { Engine } = await import("../src/engine/Engine.ts")
  const { Tokenizer } = await import("../src/model/Artifact.ts")
  const { experiment, plan } = await import("../src/plan/Plan.ts")
  const Step = await import("../src/plan/Step.ts")
  const { Reporter } = await import("../src/run/Reporter.ts")
  const { runPlan } = await import("../src/run/Run.ts")
  const RunFolder = await import("../src/run/RunFolder.ts")
  const { Store } = await import("../src/store/Store.ts")
  let now = 0
  let together = 0
  const trivial = Step.make("trivial", {
    version: 1,
    params: { layer: Schema.Int, place: Schema.Int },
    inputs: { from: [Tokenizer] },
    output: (ref) => new Tokenizer(ref, 1),
    label: ({ layer, place }) => `trivial ${layer}.${place}`,
    run: (step) =>
      Effect.gen(function* () {
        together = Math.max(together, ++now)
        if (jobs > 1) yield* Effect.sleep(1)
        const texts = (step.inputs["from"] ?? []).map(({ path }) => readFileSync(join(path, "text"), "utf8"))
        writeFileSync(join(step.out, "text"), `${step.label}\n${texts.map((text) => text.split("\n")[0]).join(" ")}\n`)
        now--
        return undefined
      }),
  })
  const width = steps / LAYERS
  const graph = experiment("bench", function* () {
    let before: ReadonlyArray<InstanceType<typeof Tokenizer>> = []
    for (let layer = 0; layer < LAYERS; layer++) {
      const here: Array<InstanceType<typeof Tokenizer>> = []
      for (let place = 0; place < width; place++) {
        const from = before.length === 0 ? [] : [before[place]!, before[(place + 1) % width]!]
        here.push(yield* trivial({ from, layer, place }))
      }
      before = here
    }
  })
  const engine = Layer.mock(Engine, { numerics: { name: "none", numerics: 1, precision: "exact" } })
  const run = RunFolder.create(join(folder, "runs"), "bench", new Date())
  const facts = {
    experiment: "bench",
    experimentFile: "bench.ts",
    experimentSource: "",
    planText: "",
    parameters: {},
    startedAt: new Date().toISOString(),
    repository: root,
  }

  const start = cpuNow()
  const began = performance.now()
  const { nodes } = await Effect.runPromise(plan(graph))
  const planned = cpuNow()
  const results = await runPlan(nodes, { jobs, facts }).pipe(
    Effect.provideService(Reporter, Reporter.of({ emit: (event) => RunFolder.journal(run, event) })),
    Effect.provide(Layer.mergeAll(Store.layer(join(folder, "store")), engine, NodeServices.layer)),
    Effect.runPromise,
  )
  return {
    start,
    cpu: cpuNow() - start,
    plan: planned - start,
    wall: performance.now() - began,
    megabytes: peakMegabytes(),
    made: results.filter(({ made }) => made).length,
    together,
  }
}

/** What `bin/exp run` does before it loads anything, then this file. */
const boot = `
require("node:module").enableCompileCache()
require("node:v8").setFlagsFromString("--semi-space-growth-factor=1")
import(${JSON.stringify(pathToFileURL(self))})`

const figuresOf = (folder: string, steps: number, jobs: string): Figures =>
  JSON.parse(execFileSync(process.execPath, ["-e", boot, "--", "work", folder, String(steps), jobs]).toString())

/** CPU and wall in milliseconds of a command line, what it starts included. */
const timed = (command: string, cwd: string): { readonly cpu: number; readonly wall: number } => {
  const script = `TIMEFORMAT='%R %U %S'; time { ${command}; } >/dev/null 2>&1`
  const { stderr, status } = spawnSync("bash", ["-c", script], { cwd, encoding: "utf8" })
  if (status !== 0) throw new Error(`\`${command}\` failed: ${stderr}`)
  const [real = 0, user = 0, system = 0] = stderr.trim().split("\n").at(-1)!.split(" ").map(Number)
  return { cpu: (user + system) * 1000, wall: real * 1000 }
}

const median = (figures: ReadonlyArray<number>): number => [...figures].sort((a, b) => a - b)[figures.length >> 1]!

const there = (tool: string): boolean => spawnSync(tool, ["--version"]).status === 0

/** The same graph for a tool that reads files and starts a shell for each: output, inputs and layer of every step. */
const targets = (steps: number): ReadonlyArray<{ readonly out: string; readonly from: ReadonlyArray<string> }> =>
  Array.from({ length: steps }, (_, index) => {
    const width = steps / LAYERS
    const [layer, place] = [Math.floor(index / width), index % width]
    const name = (at: number) => `l${layer - 1}_${at % width}`
    return { out: `l${layer}_${place}`, from: layer === 0 ? ["seed"] : [name(place), name(place + 1)] }
  })

interface Tool {
  readonly name: string
  readonly command: string
  readonly write: (folder: string, steps: number) => void
}

const ninja: Tool = {
  name: "ninja",
  command: "ninja -j1",
  write: (folder, steps) => {
    const builds = targets(steps).map(({ out, from }) => `build ${out}: one ${from.join(" ")}`)
    writeFileSync(join(folder, "build.ninja"), `rule one\n  command = head -qn1 $in > $out\n${builds.join("\n")}\n`)
  },
}

const make: Tool = {
  name: "make",
  command: "make -j1",
  write: (folder, steps) => {
    const all = targets(steps)
    const rules = all.map(({ out, from }) => `${out}: ${from.join(" ")}\n\thead -qn1 $^ > $@\n`)
    writeFileSync(join(folder, "Makefile"), `all: ${all.map(({ out }) => out).join(" ")}\n${rules.join("")}`)
  },
}

/** In a virtual environment of its own, where `pip` has it. */
const snakemake = (home: string): Tool | undefined => {
  const python = join(home, "venv", "bin")
  try {
    execFileSync("python3", ["-m", "venv", join(home, "venv")])
    execFileSync(join(python, "pip"), ["install", "-q", "snakemake"])
  } catch {
    return undefined
  }
  return {
    name: "snakemake",
    command: `${join(python, "snakemake")} -c1 -q`,
    write: (folder, steps) => {
      const all = targets(steps)
      const rules = all.map(
        ({ out, from }) =>
          `rule ${out}:\n  input: ${JSON.stringify(from).slice(1, -1)}\n  output: "${out}"\n  shell: "head -qn1 {input} > {output}"\n`,
      )
      const outs = JSON.stringify(all.map(({ out }) => out)).slice(1, -1)
      writeFileSync(join(folder, "Snakefile"), `rule all:\n  input: ${outs}\n${rules.join("")}`)
    },
  }
}

const column = (figure: number | string, width = 11): string =>
  (typeof figure === "string" ? figure : figure.toFixed(figure < 10 ? 2 : 0)).padStart(width)

const main = (): void => {
  const { values } = parseArgs({
    options: {
      sizes: { type: "string", default: "100,1000,10000" },
      jobs: { type: "string", default: "1" },
      snakemake: { type: "boolean", default: false },
      folder: { type: "string", default: tmpdir() },
    },
  })
  const home = mkdtempSync(join(values.folder, "orchestration-"))
  const sizes = values.sizes.split(",").map(Number)
  try {
    const runs = join(home, "hero")
    for (const command of ["--help", `plan experiments/small-en-it.ts --runs ${runs}`]) {
      const line = `${process.execPath} bin/exp ${command}`
      timed(line, root) // the type check, and V8's compile cache
      const cpu = median(Array.from({ length: 5 }, () => timed(line, root).cpu))
      console.log(`exp ${command.split(" --runs")[0]}: ${cpu.toFixed(0)} ms CPU (median of 5)`)
    }

    const others: Array<Tool> = []
    for (const tool of [ninja, make]) {
      if (there(tool.name)) others.push(tool)
      else console.log(`${tool.name}: not on this machine, left out`)
    }
    const snake = values.snakemake ? snakemake(home) : undefined
    if (snake !== undefined) others.push(snake)
    else if (values.snakemake) console.log("snakemake: cannot be installed here, left out")

    const heads = ["CPU ms/step", "÷ exp", "wall ms", "MB", "start ms", "plan ms"]
    console.log(`\n${"".padEnd(34)}${heads.map((head) => column(head)).join("")}`)
    figuresOf(join(home, "warm"), 10, "1")
    for (const steps of sizes) {
      const folder = join(home, String(steps))
      const own: Array<Figures> = []
      for (const state of ["cold", "nothing to do"]) {
        const figures = figuresOf(folder, steps, values.jobs)
        if (figures.made !== (own.length === 0 ? steps : 0))
          throw new Error(`${figures.made} steps were made, ${state}`)
        own.push(figures)
        const name = `exp, ${steps} steps, ${state}`.padEnd(34)
        const { cpu, wall, megabytes, start, plan, together } = figures
        const shown = [cpu / steps, "1", wall, megabytes, start, plan].map((one) => column(one)).join("")
        console.log(`${name}${shown}${together > 1 ? `  up to ${together} steps at once` : ""}`)
      }
      for (const tool of others) {
        if (steps > 10_000 || (tool === snake && steps > 1000)) continue
        const place = join(home, `${tool.name}-${steps}`)
        mkdirSync(place)
        writeFileSync(join(place, "seed"), "seed\n")
        tool.write(place, steps)
        for (const [index, state] of ["cold", "nothing to do"].entries()) {
          const { cpu, wall } = timed(tool.command, place)
          const ratio = cpu / own[index]!.cpu
          const name = `${tool.name}, ${steps} steps, ${state}`.padEnd(34)
          console.log(`${name}${[cpu / steps, ratio.toFixed(2), wall].map((one) => column(one)).join("")}`)
        }
        if (readdirSync(place).length < steps) throw new Error(`${tool.name} did not make all files`)
      }
      console.log(
        `load: ${loadavg()
          .map((load) => load.toFixed(1))
          .join(" ")}`,
      )
    }
  } finally {
    rmSync(home, { recursive: true, force: true })
  }
}

const [, mode, folder, steps, jobs] = process.argv
if (mode === "work") {
  process.stdout.write(JSON.stringify(await work(folder!, Number(steps), Number(jobs))))
} else main()
