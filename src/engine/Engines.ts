/**
 * Which engine computes. What bears identity is known at once; the engine itself is loaded when it is first asked to work, so that
 * planning and reusing cost nothing of it.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { type EngineChoice, type EngineName, type Precision, parsePrecision } from "../model/EngineChoice.ts"
import { Activations } from "./Activations.ts"
import { Engine, type EngineError, EngineFailed, type Numerics } from "./Engine.ts"
import { numerics as tfjsNumerics } from "./tfjs/Numerics.ts"
import { type Found, findPython } from "./torch/Environment.ts"
import { numericsOf as torchNumerics } from "./torch/Numerics.ts"
import type { MachineSettings } from "./torch/Settings.ts"

export class EngineRefused extends Schema.TaggedError<EngineRefused>()("EngineRefused", {
  asked: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `${this.asked}: ${this.problem}\n  hint: ${this.hint}`
  }
}

/** What a command line says of engines; it goes before what the experiment says. */
export interface Asked {
  readonly engine?: EngineName | undefined
  readonly precision?: string | undefined
  /** `name=value`, see `torch/Settings.ts`. */
  readonly engineSet?: ReadonlyArray<string>
}

export interface Chosen {
  readonly engine: Exclude<EngineName, "auto">
  readonly numerics: Numerics
  /** Why it is this one, where somebody asked for an engine. */
  readonly because?: string
  /** Of the torch engine: what it runs in, and what this machine chose for it. */
  readonly python?: Found
  readonly machine: MachineSettings
}

export const embedded: Chosen = { engine: "tfjs", numerics: tfjsNumerics, machine: {} }

const precisionOf = (asked: string): Effect.Effect<Precision, EngineRefused> => {
  const precision = parsePrecision(asked)
  return precision === undefined
    ? Effect.fail(
        new EngineRefused({
          asked: `\`--precision ${asked}\``,
          problem: "it is no precision",
          hint: "`fp32`, `bf16` or `fp16`, with `+adam8bit` or `+deterministic` behind it where you want them",
        }),
      )
    : Effect.succeed(precision)
}

/**
 * The engine of a command: what it was asked for, else what the experiment asks for, else tfjs. `auto` is torch where there is an
 * environment for it; that is looked up, not tried.
 */
export const choose = (asked: Asked, experiment?: EngineChoice): Effect.Effect<Chosen, EngineRefused | Error> =>
  Effect.gen(function* () {
    const flag = asked.engine
    const wanted = flag ?? experiment?.engine ?? "tfjs"
    const python = wanted === "tfjs" ? undefined : findPython()
    const engine = wanted === "auto" ? (python?._tag === "Python" ? "torch" : "tfjs") : wanted
    // an experiment's precision is meant for its own engine
    const precision =
      asked.precision !== undefined
        ? yield* precisionOf(asked.precision)
        : flag === undefined || flag === experiment?.engine || flag === "auto"
          ? experiment?.precision
          : undefined
    const machine = yield* machineOf(asked.engineSet ?? [])
    const who = flag === undefined ? "the experiment" : "`--engine`"
    const found = python === undefined ? "" : python._tag === "Python" ? `Python of ${python.from}` : python.problem
    const because =
      flag === undefined && experiment === undefined
        ? undefined
        : wanted === "auto"
          ? `${who} asks for auto, ${found}`
          : `${who} asks for it`
    if (engine === "torch")
      return {
        engine,
        numerics: torchNumerics(precision),
        python: python!,
        machine,
        ...(because !== undefined && { because }),
      }
    if (asked.precision !== undefined && precision !== tfjsNumerics.precision)
      return yield* new EngineRefused({
        asked: `\`--precision ${asked.precision}\``,
        problem: `the ${tfjsNumerics.name} engine computes in ${tfjsNumerics.precision} alone`,
        hint: "take `--engine torch` with it, or leave it out",
      })
    if (asked.engineSet?.length && wanted !== "auto")
      return yield* new EngineRefused({
        asked: `\`--engine-set ${asked.engineSet[0]}\``,
        problem: "it is a setting of the torch engine",
        hint: "take `--engine torch` with it, or leave it out; EXP_WORKERS says how many threads tfjs uses",
      })
    return { ...embedded, ...(because !== undefined && { because }) }
  })

