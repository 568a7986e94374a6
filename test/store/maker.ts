/**
 * Makes one artifact in a process of its own: `maker.ts <root> <what> [signal file]`.
 *
 * `quick` makes it; `stuck` writes half of it, says so and never ends; `slow` takes a while. Each says `begun`, then `made` or `found`.
 */
import { appendFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import { Store } from "../../src/store/Store.ts"
import { draft } from "./draft.ts"

const [root, what, log] = process.argv.slice(2)
const say = (text: string) => process.stdout.write(`${text}\n`)

await Effect.gen(function* () {
  const store = yield* Store
  const { made } = yield* store.make(
    draft(),
    { resumable: false, onWait: () => say("waiting") },
    Effect.fnUntraced(function* ({ out }) {
      writeFileSync(join(out, "a.txt"), "first")
      if (log !== undefined) appendFileSync(log, "made\n")
      say("begun")
      if (what === "stuck") yield* Effect.sleep("1 hour")
      if (what === "slow") yield* Effect.sleep("500 millis")
      writeFileSync(join(out, "b.txt"), "second")
      return {}
    }),
  )
  say(made ? "made" : "found")
}).pipe(Effect.provide(Store.layer(root!)), Effect.runPromise)
