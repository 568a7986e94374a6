/**
 * The plan of an experiment: what its program asked for, in order, before anything runs.
 *
 * Running the program under a recorder costs milliseconds and touches nothing: what a yielded step returns is the promise of an
 * artifact, not the artifact. Steps with the same kind, version, parameters and inputs are one step; names and order never matter.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { Architecture } from "../model/Architecture.ts"
import { type Any, Many, type Ref } from "../model/Artifact.ts"
import { suggestion } from "../model/DidYouMean.ts"
import { digest } from "../model/Digest.ts"
import {
  type EngineChoice,
  type EngineName,
  engineNames,
  type Precision,
  parsePrecision,
} from "../model/EngineChoice.ts"
import type { Resources } from "./Resources.ts"
import type { Definition } from "./Step.ts"

export class PlanError extends Schema.TaggedError<PlanError>()("PlanError", {
  step: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `${this.step}: ${this.problem}\n  hint: ${this.hint}`
  }
}

export interface Node {
  /** `<kind>-<12 hex digits>` of what the step is: stable under renaming and reordering. */
  readonly id: string
  /** What people read: `decay 400→500`. */
  readonly label: string
  readonly definition: Definition
  /** Encoded parameters: plain JSON. */
  readonly params: Readonly<Record<string, unknown>>
  readonly inputs: Readonly<Record<string, ReadonlyArray<Ref>>>
  /** What the plan says of the work: optimizer steps, tokens, parameters, bytes on disk. */
  readonly forecast: Forecast
  /** Of the machine while it runs; absent: an ordinary step's. */
  readonly resources?: Resources
  /** Set on a fan-out over things to come: the plan of one item, and the most items there may be. */
  readonly body?: {
    readonly nodes: ReadonlyArray<Node>
    readonly yields: ReadonlyArray<Ref>
    readonly atMost: number
    /** What its steps refer to the item by. */
    readonly item: string
  }
}

export interface Forecast {
  readonly parameters?: number
  readonly optimizerSteps?: number
  readonly tokens?: number
  /** Floating-point operations of the training. */
  readonly flops?: number
  /** What an engine is asked to do, for whoever knows its pace and its memory. */
  readonly compute?: Compute
  readonly diskBytes?: number
  /** Written beside the result and gone when it is done: resume points. */
  readonly scratchBytes?: number
}

export interface Compute {
  readonly architecture: Architecture
  readonly training?: {
    readonly rowsPerStep: number
    /** Steps taken before; absent where only the run will tell. */
    readonly startStep?: number
    /** Times that the validation part is measured on the way. */
    readonly validations: number
    /** Texts drawn with each of them, and tokens of each. */
    readonly samples: { readonly texts: number; readonly newTokens: number }
  }
  /** Times that all documents of a part are measured. */
  readonly passes?: { readonly validation?: number; readonly holdout?: number }
  /** Texts drawn, and tokens of each at most; so many texts are asked for at once. */
  readonly drawn?: { readonly texts: number; readonly newTokens: number; readonly atOnce: number }
}

export class Recorder extends Context.Service<
  Recorder,
  {
    readonly add: (node: Omit<Node, "id">) => Effect.Effect<string, PlanError>
    /** Which engine the experiment asks for. */
    readonly choose: (choice: EngineChoice) => Effect.Effect<void, PlanError>
    /** Bodies of fan-outs around. */
    readonly depth: number
    /** Whether a step may refer to it: a step recorded before, here or around, or the item of a fan-out around. */
    readonly knows: (ref: Ref) => boolean
  }
>()("exp/plan/Recorder") {}

const identityOf = (node: Omit<Node, "id">): unknown => ({
  kind: node.definition.kind,
  version: node.definition.version,
  params: node.params,
  inputs: node.inputs,
  body: node.body && {
    nodes: node.body.nodes.map((inner) => inner.id),
    yields: node.body.yields,
    atMost: node.body.atMost,
  },
})

