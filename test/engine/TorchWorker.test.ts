/** What becomes of a run when its worker does: real processes that speak the protocol, well or badly, and compute nothing. */
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { Engine, EngineFailed, type TrainEvent } from "../../src/engine/Engine.ts"
import { Headway, type Reached } from "../../src/engine/Headway.ts"
import { Remarks } from "../../src/engine/Remarks.ts"
import { type DeviceReading, Telemetry } from "../../src/engine/Telemetry.ts"
import { layerWith, pieces, type Settings } from "../../src/engine/torch/TorchEngine.ts"
import { alive } from "../processes.ts"
import { temporary } from "../temporary.ts"
import { architecture, optimizer } from "./golden.ts"

const script = join(import.meta.dirname, "fakeWorker.ts")
const fake = (what: string, settings: Partial<Settings> = {}, file = "") =>
  layerWith({ command: [process.execPath, script, what, file], ...settings })

const request = (endStep: number) => ({
  architecture,
  from: { _tag: "Fresh" as const },
  seed: 1,
  tokens: "/nowhere/tokens",
  order: "/nowhere/order.bin",
  rowsPerStep: 4,
  startStep: 0,
  endStep,
  schedule: { peakLr: 1e-3, warmupSteps: 0 },
  optimizer,
  checkpoints: { folder: "/nowhere", at: [], moments: false },
  resume: { folder: "/nowhere/resume", everySeconds: 120 },
})

const losses = Effect.flatMap(Engine, (engine) =>
  engine.losses({ checkpoint: "/nowhere", documents: [{ id: "a", ids: [1, 2] }] }),
)

/** How a request ends where the worker does this. */
/** A training that is left after some steps, and what was said of it. */
const left = Effect.gen(function* () {
  const engine = yield* Engine
  const said: Array<string> = []
  const seen: Array<TrainEvent> = []
  const fiber = yield* Effect.forkChild(
    Stream.runForEach(engine.train(request(100_000)), (event) => Effect.sync(() => void seen.push(event))).pipe(
      Effect.provideService(Remarks, (text) => void said.push(text)),
    ),
  )
  while (seen.length < 5) yield* Effect.sleep("5 millis")
  yield* Fiber.interrupt(fiber)
  return said
})

const failing = (what: string, settings: Partial<Settings> = {}) =>
  Effect.flip(losses).pipe(
    Effect.provide(fake(what, settings)),
    Effect.map((error) => {
      assert.instanceOf(error, EngineFailed)
      return error as EngineFailed
    }),
  )

