/**
 * A kind of step: its parameters as a schema, its inputs as artifacts, its output as an artifact, and how it is done.
 *
 * Declaring and doing live in one file of `src/steps/`, but the doing is reached only when a step runs and loads its heavy modules
 * by `import()`, so planning loads no engine.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { type Any, Many, type Problem, type Ref } from "../model/Artifact.ts"
import { suggestion } from "../model/DidYouMean.ts"
import { canonicalJson } from "../model/Digest.ts"
import { type Forecast, foreign, PlanError, Recorder } from "./Plan.ts"
import { misdeclared, ordinary, type Resources } from "./Resources.ts"
import type { HeldTexts } from "./Texts.ts"
import type { Doing } from "./Work.ts"

/**
 * What can refuse a step long before it runs: an artifact further up, named by who takes it in and as what. It is looked at as soon as
 * it is there, so that no day of training ends in a refusal that its texts could have told of.
 */
export interface Foresight {
  readonly into: string
  readonly input: string
  /** Given the parameters of the step and the folder of the artifact. */
  readonly check: (params: any, folder: string) => Effect.Effect<unknown, any, any>
  /**
   * The same by the plan alone, before there is anything: given the parameters of the step, those of what makes the artifact, and those
   * of what that takes in. Gives what is possible, in words.
   */
  readonly planned?: (params: any, maker: any, given: MadeWith) => Effect.Effect<string | undefined, any, any>
}

/**
 * What a step needs of the world and a run can ask for before it begins: that it is refused in its first second and not in its last.
 * Given its parameters; gives what could not be told now, in words.
 */
export type Beforehand = (params: any) => Effect.Effect<string | undefined, any, any>

/** What the run needs to know of a kind, whatever its parameters are. */
export interface Definition {
  readonly kind: string
  /** Raise it when the same parameters would now give different bytes. It is part of the identity of every result. */
  readonly version: number
  /** Whether engine numerics enter the key. */
  readonly computes: boolean
  /** Parameters that say how much is kept or how far to go, not what comes out: they are no part of the identity handed on. */
  readonly elastic: ReadonlyArray<string>
  /** The output *is* one of the inputs: a selection. */
  readonly transparent: boolean
  readonly outside?: Outside
  /** Inputs for which the whole selection, its comparison included, bears identity. */
  readonly wholeSelection?: ReadonlyArray<string>
  /** Work may go on from what an interrupted attempt left in the output folder. */
  readonly resumable?: boolean
  readonly foresees?: Foresight
  readonly beforehand?: Beforehand
  /** Bytes it will write, by what its inputs weigh on disk: for kinds whose plan cannot know. */
  readonly writes?: Writes
  /** How much text its artifact holds, for kinds that bring texts, gather or pack them. */
  readonly texts?: HeldTexts
  /** Whether it reads all texts that are brought to it: what it takes grows with their bytes. */
  readonly readsTexts?: boolean
  /** Whether a plan that somebody else wrote gives it what it takes: its parameters as they are encoded, and inputs by their names. */
  readonly accepts?: (params: unknown, inputs: Readonly<Record<string, ReadonlyArray<unknown>>>) => boolean
  readonly run?: Doing
}

/**
 * Parameters that name things outside, and what of them bears identity: the content of files, the commit that a branch stands for. What
 * it gives stands in the key in place of the parameters of that name. `given`: the parameters that each input was made with. Fails with
 * an `OutsideUnknown` where that cannot be told now.
 */
export type Outside = (params: any, given: MadeWith) => Effect.Effect<unknown, any, any>
/** By input, the parameters of each step it came from. */
export type MadeWith = Readonly<Record<string, ReadonlyArray<any>>>

/** Part of a key lies where nobody can look now: a plan says so, and a run fails. */
export class OutsideUnknown extends Schema.TaggedError<OutsideUnknown>()("OutsideUnknown", {
  /** In a plan: `needs the network`. */
  lacks: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `${this.problem}\n  hint: ${this.hint}`
  }
}

/** Whether the world is only looked at, for a plan: somebody waits, and nothing is lost when it does not answer. */
export const Looking = Context.Reference<boolean>("exp/plan/Looking", { defaultValue: () => false })

/** Encoded parameters, and bytes on disk of each input. Undefined where nobody can tell. */
type Writes = (params: any, inputBytes: Readonly<Record<string, number>>) => number | undefined

