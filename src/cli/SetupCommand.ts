/**
 * `exp setup torch`: make the Python environment that the torch engine works in.
 */
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import { setup } from "../engine/torch/Setup.ts"

export interface SetupSettings {
  readonly cpu: boolean
  readonly python: string | undefined
  readonly index: string | undefined
  readonly json: boolean
}

export const setupTorch = Effect.fn("exp setup torch")(function* ({ cpu, python, index, json }: SetupSettings) {
  const { hello, folder, made } = yield* setup({
    cpu,
    python,
    index,
    say: (text) => void process.stderr.write(`${text}\n`),
  })
  if (json) return yield* Console.log(JSON.stringify({ folder, made, ...hello }))
  const on = hello.gpus?.map(({ name }) => name).join(", ") ?? hello.device ?? "cpu"
  yield* Console.log(`torch ${hello.torch} on ${on}${made ? "" : ", as it was"}: ${folder}`)
  if (process.env["EXP_TORCH_PYTHON"])
    yield* Console.log("it is not used while EXP_TORCH_PYTHON names another Python\n  hint: unset EXP_TORCH_PYTHON")
})