/** What `program` asks for, in order, and what it returns. */
export const record = <A, E>(
  program: Effect.Effect<A, E, Recorder>,
  around?: { readonly recorder: Recorder["Service"]; readonly item: string },
) =>
  Effect.suspend(() => {
    const nodes = new Map<string, Node>()
    let engine: EngineChoice | undefined
    const recorder = Recorder.of({
      depth: around === undefined ? 0 : around.recorder.depth + 1,
      knows: (ref) =>
        (ref._tag === "Item" ? ref.of === around?.item : nodes.has(ref.step)) || (around?.recorder.knows(ref) ?? false),
      add: (node) =>
        Effect.sync(() => {
          const id = `${node.definition.kind}-${digest(identityOf(node)).slice(0, 12)}`
          if (!nodes.has(id)) nodes.set(id, { id, ...node })
          return id
        }),
      choose: (choice) =>
        Effect.suspend(() => {
          if (engine === undefined && nodes.size === 0 && around === undefined) {
            engine = choice
            return Effect.void
          }
          return new PlanError({
            step: "engine",
            problem: engine === undefined ? "it comes after a step" : "it is said twice",
            hint: "one engine does all that is computed: say it once, on the first line of the experiment",
          })
        }),
    })
    return program.pipe(
      Effect.provideService(Recorder, recorder),
      Effect.map((value) => ({ value, nodes: [...nodes.values()], engine, knows: recorder.knows })),
    )
  })

/** A value with a default is a parameter: `--set name=value`. A struct Schema with constructor defaults narrows what it accepts. */
export type Defaults = Readonly<Record<string, string | number | boolean>>
type Widened<D extends Defaults> = {
  readonly [K in keyof D]: D[K] extends string ? string : D[K] extends number ? number : boolean
}

export interface Experiment<A = unknown> {
  readonly name: string
  readonly defaults: Defaults
  /** What is wrong with values of the right types, where the experiment gave a Schema. */
  readonly refuse?: (values: Defaults) => string | undefined
  readonly program: (
    parameters: Readonly<Record<string, string | number | boolean>>,
  ) => Effect.Effect<A, PlanError, Recorder>
}

type Program<A, P> = (parameters: P) => Generator<Effect.Effect<any, PlanError, Recorder>, A, never>

/**
 * An experiment: a name and a program that records steps. Parameters with defaults are given to the program and become
 * `--set name=value` on the command line.
 *
 * @example
 * export default experiment("small-en-it", { seed: 1337 }, function* ({ seed }) { … })
 */
export function experiment<A>(name: string, program: Program<A, {}>): Experiment<A>
export function experiment<A, const D extends Defaults>(
  name: string,
  defaults: D,
  program: Program<A, Widened<D>>,
): Experiment<A>
export function experiment<A, P extends Schema.Struct.Fields>(
  name: string,
  parameters: Schema.Struct<P>,
  program: Program<A, Schema.Struct<P>["Type"]>,
): Experiment<A>
export function experiment(
  name: string,
  parametersOrProgram: Defaults | Schema.Struct<any> | Program<unknown, any>,
  maybeProgram?: Program<unknown, any>,
): Experiment {
  const program = maybeProgram ?? (parametersOrProgram as Program<unknown, any>)
  const parameters = maybeProgram === undefined ? {} : parametersOrProgram
  return {
    name,
    ...(Schema.isSchema(parameters)
      ? schemaParameters(parameters as Schema.Struct<any>)
      : { defaults: parameters as Defaults }),
    program: (parameters) =>
      Effect.suspend(() => Effect.gen(() => program(parameters)) as Effect.Effect<unknown, PlanError, Recorder>),
  }
}

const schemaParameters = (schema: Schema.Struct<any>): Pick<Experiment, "defaults" | "refuse"> => ({
  defaults: schema.make({}) as Defaults,
  refuse: (values) => {
    const decoded = Schema.decodeUnknownResult(Schema.toType(schema), { errors: "all" })(values)
    return Result.isFailure(decoded) ? decoded.failure.message.replaceAll(/\s*\n\s*/g, " ") : undefined
  },
})

