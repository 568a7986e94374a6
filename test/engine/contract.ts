/** What every engine keeps, of every family. A new engine passes this suite: `contract("torch", layer)`, `contract("torch", layer, llama)`. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, layer as vitestLayer } from "@effect/vitest"
import { Effect, Fiber, type Layer, Stream } from "effect"
import {
  type CheckpointUnreadable,
  Engine,
  type EngineError,
  type TrainEvent,
  type TrainRequest,
} from "../../src/engine/Engine.ts"
import { notedEvents, unheard } from "../../src/engine/NotedEvents.ts"
import * as Safetensors from "../../src/engine/Safetensors.ts"
import { greedy, standardPresets } from "../../src/model/Decoding.ts"
import { temporary } from "../temporary.ts"
import {
  type GoldenModel,
  goldenRequest as goldenRequestOf,
  goldenRows,
  gpt2,
  LENGTH,
  norm,
  rowsOfStep,
  STEPS,
  writeStart as writeStartOf,
  writeTokens,
} from "./golden.ts"

const TOLERANCE = 2e-5

const near = (actual: number, expected: number, tolerance: number, what: string) =>
  assert.isAtMost(Math.abs(actual - expected), tolerance, `${what}: ${actual}, expected ${expected}`)

const train = (request: TrainRequest) => Effect.flatMap(Engine, (engine) => Stream.runCollect(engine.train(request)))

const only = <Tag extends TrainEvent["_tag"]>(events: ReadonlyArray<TrainEvent>, tag: Tag) =>
  events.filter((event): event is Extract<TrainEvent, { _tag: Tag }> => event._tag === tag)

/** Steps without the clock. */
const arithmetic = (events: ReadonlyArray<TrainEvent>) => only(events, "Step").map(({ seconds: _, ...event }) => event)

const bytesOf = (path: string): ReadonlyMap<string, string> =>
  new Map(readdirSync(path).map((name) => [name, readFileSync(join(path, name)).toString("base64")]))

const document = (id: string, length: number, seed: number) => ({
  id,
  ids: Array.from({ length }, (_, i) =>
    i === 0 ? 0 : i === length - 1 ? 1 : 3 + (((i + seed) * (i + 7 * seed + 3)) % 250),
  ),
})

/** Initial weights of each family: an embedding, a projection that adds to the residual stream, a gain. */
const drawn = {
  gpt2: ["transformer.wte.weight", "transformer.h.1.mlp.c_proj.weight", "transformer.ln_f.weight"],
  llama: ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"],
} as const

export interface Nature {
  /** A worker may run ahead of whoever listens: then it notes what it said, and its resume point is where it is. */
  readonly runsAhead: boolean
  /**
   * What a key's bias adds is the same for every position that a query looks at: softmax takes no notice, the gradient is the rounding
   * of the kernels, and Adam takes full steps along it. Between kernels the norm of the tensor it is a third of differs by so much,
   * while the other two thirds agree to 1e-8.
   */
  readonly keyBias: number
}

const resumePoints = (folder: string): ReadonlyArray<string> =>
  readdirSync(folder).filter((name) => name !== "events.ndjson")

