/**
 * A worker that speaks the protocol and computes nothing, or does one thing wrong: `node fakeWorker.ts WHAT [FILE]`. Real processes,
 * pipes and signals, without Python.
 */
import { once } from "node:events"
import { appendFileSync, existsSync, openSync, writeFileSync, writeSync } from "node:fs"
import { createInterface } from "node:readline"
import { setTimeout as sleep } from "node:timers/promises"

const [, , what = "works", file = ""] = process.argv
/** False where nobody reads it for now. */
const say = (line: object | string): boolean =>
  process.stdout.write(`${typeof line === "string" ? line : JSON.stringify(line)}\n`)
const hello = { protocol: 1, version: "0.1.0", numerics: 1, torch: "2.15.0", device: "cpu" }
const cancelled = new Set<number>()

const step = (n: number) => ({
  _tag: "Step",
  step: n,
  loss: 5 / n,
  lr: 1e-3,
  gradNorm: 1,
  tokensSeen: 256 * n,
  seconds: 0.01,
})

const train = async (id: number, { endStep }: { readonly endStep: number }): Promise<void> => {
  say({ id, note: "micro-batch 4: 1.0 of 16.0 GB" })
  for (let n = 1; n <= endStep; n++) {
    if (cancelled.has(id)) {
      await sleep(300)
      try {
        writeFileSync(file, String(n - 1))
        say({ id, result: { step: n - 1, interrupted: true } })
      } catch (cause) {
        const problem = (cause as Error).message
        say({ id, error: { _tag: "EngineFailed", doing: "writing a resume point", problem } })
      }
      return
    }
    say({ id, event: step(n) })
    say({ id, device: { tokensPerSecond: 1000 * n, mfu: 0.5 } })
    await sleep(1)
  }
  say({ id, result: { step: endStep, interrupted: false } })
}

const answers: Record<string, (id: number, request: any) => unknown> = {
  works: (id, request) => {
    if (request.endStep !== undefined) return train(id, request)
    // what it was sent comes back in the numbers
    const documents = request.documents as ReadonlyArray<{ readonly id: string; readonly ids: ReadonlyArray<number> }>
    const losses = documents.map(({ id, ids }) => ({
      id,
      nll: ids.reduce((sum, one) => sum + one, 0),
      tokens: ids.length - 1,
      textNll: 0,
    }))
    say({ id, progress: { done: 1, total: 2, unit: "documents" } })
    say({ id, result: losses })
  },
  /** Trains as fast as it is heard; its file grows by a byte a step. */
  hurries: async (id, { endStep }) => {
    const steps = openSync(file, "a")
    for (let n = 1; n <= endStep; n++) {
      writeSync(steps, ".")
      if (!say({ id, event: step(n) })) await once(process.stdout, "drain")
    }
    say({ id, result: { step: endStep, interrupted: false } })
  },
  /** Notes that a line has begun, and reads it when it is allowed to; answers when it is given up. */
  "reads late": async (id, request) => {
    appendFileSync(file, `${request.documents[0].ids.length} ids\n`)
    while (!cancelled.has(id)) await sleep(10)
    appendFileSync(file, "given up\n")
    say({ id, result: [] })
  },
  "prints rubbish": () => say("Downloading shards: 100%|████| 3/3"),
  "answers what was not asked": (id) => say({ id, result: [{ document: "a" }] }),
  "answers somebody else": () => say({ id: 4711, result: [] }),
  "sends a loss that is no number": (id) => say(`{"id":${id},"event":{"_tag":"Step","step":1,"loss":NaN}}`),
  dies: () => {
    process.stderr.write("Traceback (most recent call last):\n  File \"train.py\", line 7\nKeyError: 'rows'\n")
    process.exitCode = 3
    process.exit()
  },
  "is out of memory": () => {
    process.stderr.write("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.84 GiB\n")
    process.exit(1)
  },
  "is killed": () => void process.kill(process.pid, "SIGKILL"),
  "says that memory is wanting": (id) =>
    say({
      id,
      error: { _tag: "EngineFailed", doing: "training", problem: "6 rows do not fit", hint: "take 4", kind: "memory" },
    }),
  hangs: () => {},
  stalls: async () => {
    for (let n = 1; ; n++) {
      say({ alive: n })
      await sleep(20)
    }
  },
}

if (what === "is mute") setInterval(() => {}, 1000)
else if (what === "speaks an older protocol") say({ hello: { ...hello, protocol: 0 } })
else if (what === "computes other numbers") say({ hello: { ...hello, numerics: 2 } })
else if (what === "begins with rubbish") say("Welcome to Python")
else say({ hello: { ...hello, ...(what === "hangs" || what === "stalls" ? { heartbeat: 0.05 } : {}) } })

if (what === "reads late") {
  await once(process.stdin, "readable")
  writeFileSync(file, "it has begun\n")
  while (!existsSync(`${file}.go`)) await sleep(10)
}
for await (const line of createInterface({ input: process.stdin })) {
  const { id, cancel, request } = JSON.parse(line)
  if (cancel !== undefined) {
    cancelled.add(cancel)
    continue
  }
  if (file !== "" && what === "prints rubbish") appendFileSync(file, `${process.pid}\n`)
  void (answers[what] ?? answers["works"]!)(id, request)
}
process.exit(0)