export const isExperiment = (value: unknown): value is Experiment =>
  typeof value === "object" &&
  value !== null &&
  "name" in value &&
  typeof value.name === "string" &&
  "program" in value &&
  typeof value.program === "function" &&
  "defaults" in value &&
  typeof value.defaults === "object" &&
  value.defaults !== null

/** Values given on the command line, checked against the experiment's parameters and turned into their types. */
export const parametersOf = (
  experiment: Experiment,
  given: Readonly<Record<string, string>>,
): Effect.Effect<Readonly<Record<string, string | number | boolean>>, PlanError> =>
  Effect.gen(function* () {
    const values: Record<string, string | number | boolean> = { ...experiment.defaults }
    const names = Object.keys(experiment.defaults)
    for (const name of names)
      if (!settable(experiment.defaults[name]))
        return yield* new PlanError({
          step: experiment.name,
          problem: `parameter \`${name}\` has no default that can be set`,
          hint: "defaults are strings, finite numbers, `true` or `false`",
        })
    for (const [name, text] of Object.entries(given)) {
      const standard = Object.hasOwn(experiment.defaults, name) ? experiment.defaults[name] : undefined
      if (standard === undefined)
        return yield* new PlanError({
          step: experiment.name,
          problem: `no parameter is called \`${name}\``,
          hint: names.length === 0 ? "this experiment has no parameters" : suggestion(name, names),
        })
      const value = parse(standard, text)
      if (value === undefined)
        return yield* new PlanError({
          step: experiment.name,
          problem: `\`--set ${name}=${text}\` is not a ${typeof standard}`,
          hint: `its default is ${JSON.stringify(standard)}`,
        })
      values[name] = value
    }
    const refused = experiment.refuse?.(values)
    if (refused !== undefined)
      return yield* new PlanError({
        step: experiment.name,
        problem: refused,
        hint: `the defaults are ${names.map((name) => `${name}=${experiment.defaults[name]}`).join(", ")}`,
      })
    return values
  })

const settable = (value: unknown): boolean =>
  typeof value === "string" || typeof value === "boolean" || Number.isFinite(value)

const parse = (standard: string | number | boolean, text: string): string | number | boolean | undefined => {
  if (typeof standard === "string") return text
  if (typeof standard === "boolean") return text === "true" ? true : text === "false" ? false : undefined
  const digits = text.replaceAll("_", "").trim()
  const number = digits === "" ? Number.NaN : Number(digits)
  return Number.isFinite(number) ? number : undefined
}

export interface Plan {
  readonly experiment: string
  readonly parameters: Readonly<Record<string, string | number | boolean>>
  readonly nodes: ReadonlyArray<Node>
  /** What the experiment itself asks for. */
  readonly engine?: EngineChoice
}

export const plan = Effect.fnUntraced(function* (
  experiment: Experiment,
  given: Readonly<Record<string, string>> = {},
): Effect.fn.Return<Plan, PlanError> {
  if (!/^[\p{L}\p{N}_][\p{L}\p{N}._-]*$/u.test(experiment.name))
    return yield* new PlanError({
      step: "experiment",
      problem: `\`${experiment.name}\` cannot name a folder`,
      hint: "letters, digits, `.`, `_` and `-` make a name",
    })
  const parameters = yield* parametersOf(experiment, given)
  const { nodes, engine } = yield* record(experiment.program(parameters))
  return { experiment: experiment.name, parameters, nodes, ...(engine !== undefined && { engine }) }
})

/**
 * Which engine computes, and how exactly: `--engine` and `--precision` of a command line go before it, and without either it is tfjs.
 * Results of one engine are not another's: name and precision are in the key of every step that computes. `auto` is torch where it is
 * installed. Fails when it is not the first thing that the experiment says.
 *
 * @example
 * yield* engine("torch", { precision: "bf16+adam8bit" })
 */