export const contract = (
  name: string,
  engineLayer: Layer.Layer<Engine, EngineError>,
  model: GoldenModel = gpt2,
  { runsAhead, keyBias }: Nature = { runsAhead: false, keyBias: TOLERANCE },
): void => {
  const { architecture, golden } = model
  const goldenRequest = (folder: string) => goldenRequestOf(folder, model)
  const writeStart = (folder: string) => writeStartOf(folder, model)
  vitestLayer(engineLayer, { excludeTestServices: true })(`the ${name} engine with a ${architecture.family}`, (it) => {
    it.effect("learns the golden rows as PyTorch does, and writes and continues them the same", () =>
      Effect.gen(function* () {
        const engine = yield* Engine
        const folder = yield* temporary
        const { start, request } = yield* goldenRequest(folder)

        const logits = yield* engine.logits({ checkpoint: start, ids: Array.from(rowsOfStep(0).subarray(0, 64)) })
        assert.strictEqual(logits.length, 64)
        golden.logits_step0_row0_last.forEach((expected, i) => {
          near(logits[63]![i]!, expected, TOLERANCE, `logit ${i}`)
        })

        const events = yield* train(request)
        const steps = only(events, "Step")
        assert.deepStrictEqual(
          steps.map(({ step }) => step),
          Array.from({ length: STEPS }, (_, i) => i + 1),
        )
        golden.train.losses.forEach((expected, i) => {
          near(steps[i]!.loss, expected, TOLERANCE, `loss of step ${i + 1}`)
        })
        golden.train.grad_norm_before_clip.forEach((expected, i) => {
          near(steps[i]!.gradNorm, expected, TOLERANCE, `gradient norm of step ${i + 1}`)
        })
        assert.strictEqual(steps[STEPS - 1]!.tokensSeen, STEPS * 4 * 64)

        const [checkpoint] = only(events, "Checkpoint")
        const weights = yield* Safetensors.read(join(checkpoint!.path, "model.safetensors"))
        for (const [tensor, expected] of Object.entries(golden.train.final_weight_norms))
          near(
            norm(weights.get(tensor)!.data),
            expected,
            /attn\.c_attn\.bias$/.test(tensor) ? keyBias : TOLERANCE,
            tensor,
          )

        const { prompt, tokens } = golden.greedy_after_training
        const [generation] = yield* engine.generate({
          checkpoint: checkpoint!.path,
          prompts: [{ id: "golden", ids: prompt }],
          preset: greedy,
          maxNewTokens: tokens.length,
          eosId: 1,
          seed: 1,
        })
        assert.deepStrictEqual(generation!.tokens, tokens)
      }),
    )

    it.effect("draws the same weights for the same seed, with the deviations of its family", () =>
      Effect.gen(function* () {
        const folder = yield* temporary
        const { request } = yield* goldenRequest(folder)
        const weightsAfterOne = (seed: number, name: string) =>
          Effect.gen(function* () {
            const events = yield* train({
              ...request,
              seed,
              from: { _tag: "Fresh" },
              endStep: 1,
              // so small a rate leaves the weights as drawn
              schedule: { peakLr: 1e-30, warmupSteps: 0 },
              checkpoints: { folder: join(folder, name), at: [1], moments: false },
            })
            const { path } = only(events, "Checkpoint")[0]!
            assert.isFalse(existsSync(join(path, "optimizer.safetensors")))
            return yield* Safetensors.read(join(path, "model.safetensors"))
          })
        const weights = yield* weightsAfterOne(7, "a")
        const again = yield* weightsAfterOne(7, "b")
        const others = yield* weightsAfterOne(8, "c")
        const deviation = (tensor: string) => {
          const { data } = weights.get(tensor)!
          return norm(data) / Math.sqrt(data.length)
        }
        const [embedding, residual, gain] = drawn[architecture.family]
        near(deviation(embedding), 0.02, 0.0005, "embedding")
        near(deviation(residual), 0.01, 0.0005, "residual projection")
        assert.strictEqual(deviation(gain), 1)
        assert.deepStrictEqual(again, weights)
        assert.notDeepEqual(others.get(embedding), weights.get(embedding))
      }),
    )

    it.effect("goes on from a checkpoint as if it had never stopped", () =>
      Effect.gen(function* () {
        const folder = yield* temporary
        const { request } = yield* goldenRequest(folder)
        const whole = yield* train(request)
        const half = yield* train({
          ...request,
          endStep: 9,
          checkpoints: { folder: join(folder, "half"), at: [9], moments: true },
        })
        const rest = yield* train({
          ...request,
          from: { _tag: "Checkpoint", path: join(folder, "half", "step_9") },
          checkpoints: { ...request.checkpoints, folder: join(folder, "rest") },
        })
        assert.deepStrictEqual([...arithmetic(half), ...arithmetic(rest)], arithmetic(whole))
        assert.deepStrictEqual(
          bytesOf(join(folder, "rest", `step_${STEPS}`)),
          bytesOf(join(request.checkpoints.folder, `step_${STEPS}`)),
        )
      }),
    )

    it.effect("leaves a resume point when it is interrupted, from which training goes on to the same bytes", () =>
      Effect.gen(function* () {
        const engine = yield* Engine
        const folder = yield* temporary
        const { request } = yield* goldenRequest(folder)
        const whole = yield* train(request)
        const cut = {
          ...request,
          resume: { folder: join(folder, "resume"), everySeconds: 3600 },
          checkpoints: { ...request.checkpoints, folder: join(folder, "cut") },
        }
        const seen: Array<TrainEvent> = []
        const fiber = yield* Effect.forkChild(
          Stream.runForEach(engine.train(cut), (event) =>
            Effect.suspend(() => (seen.push(event) < 5 ? Effect.void : Effect.never)),
          ),
        )
        while (seen.length < 5) yield* Effect.sleep("5 millis")
        yield* Fiber.interrupt(fiber)
        const [name] = resumePoints(join(folder, "resume"))
        const step = Number(name!.slice("step_".length))
        // whoever listens had not finished with step 5: its telemetry will be cut and written again, or was noted
        if (runsAhead) assert.isAtLeast(step, 5)
        else assert.strictEqual(step, 4)
        const noted = unheard(notedEvents(join(folder, "resume")), 5, 0)
        const heard = noted.length > 0 ? noted : seen
        const rest = yield* train({ ...cut, from: { _tag: "Checkpoint", path: join(folder, "resume", name!) } })
        assert.deepStrictEqual(
          [...arithmetic(heard).filter((event) => event.step <= step), ...arithmetic(rest)],
          arithmetic(whole),
        )
        assert.deepStrictEqual(
          bytesOf(join(folder, "cut", `step_${STEPS}`)),
          bytesOf(join(request.checkpoints.folder, `step_${STEPS}`)),
        )
      }),
    )

    it.effect("writes resume points on its schedule and keeps only the newest", () =>
      Effect.gen(function* () {
        const folder = yield* temporary
        const { request } = yield* goldenRequest(folder)
        // what a process that was killed in the middle of writing leaves behind
        mkdirSync(join(folder, "resume", ".step_2.1234.tmp"), { recursive: true })
        const events = yield* train({
          ...request,
          endStep: 4,
          resume: { folder: join(folder, "resume"), everySeconds: 0 },
        })
        assert.deepStrictEqual(
          only(events, "ResumePoint").map(({ step }) => step),
          [1, 2, 3],
        )
        assert.deepStrictEqual(resumePoints(join(folder, "resume")), ["step_3"])
      }),
    )

    it.effect("measures and samples on its schedule and after the last step, as it does from the checkpoint", () =>
      Effect.gen(function* () {
        const engine = yield* Engine
        const folder = yield* temporary
        const { request } = yield* goldenRequest(folder)
        const documents = [document("a", 40, 1), document("b", 150, 2)]
        const prompts = [
          [0, 5, 9],
          [0, 77],
        ]
        const events = yield* train({
          ...request,
          endStep: 5,
          checkpoints: { ...request.checkpoints, at: [5] },
          validation: { everySteps: 2, documents },
          samples: { everySteps: 3, prompts, maxNewTokens: 6 },
        })
        assert.deepStrictEqual(
          events.map(({ _tag, step }) => `${_tag} ${step}`),
          [
            ...["Step 1", "Step 2", "Validation 2", "Step 3", "Samples 3", "Step 4", "Validation 4"],
            ...["Step 5", "Validation 5", "Samples 5", "Checkpoint 5"],
          ],
        )
        const checkpoint = only(events, "Checkpoint")[0]!.path
        assert.deepStrictEqual(
          yield* engine.losses({ checkpoint, documents, specialIds: [0, 1, 2] }),
          only(events, "Validation")[2]!.losses,
        )
        const generations = yield* engine.generate({
          checkpoint,
          prompts: prompts.map((ids, i) => ({ id: String(i), ids })),
          preset: greedy,
          maxNewTokens: 6,
          eosId: 1,
          seed: 1,
        })
        assert.deepStrictEqual(
          generations.map(({ tokens }) => tokens),
          only(events, "Samples")[1]!.tokens,
        )
      }),
    )

    it.effect("gives every token of a long document one loss, whatever is measured beside it", () =>
      Effect.gen(function* () {
        const engine = yield* Engine
        const folder = yield* temporary
        const checkpoint = yield* writeStart(folder)
        const documents = [
          document("short", 5, 1),
          document("long", 200, 2),
          document("exact", 65, 3),
          document("tiny", 2, 4),
        ]
        const losses = yield* engine.losses({ checkpoint, documents })
        assert.deepStrictEqual(
          losses.map(({ id, tokens }) => [id, tokens]),
          [
            ["short", 4],
            ["long", 199],
            ["exact", 64],
            ["tiny", 1],
          ],
        )
        const alone = yield* Effect.forEach(documents, (one) =>
          Effect.map(engine.losses({ checkpoint, documents: [one] }), ([loss]) => loss!),
        )
        assert.deepStrictEqual(alone, losses)
        // windows of the long one by hand: 64 targets, each window begins with the last token of the one before
        const { ids } = documents[1]!
        let nll = 0
        let last = 0
        for (let first = 0; first + 1 < ids.length; first += 64) {
          const window = ids.slice(first, first + 65)
          const logits = yield* engine.logits({ checkpoint, ids: window.slice(0, -1) })
          logits.forEach((row, i) => {
            const max = Math.max(...row)
            last = max + Math.log(row.reduce((sum, x) => sum + Math.exp(x - max), 0)) - row[window[i + 1]!]!
            nll += last
          })
        }
        near(losses[1]!.nll, nll, 1e-3, "long document")
        // its last target is EOS, the only special one
        near(losses[1]!.textNll, nll - last, 1e-3, "long document without EOS")
        assert.strictEqual(losses[3]!.textNll, 0)
      }),
    )

    it.effect("probes: rank, ties and probabilities are those of the logits", () =>
      Effect.gen(function* () {
        const engine = yield* Engine
        const folder = yield* temporary
        const checkpoint = yield* writeStart(folder)
        const context = [0, 20, 30, 40]
        const target = [50, 60]
        const [result] = yield* engine.probe({ checkpoint, probes: [{ context, target }] })
        const logits = yield* engine.logits({ checkpoint, ids: [...context, 50] })
        const log = (row: Float32Array, id: number) => {
          const max = Math.max(...row)
          return row[id]! - max - Math.log(row.reduce((sum, x) => sum + Math.exp(x - max), 0))
        }
        const first = logits[3]!
        assert.strictEqual(result!.rank, 1 + first.filter((x) => x > first[50]!).length)
        assert.strictEqual(result!.ties, 0)
        near(result!.probability, Math.exp(log(first, 50)), 1e-7, "probability")
        near(result!.logProbabilities[0]!, log(first, 50), 1e-5, "first target")
        near(result!.logProbabilities[1]!, log(logits[4]!, 60), 1e-5, "second target")
        assert.strictEqual(result!.top.length, 5)
        assert.strictEqual(result!.top[0]!.id, first.indexOf(Math.max(...first)))
        // a context that is too long loses its beginning
        const long = Array.from({ length: 100 }, (_, i) => 3 + (i % 200))
        const [cut] = yield* engine.probe({ checkpoint, probes: [{ context: long, target: [9] }] })
        const [same] = yield* engine.probe({ checkpoint, probes: [{ context: long.slice(-64), target: [9] }] })
        assert.deepStrictEqual(cut, same)
      }),
    )

    it.effect("continues a prompt the same alone and among others, and stops at the context", () =>
      Effect.gen(function* () {
        const engine = yield* Engine
        const folder = yield* temporary
        const checkpoint = yield* writeStart(folder)
        const prompts = Array.from({ length: 6 }, (_, i) => ({ id: `p${i}`, ids: document("", 2 + 11 * i, i).ids }))
        for (const preset of [greedy, standardPresets[2]!]) {
          const generate = (some: typeof prompts, eosId: number) =>
            engine.generate({ checkpoint, prompts: some, preset, maxNewTokens: 14, eosId, seed: 3 })
          const together = yield* generate(prompts, 256)
          const alone = yield* Effect.forEach(prompts, (prompt) => Effect.map(generate([prompt], 256), ([one]) => one!))
          assert.deepStrictEqual(
            alone.map(({ tokens }) => tokens),
            together.map(({ tokens }) => tokens),
          )
          together.forEach(({ finish, tokens }, i) => {
            assert.strictEqual(finish, "length")
            assert.strictEqual(tokens.length, Math.min(14, 64 - prompts[i]!.ids.length))
          })
          const stop = together[0]!.tokens[3]!
          const [stopped] = yield* generate([prompts[0]!], stop)
          const end = together[0]!.tokens.indexOf(stop)
          assert.strictEqual(stopped!.finish, "eos")
          assert.deepStrictEqual(stopped!.tokens, together[0]!.tokens.slice(0, end + 1))
          // under the model itself, whatever the preset made of it
          const ids = [...prompts[0]!.ids, ...stopped!.tokens]
          const logits = yield* engine.logits({ checkpoint, ids })
          let sum = 0
          stopped!.tokens.forEach((token, i) => {
            const row = logits[prompts[0]!.ids.length - 1 + i]!
            const max = Math.max(...row)
            sum += row[token]! - max - Math.log(row.reduce((total, x) => total + Math.exp(x - max), 0))
          })
          near(stopped!.logProbability, sum, 1e-3, "log-probability")
        }
      }),
    )

    it.effect("stops at a loss that is not a number, naming step, rows and documents", () =>
      Effect.gen(function* () {
        const folder = yield* temporary
        const { request } = yield* goldenRequest(folder)
        const { parquetWriteBuffer } = yield* Effect.promise(() => import("hyparquet-writer"))
        const count = goldenRows.length / LENGTH
        const cut = Math.floor(goldenRows.length / 2) + 3
        const starts = Array.from({ length: count }, (_, i) => i * LENGTH)
        writeFileSync(
          join(request.tokens, "documents.parquet"),
          new Uint8Array(
            parquetWriteBuffer({
              columnData: [
                { name: "id", data: starts.map((_, i) => `document ${i}`) },
                { name: "part", data: starts.map(() => "train") },
                { name: "shard", data: starts.map((at) => (at < cut ? "train-00000.bin" : "train-00001.bin")) },
                { name: "offset", data: starts.map((at) => (at < cut ? at : at - cut)), type: "INT32" },
                { name: "length", data: starts.map(() => LENGTH), type: "INT32" },
              ],
            }),
          ),
        )
        const error = yield* Effect.flip(
          train({
            ...request,
            schedule: { peakLr: 1e30, warmupSteps: 0 },
            optimizer: { ...request.optimizer, weightDecay: 0 },
          }),
        )
        assert(error._tag === "TrainingDiverged", error.message)
        assert.isAtMost(error.step, 3)
        const first = (error.step - 1) * 4
        assert.deepStrictEqual(error.rows, [first, first + 1, first + 2, first + 3])
        assert.deepStrictEqual(
          error.documents,
          error.rows.map((row) => `document ${row}`),
        )
        assert.isFalse(existsSync(request.resume.folder))
      }),
    )

    it.effect("stops at a loss that jumps after warm-up", () =>
      Effect.gen(function* () {
        const folder = yield* temporary
        const { request } = yield* goldenRequest(folder)
        // twenty-two steps on one row of one token, then rows of others
        const rows = new Int32Array(30 * 4 * LENGTH).fill(7)
        rows.set(goldenRows.subarray(0, 8 * 4 * LENGTH), 22 * 4 * LENGTH)
        const files = writeTokens(join(folder, "jump"), rows, LENGTH, 256)
        const error = yield* Effect.flip(
          train({ ...request, ...files, endStep: 30, schedule: { peakLr: 3e-3, warmupSteps: 5 } }),
        )
        assert(error._tag === "TrainingDiverged", error.message)
        assert.strictEqual(error.step, 23)
        assert.match(error.what, /jumped/)
      }),
    )

    it.effect("refuses checkpoints that are damaged, missing or of another shape", () =>
      Effect.gen(function* () {
        const engine = yield* Engine
        const folder = yield* temporary
        const { start, request } = yield* goldenRequest(folder)
        const refused = <A, R>(effect: Effect.Effect<A, EngineError, R>) =>
          Effect.map(Effect.flip(effect), (error) => {
            assert.strictEqual(error._tag, "CheckpointUnreadable", error.message)
            return error as CheckpointUnreadable
          })
        const ids = [0, 5]
        yield* refused(engine.logits({ checkpoint: join(folder, "nowhere"), ids }))
        const other = yield* refused(train({ ...request, architecture: { ...architecture, layers: 3 } }))
        assert.strictEqual(other.problem, "its layers is 2, the request wants 3")
        const model = join(start, "model.safetensors")
        const bytes = readFileSync(model)
        bytes[bytes.length - 5]! ^= 1
        writeFileSync(model, bytes)
        const flipped = yield* refused(engine.logits({ checkpoint: start, ids }))
        assert.match(flipped.problem, /sha256/)
        writeFileSync(model, bytes.subarray(0, bytes.length - 4))
        yield* refused(engine.losses({ checkpoint: start, documents: [{ id: "a", ids }] }))
      }),
    )

    it.effect("tells what it is", () =>
      Effect.gen(function* () {
        const engine = yield* Engine
        const report = yield* engine.inspect
        assert.strictEqual(report.engine, engine.numerics.name)
        assert.isAbove(report.workers, 0)
        assert.isAbove(report.matmulGflops, 0.1)
      }),
    )
  })
}
