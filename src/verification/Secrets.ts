/**
 * A program that came with a release runs in this process, so it must not find in the environment what only its user may have: tokens
 * and keys are taken out while it runs, and put back when it is done.
 */
import * as Effect from "effect/Effect"

const isSecret = (name: string): boolean =>
  /TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|SIGNING_?KEY/i.test(name)

const takeOut = (environment: NodeJS.ProcessEnv): Readonly<Record<string, string>> => {
  const taken: Record<string, string> = {}
  for (const [name, value] of Object.entries(environment)) {
    if (value === undefined || !isSecret(name)) continue
    taken[name] = value
    delete environment[name]
  }
  return taken
}

/** Runs without any variable whose name speaks of a token or a key, `HF_TOKEN` and `EXP_SIGNING_KEY` among them. */
export const withoutSecrets = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.acquireUseRelease(
    Effect.sync(() => takeOut(process.env)),
    () => effect,
    (taken) => Effect.sync(() => void Object.assign(process.env, taken)),
  )