export const engine = (
  name: EngineName,
  options: { readonly precision?: Precision } = {},
): Effect.Effect<void, PlanError, Recorder> =>
  Effect.gen(function* () {
    const recorder = yield* Recorder
    const refuse = (problem: string, hint: string) => new PlanError({ step: "engine", problem, hint })
    if (!engineNames.includes(name))
      return yield* refuse(`there is no engine \`${name}\``, suggestion(name, engineNames))
    if (options.precision === undefined) return yield* recorder.choose({ engine: name })
    const precision = parsePrecision(options.precision)
    if (precision === undefined)
      return yield* refuse(
        `\`${options.precision}\` is no precision`,
        "`fp32`, `bf16` or `fp16`, such as `bf16+adam8bit`",
      )
    if (name === "tfjs" && precision !== "fp32")
      return yield* refuse(`tfjs computes in fp32, not in ${precision}`, 'ask for `engine("torch", …)`')
    yield* recorder.choose({ engine: name, precision })
  })

type Body<A, B> = (item: A) => Generator<Effect.Effect<any, PlanError, Recorder>, B, never>
/** What a fan-out over things to come may yield: one artifact, or a list whose length the plan knows. */
type Yielded = Any | ReadonlyArray<Any>
type ItemOf<B> = B extends ReadonlyArray<infer C> ? C : B

/** Of an artifact that this plan does not make, or makes where it cannot be seen. */
export const foreign = (step: string): PlanError =>
  new PlanError({
    step,
    problem: "it is given an artifact that no step before it makes",
    hint: "pass what a step of the same experiment returned; what a fan-out's body makes comes out by `return`",
  })

const eachDefinition: Definition = { kind: "each", version: 1, computes: false, elastic: [], transparent: true }

/**
 * Do the same for each of several things.
 * Over a list, every item is planned. Over a `Many`, whose length only training will tell, the body is planned once for an item to
 * come, and `atMost` says how much work the plan may grow to.
 */
export function each<A, B>(
  items: ReadonlyArray<A>,
  body: Body<A, B>,
): Effect.Effect<ReadonlyArray<B>, PlanError, Recorder>
export function each<A extends Any, B extends Yielded>(
  items: Many<A>,
  body: Body<A, B>,
  options: { readonly atMost: number },
): Effect.Effect<Many<ItemOf<B>>, PlanError, Recorder>
export function each(
  items: ReadonlyArray<any> | Many<any>,
  program: Body<any, any>,
  options?: { readonly atMost: number },
): Effect.Effect<any, PlanError, Recorder> {
  const one = (item: unknown) => Effect.gen(() => program(item)) as Effect.Effect<any, PlanError, Recorder>
  if (!(items instanceof Many)) return Effect.forEach(items, one)
  return Effect.gen(function* () {
    const recorder = yield* Recorder
    const atMost = options?.atMost
    if (atMost === undefined || !Number.isInteger(atMost) || atMost < 1)
      return yield* new PlanError({
        step: "each",
        problem: `\`atMost\` is ${atMost}, not a whole number above 0`,
        hint: "say how many items the fan-out may grow to",
      })
    // the depth keeps the items of two fan-outs over one thing apart, one inside the other
    const item = digest({ items: items.ref, depth: recorder.depth }).slice(0, 12)
    const body = one(items.item({ _tag: "Item", of: item }))
    const { nodes, value, knows } = yield* record(body, { recorder, item })
    const yielded = [value].flat(Number.POSITIVE_INFINITY) as ReadonlyArray<Any>
    if (yielded.length === 0 || yielded.some((handle) => !(handle instanceof Object && "ref" in handle)))
      return yield* new PlanError({
        step: "each",
        problem: "its body returns no artifact",
        hint: "`return yield*` what the last step gives",
      })
    if (!recorder.knows(items.ref) || !yielded.every((handle) => knows(handle.ref))) return yield* foreign("each")
    const id = yield* recorder.add({
      label: `each ×≤${atMost}`,
      definition: eachDefinition,
      params: { atMost },
      inputs: { of: [items.ref] },
      forecast: {},
      body: { nodes, yields: yielded.map((handle) => handle.ref), atMost, item },
    })
    const first = yielded[0]!
    return new Many({ _tag: "Output", step: id }, (ref) =>
      Object.assign(Object.create(Object.getPrototypeOf(first)), first, { ref }),
    )
  })
}
