/**
 * What this machine may choose of how the worker works: speed and memory, never identity. On the command line each is
 * `--engine-set name=value`; what they mean is told in `engines/torch/PROTOCOL.md`.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { suggestion } from "../../model/DidYouMean.ts"

const Positive = Schema.Int.check(Schema.isGreaterThan(0))
const Switch = Schema.Union([Schema.Literal("auto"), Schema.Boolean])

const fields = {
  device: Schema.Literals(["auto", "cpu", "cuda", "mps"]),
  compile: Switch,
  microBatchRows: Positive,
  activationCheckpointing: Switch,
  offloadOptimizer: Switch,
  processes: Positive,
  sharding: Schema.Literals(["auto", "ddp", "fsdp"]),
  /** Share of the GPU's memory that may be used. */
  memoryFraction: Schema.Finite.check(Schema.isGreaterThan(0), Schema.isLessThanOrEqualTo(1)),
  threads: Positive,
  /** A worker that does nothing for so long counts as hung; for machines where one step takes longer than the hour that is allowed. */
  stalledSeconds: Schema.Finite.check(Schema.isGreaterThan(0)),
}

export const MachineSettings = Schema.Struct({
  device: Schema.optionalKey(fields.device),
  compile: Schema.optionalKey(fields.compile),
  microBatchRows: Schema.optionalKey(fields.microBatchRows),
  activationCheckpointing: Schema.optionalKey(fields.activationCheckpointing),
  offloadOptimizer: Schema.optionalKey(fields.offloadOptimizer),
  processes: Schema.optionalKey(fields.processes),
  sharding: Schema.optionalKey(fields.sharding),
  memoryFraction: Schema.optionalKey(fields.memoryFraction),
  threads: Schema.optionalKey(fields.threads),
  stalledSeconds: Schema.optionalKey(fields.stalledSeconds),
})
export type MachineSettings = typeof MachineSettings.Type

export class EngineSettingRefused extends Schema.TaggedError<EngineSettingRefused>()("EngineSettingRefused", {
  setting: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `\`--engine-set ${this.setting}\`: ${this.problem}\n  hint: ${this.hint}`
  }
}

const valueOf = (text: string): string | number | boolean => {
  if (text === "true" || text === "false") return text === "true"
  const number = Number(text)
  return text.trim() === "" || Number.isNaN(number) ? text : number
}

/** `name=value` pairs of a command line; a later one of the same name counts. */
export const parseSettings = (pairs: ReadonlyArray<string>): Result.Result<MachineSettings, EngineSettingRefused> => {
  const values: Record<string, unknown> = {}
  for (const setting of pairs) {
    const refuse = (problem: string, hint: string) => Result.fail(new EngineSettingRefused({ setting, problem, hint }))
    const at = setting.indexOf("=")
    if (at <= 0) return refuse("it is not name=value", "write `--engine-set microBatchRows=4`")
    const name = setting.slice(0, at)
    if (!Object.hasOwn(fields, name))
      return refuse(`there is no setting \`${name}\``, suggestion(name, Object.keys(fields)))
    const field: Schema.Codec<unknown> = fields[name as keyof typeof fields]
    const decoded = Schema.decodeUnknownResult(field)(valueOf(setting.slice(at + 1)))
    if (Result.isFailure(decoded))
      return refuse(decoded.failure.message.split("\n")[0]!, "`engines/torch/PROTOCOL.md` lists what each may be")
    values[name] = decoded.success
  }
  return Result.succeed(values as MachineSettings)
}
