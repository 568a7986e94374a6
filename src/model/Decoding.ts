/**
 * How text is drawn from a model. Names and meaning are those of Hugging Face `GenerationConfig`, so that a preset goes into
 * `generation_config.json` as it is.
 */
import * as Schema from "effect/Schema"

const Natural = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

export const DecodingPreset = Schema.Struct({
  name: Schema.String,
  /** false: greedy; temperature, top_k and top_p are then not written (`GenerationConfig` refuses them). */
  doSample: Schema.Boolean,
  temperature: Schema.Finite.check(Schema.isGreaterThan(0)),
  /** 0 switches it off (the library's own default would be 50). */
  topK: Natural,
  topP: Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 })),
  repetitionPenalty: Schema.Finite.check(Schema.isGreaterThan(0)),
  /** 0 switches it off. */
  noRepeatNgramSize: Natural,
})
export type DecodingPreset = typeof DecodingPreset.Type

const preset = (name: string, settings: Partial<DecodingPreset> = {}): DecodingPreset => ({
  name,
  doSample: true,
  temperature: 1,
  topK: 0,
  topP: 1,
  repetitionPenalty: 1,
  noRepeatNgramSize: 0,
  ...settings,
})

export const greedy = preset("greedy", { doSample: false })

/** The presets every sweep judges, beside the grid an experiment gives. */
export const standardPresets: ReadonlyArray<DecodingPreset> = [
  greedy,
  preset("conservative", { temperature: 0.6, topK: 40, topP: 0.9, repetitionPenalty: 1.15 }),
  preset("balanced", { temperature: 0.8, topK: 50, topP: 0.95, repetitionPenalty: 1.1 }),
  preset("creative", { temperature: 1, topK: 0, topP: 0.95, repetitionPenalty: 1.05 }),
]

/** Sampling presets for every combination of a grid. */
export const gridPresets = (grid: {
  readonly temperature: ReadonlyArray<number>
  readonly topP: ReadonlyArray<number>
  readonly repetitionPenalty: ReadonlyArray<number>
}): ReadonlyArray<DecodingPreset> =>
  grid.temperature.flatMap((temperature) =>
    grid.topP.flatMap((topP) =>
      grid.repetitionPenalty.map((repetitionPenalty) =>
        preset(`t${temperature}_p${topP}_r${repetitionPenalty}`, { temperature, topP, repetitionPenalty }),
      ),
    ),
  )