type HandleClass<A> = abstract new (...args: Array<any>) => A
type One = HandleClass<any> | readonly [HandleClass<any>]
type Inputs = Record<string, One | Optional<One>>
interface Optional<C> {
  readonly optional: C
}
/** An input that may be left out: then it is no part of the step's identity either. */
export const optional = <const C extends One>(input: C): Optional<C> => ({ optional: input })
/** Lists may be nested: what `each` inside `each` returns goes in as it is. */
export type Nested<A> = ReadonlyArray<A | Many<A> | Nested<A>>
type OptionalOf<I extends Inputs> = { [K in keyof I]: I[K] extends Optional<any> ? K : never }[keyof I]
type Handed<C> = C extends readonly [HandleClass<infer A>]
  ? Nested<A> | Many<A>
  : C extends HandleClass<infer A>
    ? A
    : never
type Given<I extends Inputs> = { readonly [K in Exclude<keyof I, OptionalOf<I>>]: Handed<I[K]> } & {
  readonly [K in OptionalOf<I>]?: I[K] extends Optional<infer C> ? Handed<C> | undefined : never
}
type Flat<T> = { readonly [K in keyof T]: T[K] } & {}
/** Parameters and inputs in one flat object: what the caller writes, and what a type error shows. */
export type Arguments<P extends Schema.Struct.Fields, I extends Inputs> = Flat<
  Typed<Schema.Struct<P>["~type.make.in"], P> & Given<I>
>
/** A schema typed as a bare `Codec` does not say what it is made from: what it is, then, or any value at all would compile. */
type Typed<Made, P extends Schema.Struct.Fields> = {
  readonly [K in keyof Made]: unknown extends Made[K] ? (K extends keyof P ? P[K]["Type"] : never) : Made[K]
}

export interface Declaration<P extends Schema.Struct.Fields, I extends Inputs, Out> {
  readonly version: number
  readonly params: P
  readonly inputs: I
  /** The handle of the result, with what the plan already knows of it. */
  readonly output: (ref: Ref, params: Schema.Struct<P>["Type"], inputs: Given<I>) => Out
  readonly computes?: boolean
  readonly transparent?: boolean
  readonly elastic?: ReadonlyArray<keyof P & string>
  readonly wholeSelection?: ReadonlyArray<keyof I & string>
  readonly outside?: Outside
  readonly resumable?: boolean
  readonly foresees?: Foresight
  readonly beforehand?: Beforehand
  readonly label?: (params: Schema.Struct<P>["Type"], inputs: Given<I>) => string
  /** Checks that need parameters and inputs together. */
  readonly check?: (params: Schema.Struct<P>["Type"], inputs: Given<I>) => Problem | undefined
  readonly forecast?: (params: Schema.Struct<P>["Type"], inputs: Given<I>) => Forecast
  /** What differs from an ordinary step's needs: one core, memory not worth counting, no GPU. */
  readonly resources?: (params: Schema.Struct<P>["Type"], inputs: Given<I>) => Partial<Resources>
  readonly writes?: Writes
  readonly texts?: HeldTexts
  readonly readsTexts?: boolean
  readonly run: Doing
}

const handles = (given: unknown): ReadonlyArray<Any | Many<Any>> =>
  Array.isArray(given) ? given.flat(Number.POSITIVE_INFINITY) : [given as Any]

/** The class of an input's handles, and whether there may be several. */
const wantedBy = (input: Inputs[string]): readonly [HandleClass<Any>, boolean] =>
  typeof input === "function" ? [input, false] : "optional" in input ? wantedBy(input.optional) : [input[0], true]

