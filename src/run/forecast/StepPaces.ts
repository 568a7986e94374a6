/**
 * What steps do beside an engine, by kind, as earlier runs on this machine took it: `<runs>/.cache/calibration/paces.json`. Reading
 * texts counts by their bytes, everything else by the step. A newer run counts as much as all before it.
 */
import { existsSync, mkdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { replace } from "../../store/Files.ts"
import { calibrationFolder } from "./Calibration.ts"

const Pace = Schema.Struct({ seconds: Schema.Finite, amount: Schema.Finite })
const Kinds = Schema.Record(Schema.String, Pace)
export type StepPaces = typeof Kinds.Type
const File = Schema.Record(Schema.String, Kinds)

const decode = Schema.decodeUnknownResult(Schema.fromJsonString(File))

const readAll = (runs: string): typeof File.Type => {
  const path = join(calibrationFolder(runs), "paces.json")
  if (!existsSync(path)) return {}
  const read = decode(readFileSync(path, "utf8"))
  return Result.isSuccess(read) ? read.success : {}
}

export const pacesOf = (runs: string, device: string): StepPaces => readAll(runs)[device] ?? {}

export interface Took {
  readonly kind: string
  readonly amount: number
  readonly seconds: number
}

export const learn = (runs: string, device: string, took: ReadonlyArray<Took>): void => {
  if (took.length === 0) return
  const all = readAll(runs)
  const kinds: Record<string, { seconds: number; amount: number }> = { ...all[device] }
  const now = Map.groupBy(took, ({ kind }) => kind)
  for (const [kind, some] of now) {
    const seconds = some.reduce((sum, one) => sum + one.seconds, 0)
    const amount = some.reduce((sum, one) => sum + one.amount, 0)
    if (amount <= 0) continue
    const before = kinds[kind]
    // as much as all before: the mean of both paces, over this run's amount
    kinds[kind] =
      before === undefined
        ? { seconds, amount }
        : { seconds: (seconds + (before.seconds / before.amount) * amount) / 2, amount }
  }
  mkdirSync(calibrationFolder(runs), { recursive: true })
  replace(join(calibrationFolder(runs), "paces.json"), `${JSON.stringify({ ...all, [device]: kinds }, null, 2)}\n`)
}
