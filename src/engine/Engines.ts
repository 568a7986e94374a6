/**
 * Which engine computes. What bears identity is known at once; the engine itself is loaded when it is first asked to work, so that
 * planning and reusing cost nothing of it.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { Activations } from "./Activations.ts"
import { Engine, EngineFailed } from "./Engine.ts"
import { numerics } from "./tfjs/Numerics.ts"

const unloadable = (cause: unknown) =>
  new EngineFailed({
    engine: numerics.name,
    doing: "loading",
    problem: cause instanceof Error ? cause.message : String(cause),
    hint: "run `npm ci` again",
  })

const activations = Layer.succeed(Activations, (request) =>
  Effect.tryPromise({ try: () => import("./tfjs/Activations.ts"), catch: unloadable }).pipe(
    Effect.flatMap(({ activations }) => activations(request)),
  ),
)

const engine: Layer.Layer<Engine> = Layer.effect(
  Engine,
  Effect.gen(function* () {
    const scope = yield* Effect.scope
    const loaded = yield* Effect.cached(
      Effect.gen(function* () {
        const { layer } = yield* Effect.tryPromise({
          try: () => import("./tfjs/TfjsEngine.ts"),
          catch: unloadable,
        })
        return Context.get(yield* Layer.buildWithScope(layer, scope), Engine)
      }),
    )
    return Engine.of({
      numerics,
      train: (request) => Stream.unwrap(Effect.map(loaded, (engine) => engine.train(request))),
      losses: (request) => Effect.flatMap(loaded, (engine) => engine.losses(request)),
      probe: (request) => Effect.flatMap(loaded, (engine) => engine.probe(request)),
      generate: (request) => Effect.flatMap(loaded, (engine) => engine.generate(request)),
      logits: (request) => Effect.flatMap(loaded, (engine) => engine.logits(request)),
      inspect: Effect.flatMap(loaded, (engine) => engine.inspect),
    })
  }),
)

export const layer: Layer.Layer<Engine> = Layer.merge(engine, activations)
