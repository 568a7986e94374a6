/** What the main thread asks of a worker. Everything is plain data or shared memory. */
import type { Architecture } from "../../model/Architecture.ts"
import type { Optimizer } from "../../model/Checkpoint.ts"
import type { DecodingPreset } from "../../model/Decoding.ts"
import type { Generation, ProbeResult } from "../Engine.ts"

/** Weights in shared memory. Equal versions are equal contents: a worker copies them to its heap only when the version is new. */
export interface WeightsReference {
  readonly version: number
  readonly architecture: Architecture
  readonly buffer: SharedArrayBuffer
  readonly offset: number
}

export interface StepJob {
  readonly session: number
  readonly weights: WeightsReference
  /** Generation that the step starts from; the update goes to the other. */
  readonly generation: 0 | 1
  /** rowsPerStep rows of length + 1 tokens. */
  readonly rows: Int32Array
  readonly rowsPerStep: number
  readonly lr: number
  /** 1 for the first update: the exponent of bias correction. */
  readonly update: number
  readonly optimizer: Optimizer
}

export interface StepResult {
  readonly loss: number
  readonly gradNorm: number
}

export interface Jobs {
  readonly open: {
    readonly request: {
      readonly session: number
      readonly architecture: Architecture
      readonly lanes: number
      readonly memory: WebAssembly.Memory
      readonly workers: number
    }
    readonly answer: undefined
  }
  /** Draws the initial values of every `workers`-th tensor, from `index` on. */
  readonly initialise: {
    readonly request: { readonly session: number; readonly seed: number; readonly index: number }
    readonly answer: undefined
  }
  readonly step: { readonly request: StepJob; readonly answer: StepResult }
  readonly close: { readonly request: { readonly session: number }; readonly answer: undefined }
  readonly losses: {
    readonly request: { readonly weights: WeightsReference; readonly windows: ReadonlyArray<Int32Array> }
    /** −log p of every target of each window. */
    readonly answer: ReadonlyArray<Float32Array>
  }
  readonly logits: {
    readonly request: { readonly weights: WeightsReference; readonly ids: ReadonlyArray<number> }
    readonly answer: Float32Array
  }
  readonly probe: {
    readonly request: {
      readonly weights: WeightsReference
      readonly probes: ReadonlyArray<{
        readonly context: ReadonlyArray<number>
        readonly target: ReadonlyArray<number>
      }>
    }
    readonly answer: ReadonlyArray<ProbeResult>
  }
  readonly generate: {
    readonly request: {
      readonly weights: WeightsReference
      readonly prompts: ReadonlyArray<{ readonly id: string; readonly ids: ReadonlyArray<number> }>
      readonly preset: DecodingPreset
      readonly maxNewTokens: number
      /** Absent: never stops at a token. */
      readonly eosId?: number
      readonly seed: number
    }
    readonly answer: ReadonlyArray<Generation>
  }
  readonly matmul: { readonly request: { readonly milliseconds: number }; readonly answer: number }
  /** Tensors that live in the worker, and bytes of its heap. */
  readonly usage: { readonly request: object; readonly answer: { readonly tensors: number; readonly bytes: number } }
}

export type JobName = keyof Jobs
export type Answer = { readonly id: number; readonly value: unknown } | { readonly id: number; readonly error: string }

export interface WorkerSettings {
  /** `wasm`: our kernels. `plain`: composed operations on tfjs-wasm (for tests). Else the module of a native backend. */
  readonly backend: Backend
}
export type Backend = "wasm" | "plain" | "@tensorflow/tfjs-node" | "@tensorflow/tfjs-node-gpu"
