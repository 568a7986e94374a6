/** A worker thread: one tfjs backend, one model at a time, jobs in the order they come. */
import { readFileSync } from "node:fs"
import { parentPort, workerData } from "node:worker_threads"
import * as tf from "@tensorflow/tfjs-core"
import type { Architecture } from "../../model/Architecture.ts"
import { stream } from "../../model/Random.ts"
import type { Generation, ProbeResult } from "../Engine.ts"
import { makeSampler } from "../LogitsProcessors.ts"
import type { JobName, Jobs, StepJob, StepResult, WeightsReference, WorkerSettings } from "./Jobs.ts"
import { type Heap, openHeap } from "./Kernels.ts"
import { type Model, plainModel, wasmModel } from "./Model.ts"
import { registerPlain } from "./PlainKernels.ts"
import { Control, flatLayout, laneRows, type TrainMemory, trainMemory } from "./TrainMemory.ts"

const { backend } = workerData as WorkerSettings

const start = async (): Promise<{ readonly heap?: Heap; readonly make: (architecture: Architecture) => Model }> => {
  if (backend === "wasm") {
    const heap = await openHeap()
    return { heap, make: (architecture) => wasmModel(heap, architecture) }
  }
  if (backend === "plain") {
    const heap = await openHeap()
    registerPlain()
    return { heap, make: plainModel }
  }
  const { default: util } = await import("node:util")
  // tfjs-node 4.22 calls functions that Node 23 took away
  const removed: Record<string, (value: unknown) => boolean> = {
    isNullOrUndefined: (value) => value === null || value === undefined,
    isArray: Array.isArray,
  }
  const functions = util as unknown as Record<string, unknown>
  for (const [name, replacement] of Object.entries(removed)) functions[name] ??= replacement
  await import(backend)
  await tf.ready()
  registerPlain()
  return { make: plainModel }
}

const { heap, make } = await start()

let held: { readonly key: string; readonly model: Model; version: number } | undefined

const modelOf = ({ architecture, version, buffer, offset }: WeightsReference): Model => {
  const key = JSON.stringify(architecture)
  if (held?.key !== key) {
    held?.model.dispose()
    held = { key, model: make(architecture), version: -1 }
  }
  if (held.version !== version) {
    const layout = flatLayout(architecture)
    const last = layout[layout.length - 1]!
    held.model.load(new Float32Array(buffer, offset, last.first + last.size))
    held.version = version
  }
  return held.model
}

interface Session {
  readonly architecture: Architecture
  readonly workers: number
  readonly shared: TrainMemory
  readonly optimizer: OptimizerKernels
}

/** Of `kernels/assembly/optimizer.ts`; pointers are byte addresses in the shared memory. */
interface OptimizerKernels {
  readonly reduceLanes: (gradients: number, laneBytes: number, lanes: number, first: number, size: number) => number
  readonly adamW: (
    weights: number,
    m: number,
    v: number,
    newWeights: number,
    newM: number,
    newV: number,
    gradient: number,
    size: number,
    clip: number,
    keep: number,
    rate: number,
    root: number,
    beta1: number,
    oneLessBeta1: number,
    beta2: number,
    oneLessBeta2: number,
    epsilon: number,
  ) => void
}

const sessions = new Map<number, Session>()
const session = (id: number): Session => {
  const found = sessions.get(id)
  if (found === undefined) throw new Error(`training session ${id} is not open`)
  return found
}

/** The last to arrive wakes the others. */
const barrier = (control: Int32Array<SharedArrayBuffer>, at: number, workers: number): void => {
  Atomics.add(control, at, 1)
  for (;;) {
    if (Atomics.load(control, Control.abort) !== 0) throw new Error("another worker failed")
    const arrived = Atomics.load(control, at)
    if (arrived === workers) {
      Atomics.notify(control, at)
      return
    }
    Atomics.wait(control, at, arrived, 1000)
  }
}

