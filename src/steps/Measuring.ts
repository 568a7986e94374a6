/**
 * What benchmark, selection and sweep share: the tokens, documents and tokenizer behind a model, and how a model is named.
 */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readTokens } from "../data/Pack.ts"
import { loadTokenizer } from "../data/Tokenizer.ts"
import { CheckpointUnreadable, Engine } from "../engine/Engine.ts"
import { type SourceRole, scoreDocuments, type Weighting } from "../evaluation/Losses.ts"
import { parameterCount } from "../model/Architecture.ts"
import { CheckpointState } from "../model/Checkpoint.ts"
import type { Part, TokensIndex } from "../model/Corpus.ts"
import type { ModelIdentity } from "../model/Report.ts"
import { oneLine } from "../plan/Step.ts"
import type { Input, Work } from "../plan/Work.ts"

export const sourceRoles = (index: TokensIndex): ReadonlyArray<SourceRole> =>
  index.sources.map(({ source, language, role }) => ({ source, language, role }))

/** The mixed loss weighs sources as training did. */
export const mixWeighting = (index: TokensIndex): Weighting =>
  index.mix === "source_balanced"
    ? "source_balanced"
    : Object.fromEntries(
        index.sources.filter(({ role }) => role === "train").map(({ source, weight }) => [source, weight]),
      )

const decodeState = Schema.decodeUnknownEffect(Schema.fromJsonString(CheckpointState))

/** What a checkpoint says of itself. */
export const readState = Effect.fnUntraced(function* (checkpoint: string) {
  const unreadable = (cause: unknown) => {
    const words = cause instanceof Error ? oneLine(cause.message) : String(cause)
    return new CheckpointUnreadable({ path: checkpoint, problem: `state.json: ${words}` })
  }
  const text = yield* Effect.try({
    try: () => readFileSync(join(checkpoint, "state.json"), "utf8"),
    catch: unreadable,
  })
  return yield* Effect.mapError(decodeState(text), unreadable)
})

/** Everything behind a model: the checkpoint, the decay and the training it came from, its tokens, corpus and tokenizer. */
export const behind = Effect.fn("behind")(function* (work: Work, model: Input) {
  const state = yield* readState(model.path)
  const decay = yield* work.lineage(model.artifact)
  const parent = decay.inputs["from"]![0]!
  const training = yield* work.lineage(parent.artifact)
  const packing = yield* work.lineage(training.inputs["tokens"]![0]!.artifact)
  const corpus = yield* work.lineage(packing.inputs["corpus"]![0]!.artifact)
  const vocabulary = yield* work.lineage(packing.inputs["tokenizer"]![0]!.artifact)
  const parentStep = state.schedule.decay?.startStep ?? state.step
  const identity: ModelIdentity = {
    candidate: parentStep === state.step ? `stable ${state.step}` : `stable ${parentStep} → step ${state.step}`,
    step: state.step,
    parent_step: parentStep,
    tokens_seen: state.tokensSeen,
    parameters: parameterCount(state.architecture),
  }
  const tokens = yield* readTokens(packing.path)
  const tokenizer = yield* loadTokenizer(vocabulary.path)
  return {
    state,
    identity,
    model,
    decay,
    parent,
    training,
    packing,
    corpus,
    vocabulary,
    tokens,
    tokenizer,
    index: tokens.index,
  }
})
export type Behind = Effect.Success<ReturnType<typeof behind>>

/** Losses of a model on the documents of one part, of all its sources or of some. */
export const measure = Effect.fn("measure")(function* (
  { model, tokens, index }: Pick<Behind, "model" | "tokens" | "index">,
  part: Part,
  sources: ReadonlyArray<string>,
) {
  const engine = yield* Engine
  const documents = tokens.documents.filter((document) => document.part === part && sources.includes(document.source))
  const sequences = yield* Effect.forEach(documents, (document) =>
    Effect.map(tokens.tokensOf(document), (ids) => ({ id: document.id, ids })),
  )
  const losses = yield* engine.losses({
    checkpoint: model.path,
    documents: sequences,
    specialIds: [index.bosId, index.eosId, index.padId],
  })
  return yield* Effect.fromResult(scoreDocuments(losses, documents))
})

export const sourceNames = (index: TokensIndex, role?: "train" | "evaluate"): ReadonlyArray<string> =>
  index.sources.filter((source) => role === undefined || source.role === role).map(({ source }) => source)
