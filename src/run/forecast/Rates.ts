/**
 * What a kilowatt-hour and an hour cost here, and how much carbon dioxide is behind them. Given on the command line, or kept in
 * `rates.json` of the runs folder, since they belong to the machine and its place. What nobody said stays unknown and is named so.
 */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { oneLine } from "../../plan/Step.ts"

const Amount = Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))

export const Rates = Schema.Struct({
  /** Of the whole machine while it trains; goes before what was measured. */
  watts: Schema.optionalKey(Amount),
  pricePerKwh: Schema.optionalKey(Amount),
  gramsCo2PerKwh: Schema.optionalKey(Amount),
  /** Of a rented machine. */
  pricePerHour: Schema.optionalKey(Amount),
  /** What prices are in, as it is to be printed: `EUR`. */
  currency: Schema.optionalKey(Schema.String),
})
export type Rates = typeof Rates.Type

export const RATES = "rates.json"

export class RatesUnreadable extends Schema.TaggedError<RatesUnreadable>()("RatesUnreadable", {
  path: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `${this.path}: ${this.problem}\n  hint: it may hold ${Object.keys(Rates.fields).join(", ")}: numbers of at least 0, and the currency's name`
  }
}

const decode = Schema.decodeUnknownResult(Schema.fromJsonString(Rates), { onExcessProperty: "error" })

/** What is given goes before what is kept. */
export const ratesOf = (runs: string, given: Rates): Effect.Effect<Rates, RatesUnreadable> =>
  Effect.suspend(() => {
    const path = join(runs, RATES)
    if (!existsSync(path)) return Effect.succeed(given)
    const read = decode(readFileSync(path, "utf8"))
    return Result.isSuccess(read)
      ? Effect.succeed({ ...read.success, ...given })
      : new RatesUnreadable({ path, problem: oneLine(read.failure.message) })
  })