/** The engine that made something, to go on with it or to measure it again. */
export const makerOf = ({ name, precision }: Pick<Numerics, "name" | "precision">): EngineChoice => {
  const known = parsePrecision(precision)
  return name === "torch" ? { engine: "torch", ...(known !== undefined && { precision: known }) } : { engine: "tfjs" }
}

/** An engine in words, and why it is this one. */
export const inWords = ({ numerics: { name, precision }, because }: Chosen): string =>
  `${name} ${precision}${because === undefined ? "" : ` (${because})`}`

const machineOf = (pairs: ReadonlyArray<string>): Effect.Effect<MachineSettings, Error> =>
  pairs.length === 0
    ? Effect.succeed({})
    : Effect.flatMap(
        Effect.promise(() => import("./torch/Settings.ts")),
        ({ parseSettings }) => Effect.fromResult(parseSettings(pairs)),
      )

const unloadable = (engine: string) => (cause: unknown) =>
  new EngineFailed({
    engine,
    doing: "loading",
    problem: cause instanceof Error ? cause.message : String(cause),
    hint: "run `npm ci` again",
  })

/** Why the engine that was chosen cannot work here; undefined when it can, as far as can be told without starting it. */
export const unavailable = ({ engine, python }: Chosen): EngineFailed | undefined =>
  engine === "torch" && python?._tag !== "Python"
    ? new EngineFailed({
        engine,
        doing: "starting",
        problem: python?.problem ?? "no Python was looked for",
        hint: python?.hint ?? "`exp setup torch` makes an environment",
        kind: "absent",
      })
    : undefined

/** Loads what computes; called once, with the first request. */
const load = (chosen: Chosen): Effect.Effect<Layer.Layer<Engine, EngineError>, EngineFailed> =>
  Effect.gen(function* () {
    const refused = unavailable(chosen)
    if (refused !== undefined) return yield* refused
    const { engine, numerics, python, machine } = chosen
    const attempt = <A>(load: () => Promise<A>) => Effect.tryPromise({ try: load, catch: unloadable(engine) })
    if (engine === "tfjs") return (yield* attempt(() => import("./tfjs/TfjsEngine.ts"))).layer
    const { layerWith, commandOf } = yield* attempt(() => import("./torch/TorchEngine.ts"))
    const { program } = python as Extract<Found, { readonly _tag: "Python" }>
    return layerWith({ command: commandOf(program), precision: numerics.precision as Precision, machine })
  })

const lazily = (chosen: Chosen): Layer.Layer<Engine> =>
  Layer.effect(
    Engine,
    Effect.gen(function* () {
      const scope = yield* Effect.scope
      const loaded = yield* Effect.cached(
        Effect.gen(function* () {
          const layer = yield* load(chosen)
          return Context.get(yield* Layer.buildWithScope(layer, scope), Engine)
        }),
      )
      return Engine.of({
        numerics: chosen.numerics,
        train: (request) => Stream.unwrap(Effect.map(loaded, (engine) => engine.train(request))),
        losses: (request) => Effect.flatMap(loaded, (engine) => engine.losses(request)),
        probe: (request) => Effect.flatMap(loaded, (engine) => engine.probe(request)),
        generate: (request) => Effect.flatMap(loaded, (engine) => engine.generate(request)),
        logits: (request) => Effect.flatMap(loaded, (engine) => engine.logits(request)),
        inspect: Effect.flatMap(loaded, (engine) => engine.inspect),
      })
    }),
  )

/** Sums of squares for an importance matrix come from the embedded engine, whoever trains: it reads the same checkpoints. */
const activations = Layer.succeed(Activations, (request) =>
  Effect.tryPromise({ try: () => import("./tfjs/Activations.ts"), catch: unloadable("tfjs") }).pipe(
    Effect.flatMap(({ activations }) => activations(request)),
  ),
)

export const layerOf = (chosen: Chosen): Layer.Layer<Engine> => Layer.merge(lazily(chosen), activations)

export const layer: Layer.Layer<Engine> = layerOf(embedded)