const step = (job: StepJob): StepResult => {
  const { workers, shared, optimizer: kernels } = session(job.session)
  const { control, lanes, laneLosses, gradients, squares, pieces, generations } = shared
  const old = generations[job.generation]
  const next = generations[1 - job.generation]!
  const stride = job.rows.length / job.rowsPerStep
  const targets = job.rowsPerStep * (stride - 1)
  for (;;) {
    const lane = Atomics.add(control, Control.laneClaim, 1)
    if (lane >= lanes) break
    const [first, last] = laneRows(lane, lanes, job.rowsPerStep)
    const rows = job.rows.subarray(first * stride, last * stride)
    laneLosses[lane] = modelOf(job.weights).gradient(rows, last - first, 1 / targets, gradients[lane]!)
  }
  barrier(control, Control.lanesDone, workers)
  const laneBytes = lanes > 1 ? gradients[1]!.byteOffset - gradients[0]!.byteOffset : 0
  for (;;) {
    const i = Atomics.add(control, Control.reduceClaim, 1)
    const piece = pieces[i]
    if (piece === undefined) break
    squares[i] = kernels.reduceLanes(gradients[0]!.byteOffset, laneBytes, lanes, piece.first, piece.size)
  }
  barrier(control, Control.reduceDone, workers)
  let loss = 0
  for (const part of laneLosses) loss += part
  let square = 0
  for (const part of squares) square += part
  const gradNorm = Math.sqrt(square)
  const result = { loss: loss / targets, gradNorm }
  // every worker comes to the same conclusion: a bad step is not applied
  if (!Number.isFinite(result.loss) || !Number.isFinite(gradNorm)) return result
  const { beta1, beta2, epsilon, weightDecay, clipNorm } = job.optimizer
  const clip = Math.min(1, clipNorm / (gradNorm + 1e-6))
  const rate = job.lr / (1 - beta1 ** job.update)
  const root = Math.sqrt(1 - beta2 ** job.update)
  for (;;) {
    const piece = pieces[Atomics.add(control, Control.updateClaim, 1)]
    if (piece === undefined) break
    const at = (vector: Float32Array) => vector.byteOffset + 4 * piece.first
    kernels.adamW(
      at(old.weights),
      at(old.moments[0]),
      at(old.moments[1]),
      at(next.weights),
      at(next.moments[0]),
      at(next.moments[1]),
      at(gradients[0]!),
      piece.size,
      clip,
      piece.decayed ? 1 - job.lr * weightDecay : 1,
      rate,
      root,
      beta1,
      1 - beta1,
      beta2,
      1 - beta2,
      epsilon,
    )
  }
  return result
}

const initialise = ({ session: id, seed, index }: Jobs["initialise"]["request"]): void => {
  const { architecture, workers, shared } = session(id)
  flatLayout(architecture).forEach(({ spec, first, size }, i) => {
    if (i % workers !== index) return
    const target = shared.generations[0].weights.subarray(first, first + size)
    if ("constant" in spec.init) target.fill(spec.init.constant)
    else {
      const random = stream(seed, `weights:${spec.name}`)
      const deviation = spec.init.normal
      for (let j = 0; j < size; j++) target[j] = random.normal(j) * deviation
    }
  })
}

/** max and Σ exp(x − max) of one position, as `log p = x − max − log Σ`. */
const logNormaliser = (logits: Float32Array): number => {
  let max = Number.NEGATIVE_INFINITY
  for (let id = 0; id < logits.length; id++) if (logits[id]! > max) max = logits[id]!
  let sum = 0
  // by index: an iterator over the array costs as much as the exponentials
  for (let id = 0; id < logits.length; id++) sum += Math.exp(logits[id]! - max)
  return max + Math.log(sum)
}

const probe = (model: Model, { context, target }: Jobs["probe"]["request"]["probes"][number]): ProbeResult => {
  const { vocabulary, context: positions } = model.architecture
  // as lm-evaluation-harness: too long a text loses its beginning
  const ids = [...context, ...target].slice(-(positions + 1))
  const inputs = ids.slice(0, -1)
  const logits = model.logits(inputs)
  const at = (position: number) => logits.subarray(position * vocabulary, (position + 1) * vocabulary)
  const start = inputs.length - target.length
  const first = at(start)
  const wanted = first[target[0]!]!
  const normaliser = logNormaliser(first)
  let larger = 0
  let equal = 0
  const top: Array<number> = []
  first.forEach((logit, id) => {
    if (logit > wanted) larger++
    if (logit === wanted) equal++
    let place = top.length
    while (place > 0 && first[top[place - 1]!]! < logit) place--
    if (place < 5) {
      top.splice(place, 0, id)
      top.length = Math.min(5, top.length)
    }
  })
  return {
    rank: 1 + larger,
    ties: equal - 1,
    probability: Math.exp(wanted - normaliser),
    logProbabilities: target.map((id, i) => at(start + i)[id]! - logNormaliser(at(start + i))),
    top: top.map((id) => ({ id, probability: Math.exp(first[id]! - normaliser) })),
  }
}