/** Declare a kind of step. The result is what experiments call. */
export const make = <const Kind extends string, P extends Schema.Struct.Fields, I extends Inputs, Out>(
  kind: Kind,
  declaration: Declaration<P, I, Out>,
) => {
  const params = Schema.Struct(declaration.params)
  const codec = Schema.toCodecJson(params) as unknown as Schema.Codec<unknown, unknown>
  const encode = Schema.encodeUnknownSync(codec)
  const names = Object.keys(declaration.inputs)
  const definition: Definition = {
    kind,
    version: declaration.version,
    computes: declaration.computes ?? false,
    elastic: declaration.elastic ?? [],
    transparent: declaration.transparent ?? false,
    run: declaration.run,
    resumable: declaration.resumable ?? false,
    accepts: (params, inputs) =>
      Object.keys(inputs).every((name) => names.includes(name)) &&
      names.every((name) => "optional" in declaration.inputs[name]! || (inputs[name]?.length ?? 0) > 0) &&
      Option.isSome(Schema.decodeUnknownOption(codec)(params, { onExcessProperty: "error" })),
    ...(declaration.outside && { outside: declaration.outside }),
    ...(declaration.foresees && { foresees: declaration.foresees }),
    ...(declaration.beforehand && { beforehand: declaration.beforehand }),
    ...(declaration.wholeSelection && { wholeSelection: declaration.wholeSelection }),
    ...(declaration.writes && { writes: declaration.writes }),
    ...(declaration.texts && { texts: declaration.texts }),
    readsTexts: declaration.readsTexts ?? false,
  }
  const call = Effect.fnUntraced(function* (args: Arguments<P, I>) {
    const recorder = yield* Recorder
    if (typeof args !== "object" || args === null)
      return yield* new PlanError({
        step: kind,
        problem: "it is given no parameters",
        hint: `\`${kind}\` takes one object with ${[...names, ...Object.keys(declaration.params)].map((name) => `\`${name}\``).join(", ")}`,
      })
    const given = args as Record<string, unknown>
    const own = Object.fromEntries(
      Object.entries(given).filter(([name, value]) => !names.includes(name) && value !== undefined),
    )
    const fields = Object.keys(declaration.params)
    const unknown = Object.keys(own).find((name) => !fields.includes(name))
    if (unknown !== undefined)
      return yield* new PlanError({
        step: kind,
        problem: `there is no parameter \`${unknown}\``,
        hint: suggestion(unknown, [...fields, ...names]),
      })
    const made = yield* Effect.result(
      params.makeEffect(own as never, { parseOptions: { errors: "all", onExcessProperty: "error" } }),
    )
    if (Result.isFailure(made))
      return yield* new PlanError({
        step: kind,
        problem: oneLine(new Schema.SchemaError(made.failure).message),
        hint: `\`${kind}\` takes ${fields.map((name) => `\`${name}\``).join(", ")}`,
      })
    const value = made.success as Schema.Struct<P>["Type"]
    const inputs = args as unknown as Given<I>
    const there = names.filter((name) => !("optional" in declaration.inputs[name]!) || given[name] !== undefined)
    for (const name of there) {
      const [wanted, several] = wantedBy(declaration.inputs[name]!)
      for (const handle of handles(given[name])) {
        if (!(handle instanceof wanted || (several && handle instanceof Many)))
          return yield* new PlanError({
            step: kind,
            problem: `input \`${name}\` is not ${/^[AEIOU]/.test(wanted.name) ? "an" : "a"} \`${wanted.name}\``,
            hint: "pass what another step returned, after `yield*`",
          })
        if (handle.problem) return yield* new PlanError({ step: kind, ...handle.problem })
        if (!recorder.knows(handle.ref)) return yield* foreign(kind)
      }
    }
    const plain = Result.try({
      // in one order, so that no step's bytes can depend on the order its parameters were written in
      try: () => JSON.parse(canonicalJson(encode(value))) as Record<string, unknown>,
      catch: (cause) => (cause instanceof Error ? cause.message : String(cause)),
    })
    if (Result.isFailure(plain))
      return yield* new PlanError({
        step: kind,
        problem: oneLine(plain.failure),
        hint: "parameters are plain JSON",
      })
    const problem = declaration.check?.(value, inputs)
    if (problem) return yield* new PlanError({ step: kind, ...problem })
    const resources = declaration.resources && { ...ordinary, ...declaration.resources(value, inputs) }
    const wrong = resources && misdeclared(resources)
    if (wrong !== undefined)
      return yield* new PlanError({
        step: kind,
        problem: `declares ${resources?.[wrong]} of \`${wrong}\``,
        hint: "what a kind needs is a number of at least 0; `cpus` may be `all`",
      })
    const id = yield* recorder.add({
      label: declaration.label?.(value, inputs) ?? kind,
      definition,
      params: plain.success,
      inputs: Object.fromEntries(there.map((name) => [name, handles(given[name]).map((handle) => handle.ref)])),
      forecast: declaration.forecast?.(value, inputs) ?? {},
      ...(resources && { resources }),
    })
    return declaration.output({ _tag: "Output", step: id }, value, inputs)
  }) as (args: Arguments<P, I>) => Effect.Effect<Out, PlanError, Recorder>
  return Object.assign(call, { definition })
}

/** A schema's complaints on one line, each after what it is about: `steps`: expected number. */
export const oneLine = (text: string): string => {
  const complaints: Array<string> = []
  for (const line of text.split("\n")) {
    const at = /^\s*at ((?:\[[^\]]*\])+)$/.exec(line)?.[1]
    const about = at?.slice(1, -1).replaceAll("][", ".").replaceAll('"', "")
    if (about === undefined) complaints.push(line.trim())
    else complaints.push(`\`${about}\`: ${complaints.pop()?.replace(/^./, (first) => first.toLowerCase())}`)
  }
  return complaints.filter(Boolean).join("; ")
}
