/** The worker's lines as schemas; what they mean is told in `engines/torch/PROTOCOL.md`. Nothing that it says is believed unread. */
import * as Schema from "effect/Schema"
import { CheckpointState } from "../../model/Checkpoint.ts"

export const PROTOCOL = 1

const Natural = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
const Ids = Schema.Array(Natural)

const Gpu = Schema.Struct({
  name: Schema.String,
  memoryBytes: Natural,
  capability: Schema.optionalKey(Schema.String),
  bf16: Schema.optionalKey(Schema.Boolean),
})
export const Hello = Schema.Struct({
  protocol: Schema.Int,
  version: Schema.String,
  numerics: Schema.Int,
  torch: Schema.String,
  python: Schema.optionalKey(Schema.String),
  /** What `auto` means there. */
  device: Schema.optionalKey(Schema.String),
  cuda: Schema.optionalKey(Schema.NullOr(Schema.String)),
  driver: Schema.optionalKey(Schema.NullOr(Schema.String)),
  gpus: Schema.optionalKey(Schema.Array(Gpu)),
  /** Seconds between signs of life while a request is done. */
  heartbeat: Schema.optionalKey(Schema.Finite),
})
export type Hello = typeof Hello.Type

const DocumentLoss = Schema.Struct({
  id: Schema.String,
  nll: Schema.Finite,
  tokens: Natural,
  textNll: Schema.Finite,
})

const Event = Schema.Union([
  Schema.Struct({
    _tag: Schema.Literal("Step"),
    step: Natural,
    loss: Schema.Finite,
    lr: Schema.Finite,
    gradNorm: Schema.Finite,
    tokensSeen: Natural,
    seconds: Schema.Finite,
  }),
  Schema.Struct({ _tag: Schema.Literal("Validation"), step: Natural, losses: Schema.Array(DocumentLoss) }),
  Schema.Struct({ _tag: Schema.Literal("Samples"), step: Natural, tokens: Schema.Array(Ids) }),
  Schema.Struct({ _tag: Schema.Literal("Checkpoint"), step: Natural, path: Schema.String, state: CheckpointState }),
  Schema.Struct({ _tag: Schema.Literal("ResumePoint"), step: Natural, path: Schema.String }),
])

const Device = Schema.Struct({
  tokensPerSecond: Schema.optionalKey(Schema.Finite),
  mfu: Schema.optionalKey(Schema.Finite),
  memoryBytes: Schema.optionalKey(Schema.Finite),
  peakMemoryBytes: Schema.optionalKey(Schema.Finite),
  peakReservedBytes: Schema.optionalKey(Schema.Finite),
  utilisation: Schema.optionalKey(Schema.Finite),
  watts: Schema.optionalKey(Schema.Finite),
  celsius: Schema.optionalKey(Schema.Finite),
})

export const Failure = Schema.Union([
  Schema.Struct({
    _tag: Schema.Literal("TrainingDiverged"),
    step: Natural,
    what: Schema.String,
    rows: Schema.Array(Natural),
    documents: Schema.optionalKey(Schema.Array(Schema.String)),
  }),
  Schema.Struct({ _tag: Schema.Literal("CheckpointUnreadable"), path: Schema.String, problem: Schema.String }),
  Schema.Struct({
    _tag: Schema.Literal("EngineFailed"),
    doing: Schema.String,
    problem: Schema.String,
    hint: Schema.optionalKey(Schema.String),
    kind: Schema.optionalKey(Schema.String),
  }),
])
export type Failure = typeof Failure.Type

/** Every line after the hello. `result` is read by what was asked. */
export const Line = Schema.Struct({
  id: Schema.optionalKey(Schema.Int),
  alive: Schema.optionalKey(Schema.Finite),
  event: Schema.optionalKey(Event),
  progress: Schema.optionalKey(Schema.Struct({ done: Schema.Finite, total: Schema.Finite, unit: Schema.String })),
  note: Schema.optionalKey(Schema.String),
  device: Schema.optionalKey(Device),
  result: Schema.optionalKey(Schema.Unknown),
  error: Schema.optionalKey(Failure),
})
export type Line = typeof Line.Type

const Generation = Schema.Struct({
  id: Schema.String,
  tokens: Ids,
  finish: Schema.Literals(["eos", "length"]),
  logProbability: Schema.Finite,
})
const ProbeResult = Schema.Struct({
  rank: Natural,
  ties: Natural,
  probability: Schema.Finite,
  logProbabilities: Schema.Array(Schema.Finite),
  top: Schema.Array(Schema.Struct({ id: Natural, probability: Schema.Finite })),
})

/** What each kind answers. */
export const Results = {
  train: Schema.Struct({ step: Natural, interrupted: Schema.Boolean }),
  losses: Schema.Array(DocumentLoss),
  probe: Schema.Array(ProbeResult),
  generate: Schema.Array(Generation),
  logits: Schema.Struct({ shape: Schema.Tuple([Natural, Natural]), float32: Schema.String }),
  inspect: Schema.Struct({
    engine: Schema.String,
    backend: Schema.String,
    version: Schema.String,
    workers: Schema.Int,
    matmulGflops: Schema.Finite,
  }),
}
export type Kind = keyof typeof Results
export type ResultOf<K extends Kind> = (typeof Results)[K]["Type"]