const generate = (model: Model, request: Jobs["generate"]["request"]): ReadonlyArray<Generation> => {
  const sampler = makeSampler(request.preset)
  const { vocabulary, context } = model.architecture
  const generations: Array<Generation> = []
  for (let from = 0; from < request.prompts.length; from += model.sequencesAtOnce) {
    const texts = request.prompts.slice(from, from + model.sequencesAtOnce).map(({ id, ids }) => ({
      id,
      text: [...ids],
      prompt: ids.length,
      limit: Math.min(context, ids.length + request.maxNewTokens),
      random: request.preset.doSample ? stream(request.seed, `sample:${id}`) : undefined,
      finish: "length" as Generation["finish"],
      logProbability: 0,
    }))
    const decoding = model.decoding()
    try {
      let active = texts.flatMap((text, i) => (text.prompt > 0 && text.prompt < text.limit ? [i] : []))
      // sequences are numbered by their place among those started
      const numbers = new Map(active.map((i, number) => [i, number]))
      let logits =
        active.length === 0
          ? new Float32Array(0)
          : decoding.start(active.map((i) => ({ ids: texts[i]!.text, capacity: texts[i]!.limit })))
      while (active.length > 0) {
        const going: Array<number> = []
        const tokens: Array<number> = []
        active.forEach((i, row) => {
          const text = texts[i]!
          const scores = logits.subarray(row * vocabulary, (row + 1) * vocabulary)
          const token = sampler(scores, text.text, text.random?.uniform(text.text.length - text.prompt) ?? 0)
          text.logProbability += scores[token]! - logNormaliser(scores)
          text.text.push(token)
          if (token === request.eosId) text.finish = "eos"
          else if (text.text.length < text.limit) {
            going.push(i)
            tokens.push(token)
          }
        })
        active = going
        if (active.length > 0)
          logits = decoding.append(
            active.map((i) => numbers.get(i)!),
            tokens,
          )
      }
    } finally {
      decoding.close()
    }
    for (const { id, text, prompt, finish, logProbability } of texts)
      generations.push({ id, tokens: text.slice(prompt), finish, logProbability })
  }
  return generations
}

/** Floating-point operations a second of a 512³ product, in units of 10⁹. */
const matmul = (milliseconds: number): number => {
  const size = 512
  const bytes = 4 * size * size
  let product: () => void
  let done = () => {}
  if (heap !== undefined && backend === "wasm") {
    const a = heap.allocate(3 * bytes)
    heap.floats(a, 3 * size * size).fill(0.5)
    const sizes = [size, size, size] as const
    product = () => heap.kernels.gemm(0, 0, ...sizes, a, size, a + bytes, size, a + 2 * bytes, size, 0, heap.packing)
    done = () => heap.free(a)
  } else {
    const a = tf.fill([size, size], 0.5) as tf.Tensor2D
    product = () => {
      const c = tf.matMul(a, a)
      c.dataSync()
      c.dispose()
    }
    done = () => a.dispose()
  }
  for (let i = 0; i < 5; i++) product()
  const began = performance.now()
  let rounds = 0
  while (performance.now() - began < milliseconds) {
    product()
    rounds++
  }
  const elapsed = performance.now() - began
  done()
  return (2 * size ** 3 * rounds) / elapsed / 1e6
}

const handlers: { readonly [Name in JobName]: (request: Jobs[Name]["request"]) => Jobs[Name]["answer"] } = {
  open: ({ session: id, architecture, lanes, memory, workers }) => {
    const module = new WebAssembly.Module(readFileSync(new URL("./kernels/optimizer.wasm", import.meta.url)))
    const instance = new WebAssembly.Instance(module, { env: { memory } })
    sessions.set(id, {
      architecture,
      workers,
      shared: trainMemory(memory, architecture, lanes),
      optimizer: instance.exports as unknown as OptimizerKernels,
    })
    return undefined
  },
  initialise: (request) => {
    initialise(request)
    return undefined
  },
  step,
  close: ({ session: id }) => {
    sessions.delete(id)
    return undefined
  },
  losses: ({ weights, windows }) => {
    const model = modelOf(weights)
    return windows.map((window) => model.losses(window))
  },
  logits: ({ weights, ids }) => modelOf(weights).logits(ids),
  probe: ({ weights, probes }) => {
    const model = modelOf(weights)
    return probes.map((one) => probe(model, one))
  },
  generate: (request) => generate(modelOf(request.weights), request),
  matmul: ({ milliseconds }) => matmul(milliseconds),
  usage: () => ({ tensors: tf.memory().numTensors, bytes: heap?.bytes ?? 0 }),
}

const port = parentPort!
port.on("message", ({ id, name, request }: { id: number; name: JobName; request: never }) => {
  try {
    port.postMessage({ id, value: handlers[name](request) })
  } catch (error) {
    port.postMessage({ id, error: error instanceof Error ? error.message : String(error) })
  }
})
