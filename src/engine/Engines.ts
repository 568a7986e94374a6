/**
 * Which engine computes. What bears identity is known at once; the engine itself is loaded when it is first asked to work, so that
 * planning and reusing cost nothing of it.
 */
import { readFileSync } from "node:fs"
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
import type { EngineSettingRefused, MachineSettings } from "./torch/Settings.ts"

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

interface Choice {
  readonly numerics: Numerics
  /** Why it is this one, where somebody asked for an engine. */
  readonly because?: string
}

export type Chosen =
  | (Choice & { readonly engine: "tfjs" })
  | (Choice & {
      readonly engine: "torch"
      readonly precision: Precision | undefined
      /** What it runs in, and what this machine chose for it. */
      readonly python: Found
      readonly machine: MachineSettings
    })

export const embedded: Chosen = { engine: "tfjs", numerics: tfjsNumerics }

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
export const choose = (
  asked: Asked,
  experiment?: EngineChoice,
): Effect.Effect<Chosen, EngineRefused | EngineSettingRefused> =>
  Effect.gen(function* () {
    const flag = asked.engine
    const wanted = flag ?? experiment?.engine ?? "tfjs"
    const python = wanted === "tfjs" ? undefined : findPython()
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
        ? {}
        : { because: wanted === "auto" ? `${who} asks for auto, ${found}` : `${who} asks for it` }
    if (python !== undefined && (wanted === "torch" || python._tag === "Python"))
      return { engine: "torch", numerics: torchNumerics(precision), ...because, precision, python, machine }
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
    return { ...embedded, ...because }
  })

/** The engine that made something, to go on with it or to measure it again. */
const makerOf = ({ name, precision }: Pick<Numerics, "name" | "precision">): EngineChoice => {
  const known = parsePrecision(precision)
  return name === "torch" ? { engine: "torch", ...(known !== undefined && { precision: known }) } : { engine: "tfjs" }
}

/** The engine that made what a file tells of under `engine`; undefined where it cannot be read, or says nothing of the kind. */
export const makerIn = (file: string): EngineChoice | undefined => {
  try {
    const { name, precision } = JSON.parse(readFileSync(file, "utf8")).engine
    return makerOf({ name: String(name), precision: String(precision) })
  } catch {
    return undefined
  }
}

/** An engine in words, and why it is this one. */
export const inWords = ({ numerics: { name, precision }, because }: Chosen): string =>
  `${name} ${precision}${because === undefined ? "" : ` (${because})`}`

/** What this machine chose for it; tfjs leaves nothing to choose. */
export const settingsOf = (chosen: Chosen): MachineSettings => (chosen.engine === "torch" ? chosen.machine : {})

const machineOf = (pairs: ReadonlyArray<string>): Effect.Effect<MachineSettings, EngineSettingRefused> =>
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
export const unavailable = (chosen: Chosen): EngineFailed | undefined =>
  chosen.engine === "torch" && chosen.python._tag === "Absent" ? absent(chosen.python) : undefined

const absent = ({ problem, hint }: Extract<Found, { readonly _tag: "Absent" }>): EngineFailed =>
  new EngineFailed({ engine: "torch", doing: "starting", problem, hint, kind: "absent" })

/** Loads what computes; called once, with the first request. */
const load = (chosen: Chosen): Effect.Effect<Layer.Layer<Engine, EngineError>, EngineFailed> =>
  Effect.gen(function* () {
    const attempt = <A>(load: () => Promise<A>) => Effect.tryPromise({ try: load, catch: unloadable(chosen.engine) })
    if (chosen.engine === "tfjs") return (yield* attempt(() => import("./tfjs/TfjsEngine.ts"))).layer
    const { python, precision, machine } = chosen
    if (python._tag === "Absent") return yield* absent(python)
    const { layerWith, commandOf } = yield* attempt(() => import("./torch/TorchEngine.ts"))
    return layerWith({ command: commandOf(python.program), ...(precision !== undefined && { precision }), machine })
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