describe("a worker", () => {
  it.live("is started once, and does one request after the other", () =>
    Effect.gen(function* () {
      const engine = yield* Engine
      const documents = [
        { id: "typed", ids: Int32Array.of(7, 8, 9) },
        { id: "plain", ids: [1, 2] },
        { id: "one", ids: [5] },
      ]
      const answers = yield* Effect.all(
        [engine.losses({ checkpoint: "/nowhere", documents }), engine.losses({ checkpoint: "/nowhere", documents })],
        { concurrency: 2 },
      )
      assert.deepStrictEqual(answers[0]![0], { id: "typed", nll: 24, tokens: 2, textNll: 0 })
      assert.deepStrictEqual(answers[1], answers[0])
    }).pipe(Effect.provide(fake("works"))),
  )

  it.live("is sent a request of any length no faster than it reads, and nothing is left waiting for it", () =>
    Effect.gen(function* () {
      const warnings: Array<string> = []
      const listen = ({ message }: Error) => void warnings.push(message)
      process.on("warning", listen)
      const documents = Array.from({ length: 60 }, (_, i) => ({ id: `${i}`, ids: new Int32Array(50_000).fill(i) }))
      const answers = yield* Effect.flatMap(Engine, (engine) => engine.losses({ checkpoint: "/nowhere", documents }))
      process.off("warning", listen)
      assert.lengthOf(answers, 60)
      assert.deepStrictEqual(warnings, [])
    }).pipe(Effect.provide(fake("works"))),
  )

  it.live("is heard in order: events for telemetry, remarks for people, readings of the device", () =>
    Effect.gen(function* () {
      const said: Array<string> = []
      const readings: Array<DeviceReading> = []
      const events = yield* Effect.flatMap(Engine, (engine) => Stream.runCollect(engine.train(request(20)))).pipe(
        Effect.provideService(Remarks, (text) => void said.push(text)),
        Effect.provideService(Telemetry, (reading) => void readings.push(reading)),
      )
      assert.deepStrictEqual(
        events.map((event) => `${event._tag} ${event.step}`),
        Array.from({ length: 20 }, (_, i) => `Step ${i + 1}`),
      )
      assert.deepStrictEqual(said, ["torch 2.15.0 on cpu, threads=1", "micro-batch 4: 1.0 of 16.0 GB"])
      assert.strictEqual(readings.length, 20)
      assert.deepStrictEqual(readings[1], { tokensPerSecond: 2000, mfu: 0.5 })
    }).pipe(Effect.provide(fake("works", { machine: { threads: 1 } }))),
  )

  it.live("is heard of how far it is with what takes long", () =>
    Effect.gen(function* () {
      const heard: Array<Reached> = []
      yield* Effect.provideService(losses, Headway, (reached) => void heard.push(reached))
      assert.deepStrictEqual(heard, [{ done: 1, total: 2, unit: "documents" }])
    }).pipe(Effect.provide(fake("works"))),
  )

  it.live("is told when its training is left, waited for, and asked again", () =>
    Effect.gen(function* () {
      const folder = yield* temporary
      const file = join(folder, "resume")
      yield* Effect.gen(function* () {
        const said = yield* left
        // its resume point was there before the interruption was over
        const saved = Number(readFileSync(file, "utf8"))
        assert.isAtLeast(saved, 5)
        assert.strictEqual(said.at(-1), `saved at step ${saved}`)
        assert.strictEqual((yield* losses)[0]!.nll, 3)
      }).pipe(Effect.provide(fake("works", {}, file)))
    }),
  )

  it.live("says when what a training did last could not be saved, and why", () =>
    Effect.gen(function* () {
      const file = join(yield* temporary, "no such folder", "resume")
      yield* Effect.gen(function* () {
        const said = yield* left
        assert.match(said.at(-1)!, /^what it did last could not be saved: ENOENT.*resume'\n {2}hint: /)
        assert.strictEqual((yield* losses)[0]!.nll, 3)
      }).pipe(Effect.provide(fake("works", {}, file)))
    }),
  )

  it.live("has a request whole before the word that it is given up, however early that is said", () =>
    Effect.gen(function* () {
      const file = join(yield* temporary, "read")
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        // far more than a pipe holds
        const documents = [{ id: "long", ids: new Int32Array(2_000_000) }]
        const asking = yield* Effect.forkChild(engine.losses({ checkpoint: "/nowhere", documents }))
        while (!existsSync(file)) yield* Effect.sleep("5 millis")
        const leaving = yield* Effect.forkChild(Fiber.interrupt(asking))
        yield* Effect.sleep("200 millis")
        writeFileSync(`${file}.go`, "")
        yield* Fiber.join(leaving)
        assert.strictEqual(readFileSync(file, "utf8"), "it has begun\n2000000 ids\ngiven up\n")
      }).pipe(Effect.provide(fake("reads late", {}, file)))
    }),
  )

  it.live("waits for a listener that is slow, and holds only so much for it", () =>
    Effect.gen(function* () {
      const file = join(yield* temporary, "said")
      let ahead = 0
      const untilSilent = Effect.gen(function* () {
        for (let before = -1; before !== ahead; ) {
          before = ahead
          yield* Effect.sleep("300 millis")
          ahead = statSync(file).size
        }
      })
      const last = yield* Effect.flatMap(Engine, (engine) =>
        engine.train(request(20_000)).pipe(
          Stream.tap((event) => (event.step === 1 ? untilSilent : Effect.void)),
          Stream.runLast,
        ),
      ).pipe(Effect.provide(fake("hurries", {}, file)))
      assert.strictEqual(last._tag === "Some" && last.value.step, 20_000)
      // its lines that wait, and those in the pipe between
      assert.isAbove(ahead, 100)
      assert.isBelow(ahead, 5000)
    }),
  )

  it.live("that ends is an error with its exit code and its last words", () =>
    Effect.gen(function* () {
      const error = yield* failing("dies")
      assert.strictEqual(error.kind, "died")
      assert.strictEqual(
        error.message,
        [
          "torch engine, measuring losses: the worker ended with exit code 3",
          "  its last words:",
          "    Traceback (most recent call last):",
          '      File "train.py", line 7',
          "    KeyError: 'rows'",
          "  hint: `exp doctor` says what there is; the worker's last words may say more",
        ].join("\n"),
      )
    }),
  )

  it.live("that is out of memory says what to lower, whoever noticed it", () =>
    Effect.gen(function* () {
      const errors = yield* Effect.forEach(["is out of memory", "is killed", "says that memory is wanting"], (what) =>
        failing(what),
      )
      assert.deepStrictEqual(
        errors.map(({ kind }) => kind),
        ["memory", "memory", "memory"],
      )
      assert.match(errors[0]!.message, /exit code 1\n.*\n.*CUDA out of memory[\s\S]*hint: .*microBatchRows/)
      assert.match(errors[1]!.message, /was killed, most likely by the system, for want of memory/)
      assert.match(errors[2]!.message, /training: 6 rows do not fit\n {2}hint: take 4/)
    }),
  )

  it.live("that says nothing, or only that it lives, is ended after the time it has", () =>
    Effect.gen(function* () {
      const silent = yield* failing("hangs", { missedHeartbeats: 10 })
      assert.strictEqual(silent.kind, "hung")
      assert.match(silent.message, /has said nothing for \d+ s, and was ended/)
      const stalled = yield* failing("stalls", { missedHeartbeats: 10, machine: { stalledSeconds: 5 } })
      assert.strictEqual(stalled.kind, "hung")
      assert.match(stalled.message, /has said nothing for 6 s/)
      const mute = yield* failing("is mute", { startSeconds: 0.5 })
      assert.strictEqual(mute.kind, "hung")
      assert.match(mute.message, /^torch engine, starting: /)
    }),
  )

  it.live("that writes what is no answer is believed nothing", () =>
    Effect.gen(function* () {
      for (const [what, words] of [
        ["prints rubbish", /no answer: `Downloading shards: 100%\|████\| 3\/3`/],
        ["begins with rubbish", /starting: the worker wrote what is no answer: `Welcome to Python`/],
        ["answers what was not asked", /no answer: `\[\{"document":"a"\}\]`/],
        ["answers somebody else", /nobody waits for it/],
        ["sends a loss that is no number", /no answer: `\{"id":1,"event"/],
      ] as const) {
        const error = yield* failing(what)
        assert.strictEqual(error.kind, "rubbish", what)
        assert.match(error.message, words)
        assert.match(error.message, /\n {2}hint: /)
      }
    }),
  )

  it.live("of another version is refused before it is asked for anything", () =>
    Effect.gen(function* () {
      const older = yield* failing("speaks an older protocol")
      assert.strictEqual(older.kind, "version")
      assert.match(older.message, /speaks protocol 0, this side 1/)
      const other = yield* failing("computes other numbers")
      assert.match(other.message, /speaks numerics 2, this side 1/)
    }),
  )

  it.live("that cannot be started says how to get one", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(losses).pipe(Effect.provide(layerWith({ command: ["/no/such/python"] })))
      assert.instanceOf(error, EngineFailed)
      assert.strictEqual((error as EngineFailed).kind, "absent")
      assert.match(error.message, /`\/no\/such\/python` does not start[\s\S]*hint: `exp setup torch`/)
    }),
  )

  it.live("that failed is dead, and the next request has a new one", () =>
    Effect.gen(function* () {
      const folder = yield* temporary
      const pids = join(folder, "pids")
      yield* Effect.gen(function* () {
        yield* Effect.flip(losses)
        yield* Effect.flip(losses)
      }).pipe(Effect.provide(fake("prints rubbish", {}, pids)))
      const [first, second] = readFileSync(pids, "utf8").trim().split("\n").map(Number)
      assert.notStrictEqual(first, second)
      assert.isFalse(alive(first!))
      assert.isFalse(alive(second!))
    }),
  )
})

describe("a request", () => {
  it("is the same JSON in pieces as at once, typed arrays as arrays", () => {
    const value = {
      id: 1,
      request: { documents: [{ id: 'a "b"', ids: [1, 2] }], none: [], nothing: {}, absent: undefined, flag: true },
    }
    assert.strictEqual([...pieces(value)].join(""), JSON.stringify(value))
    assert.strictEqual([...pieces({ ids: Int32Array.of(1, -2) })].join(""), '{"ids":[1,-2]}')
  })
})
