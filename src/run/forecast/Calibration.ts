/**
 * How fast an engine is on this machine, measured in some seconds and kept: one file for each engine with its precision, device and
 * shape of model, `<runs>/.cache/calibration/<engine>-<precision>-<12 hex digits>.json`. It is a note about a machine, never a part
 * of a result: deleting it loses nothing but the seconds.
 *
 * A step of r rows takes a + b·r seconds: the update, and each row. Where a shape was not measured, the nearest one that was serves,
 * scaled by floating-point operations, and whoever reads the figure is told so.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs"
import { cpus } from "node:os"
import { join } from "node:path"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { Numerics } from "../../engine/Engine.ts"
import { Architecture, parameterCount, trainingFlopsPerToken } from "../../model/Architecture.ts"
import { digest } from "../../model/Digest.ts"
import { replace } from "../../store/Files.ts"

const Above0 = Schema.Finite.check(Schema.isGreaterThan(0))

export const Calibration = Schema.Struct({
  format: Schema.Literal(1),
  engine: Schema.Struct({ name: Schema.String, numerics: Schema.Int, precision: Schema.String }),
  /** What computes: processor and workers, or GPU. */
  device: Schema.String,
  architecture: Architecture,
  measuredAt: Schema.String,
  /** Seconds that measuring took. */
  seconds: Schema.Finite,
  /** Peak in matrix products, 10⁹ floating-point operations a second: what utilisation is a share of. */
  matmulGflops: Above0,
  /** Seconds of an optimizer step, whatever its rows, and of each row. */
  perStep: Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0)),
  perRow: Above0,
  /** Layers that were measured, where all of them would have taken too long. */
  measuredLayers: Schema.optionalKey(Schema.Int),
  /** Tokens a second of measuring documents, and of drawing texts side by side. */
  measuredTokensPerSecond: Above0,
  drawnTokensPerSecond: Above0,
  /** Bytes a second of writing a checkpoint. */
  writtenBytesPerSecond: Above0,
  /** While training, where the machine can tell. */
  watts: Schema.optionalKey(Above0),
  /** Processes that wanted a core while it was measured, beside this one: its figures are too low by about so much. */
  otherLoad: Schema.optionalKey(Schema.Finite),
})
export type Calibration = typeof Calibration.Type

const decode = Schema.decodeUnknownResult(Schema.fromJsonString(Calibration))

export const calibrationFolder = (runs: string): string => join(runs, ".cache", "calibration")

/** This machine's processor as the in-process engine uses it. */
export const hostDevice = (workers: number): string =>
  `${cpus()[0]?.model.trim() || process.arch}, ${workers} ${workers === 1 ? "worker" : "workers"}`

const nameOf = ({ engine, device, architecture }: Pick<Calibration, "engine" | "device" | "architecture">): string =>
  `${engine.name}-${engine.precision}-${digest({ engine, device, architecture }).slice(0, 12)}.json`

export const keep = (runs: string, calibration: Calibration): void => {
  const folder = calibrationFolder(runs)
  mkdirSync(folder, { recursive: true })
  replace(join(folder, nameOf(calibration)), `${JSON.stringify(calibration, null, 2)}\n`)
}

/** All that are kept of an engine on a device; a file that cannot be read is as none. */
export const kept = (runs: string, engine: Numerics, device: string): ReadonlyArray<Calibration> => {
  const folder = calibrationFolder(runs)
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter((name) => name.startsWith(`${engine.name}-${engine.precision}-`))
    .sort()
    .flatMap((name) => {
      const read = decode(readFileSync(join(folder, name), "utf8"))
      if (Result.isFailure(read)) return []
      const { success } = read
      return success.device === device && success.engine.numerics === engine.numerics ? [success] : []
    })
}

/** A pace for a shape: measured, or scaled from another. */
export interface Pace {
  readonly calibration: Calibration
  readonly measured: boolean
  readonly perStep: number
  readonly perRow: number
  readonly measuredTokensPerSecond: number
  readonly drawnTokensPerSecond: number
  readonly writtenBytesPerSecond: number
}

const sameShape = (a: Architecture, b: Architecture): boolean => digest(a) === digest(b)

export const paceOf = (all: ReadonlyArray<Calibration>, architecture: Architecture): Pace | undefined => {
  const exact = all.find((one) => sameShape(one.architecture, architecture))
  if (exact !== undefined) return { ...pick(exact), calibration: exact, measured: exact.measuredLayers === undefined }
  const flops = trainingFlopsPerToken(architecture)
  const distance = (one: Calibration) => Math.abs(Math.log(trainingFlopsPerToken(one.architecture) / flops))
  const nearest = all.toSorted((a, b) => distance(a) - distance(b))[0]
  return nearest && { ...scaled(nearest, architecture), calibration: nearest, measured: false }
}

const pick = ({
  perStep,
  perRow,
  measuredTokensPerSecond,
  drawnTokensPerSecond,
  writtenBytesPerSecond,
}: Calibration): Omit<Pace, "calibration" | "measured"> => ({
  perStep,
  perRow,
  measuredTokensPerSecond,
  drawnTokensPerSecond,
  writtenBytesPerSecond,
})

/** As if both made the same use of the machine: an update takes as its parameters, a token as its operations. */
export const scaled = (from: Calibration, to: Architecture): Omit<Pace, "calibration" | "measured"> => {
  const work = trainingFlopsPerToken(to) / trainingFlopsPerToken(from.architecture)
  const parameters = parameterCount(to) / parameterCount(from.architecture)
  return {
    perStep: from.perStep * parameters,
    perRow: from.perRow * work * (to.context / from.architecture.context),
    measuredTokensPerSecond: from.measuredTokensPerSecond / work,
    drawnTokensPerSecond: from.drawnTokensPerSecond / work,
    writtenBytesPerSecond: from.writtenBytesPerSecond,
  }
}

/** Whole numbers of the largest unit that fills one: for people, who want to know whether it is old. */
export const ageInWords = (measuredAt: string, now: number): string => {
  const seconds = Math.max(0, (now - Date.parse(measuredAt)) / 1000)
  for (const [unit, length] of [
    ["day", 86_400],
    ["hour", 3600],
    ["minute", 60],
  ] as const)
    if (seconds >= length) {
      const count = Math.floor(seconds / length)
      return `${count} ${unit}${count === 1 ? "" : "s"} ago`
    }
  return "just now"
}
