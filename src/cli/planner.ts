/**
 * Says what an experiment asks for, and looks at nothing else: no texts, no store, no engine. `Rerun.ts` starts it as a process of its
 * own for an experiment that came from somebody else.
 *
 *     node src/cli/planner.ts FILE CACHE [name=value …]
 *
 * One line of JSON on standard output, or an error on the other and status 1.
 */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Effect from "effect/Effect"
import { open } from "./Project.ts"

const [file = "", cache = "", ...set] = process.argv.slice(2)

const asked = Effect.map(open(file, set, cache), ({ plan: { experiment, parameters, nodes } }) => ({
  experiment,
  parameters,
  steps: nodes.map(({ id, label, definition, params, inputs }) => ({
    id,
    label,
    kind: definition.kind,
    params,
    inputs,
  })),
}))

await Effect.runPromise(
  Effect.match(asked, {
    onSuccess: (plan) => void process.stdout.write(`\n${JSON.stringify(plan)}\n`),
    onFailure: ({ message }) => {
      process.stderr.write(`${message}\n`)
      process.exitCode = 1
    },
  }).pipe(Effect.provide(NodeServices.layer)),
)
