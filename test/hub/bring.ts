/** `bring.ts ENTRY ENDPOINT TO`: brings one file here and prints what came of it as JSON. A process of its own, so that it can be given limits. */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Effect from "effect/Effect"
import { openFiles } from "../../src/hub/Files.ts"

const [entry, endpoint, to] = process.argv.slice(2)
const outcome = await Effect.runPromise(
  Effect.gen(function* () {
    const files = yield* openFiles({
      kind: "models",
      repository: "our-org/tiny",
      endpoint,
      say: () => {},
      patience: { firstWaitSeconds: 0.001, longestWaitSeconds: 0.01, timeoutSeconds: 10 },
    })
    return { sha256: yield* files.bring("0".repeat(40), JSON.parse(entry!), to!) }
  }).pipe(
    Effect.provide(NodeServices.layer),
    Effect.catch((error) => Effect.succeed({ tag: error._tag, message: error.message })),
  ),
)
console.log(JSON.stringify(outcome))
