/**
 * All that an experiment file may import.
 *
 * A yielded step is the promise of work, not the work: running an experiment's program records a plan, and `exp run` does it.
 */

/** For parameters of one's own: `Schema.Struct({ seed: Schema.Int.pipe(Schema.withConstructorDefault(Effect.succeed(7))) })`. */
export * as Effect from "effect/Effect"
export * as Schema from "effect/Schema"
export type {
  Corpus,
  Dataset,
  Decoding,
  Model,
  Pretrained,
  Published,
  Quantised,
  Release,
  Scored,
  Selected,
  StableCheckpoint,
  Tail,
  Tokenizer,
  Tokens,
  Trained,
} from "./model/Artifact.ts"
export { each, engine, experiment } from "./plan/Plan.ts"
export { benchmark } from "./steps/Benchmark.ts"
export { corpus } from "./steps/Corpus.ts"
export { dataset } from "./steps/Dataset.ts"
export { decay } from "./steps/Decay.ts"
export { pack } from "./steps/Pack.ts"
export { pretrained } from "./steps/Pretrained.ts"
export { publish } from "./steps/Publish.ts"
export { quantise } from "./steps/Quantise.ts"
export { release } from "./steps/Release.ts"
export { select } from "./steps/Select.ts"
export { sweep } from "./steps/Sweep.ts"
export { tokenizer } from "./steps/Tokenizer.ts"
export { train } from "./steps/Train.ts"
