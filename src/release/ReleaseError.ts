/** What can go wrong while a release is made or checked. Each says what, where, and the next action. */
import * as Effect from "effect/Effect"
import type * as PlatformError from "effect/PlatformError"
import * as Schema from "effect/Schema"
import { because } from "../model/Because.ts"
import { nobodyNamed } from "../model/License.ts"
import { oneLine } from "./Markdown.ts"

export class ReleaseInputUnreadable extends Schema.TaggedError<ReleaseInputUnreadable>()("ReleaseInputUnreadable", {
  path: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `release: ${this.path}: ${this.problem}\n  hint: run \`exp check\`: an artifact that is damaged is made anew`
  }
}

/** Two files of one release tell different things. */
export class ReleaseInconsistent extends Schema.TaggedError<ReleaseInconsistent>()("ReleaseInconsistent", {
  first: Schema.String,
  second: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `release: \`${this.first}\` and \`${this.second}\` disagree: ${this.problem}\n  hint: figures are never edited by hand; run \`exp check\`, then \`exp run\` again`
  }
}

export class ReleaseTemplateBroken extends Schema.TaggedError<ReleaseTemplateBroken>()("ReleaseTemplateBroken", {
  template: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `release: template ${this.template}: ${this.problem}\n  hint: a template may use only what \`src/release/Card.ts\` gives it; see \`release-templates/small-lm\``
  }
}

export class SecretInRelease extends Schema.TaggedError<SecretInRelease>()("SecretInRelease", {
  file: Schema.String,
  what: Schema.String,
}) {
  override get message() {
    return `release: \`${this.file}\` contains what looks like ${this.what}\n  hint: revoke it, take it out of its source (experiment, corpus or preset name) and run again`
  }
}

export class ReleaseFileFailed extends Schema.TaggedError<ReleaseFileFailed>()("ReleaseFileFailed", {
  path: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `release: ${this.path}: ${this.problem}\n  hint: see that the disk has room and the folder may be written`
  }
}

export class SumsMismatch extends Schema.TaggedError<SumsMismatch>()("SumsMismatch", {
  folder: Schema.String,
  problems: Schema.Array(Schema.String),
}) {
  override get message() {
    return `${this.folder} is not what its SHA256SUMS say\n${this.problems.map((problem) => `  ${problem}`).join("\n")}\n  hint: download or make the release again`
  }
}

/** As `Objection` of `src/model/License.ts`. */
const ObjectionFields = Schema.Struct({
  source: Schema.String,
  license: Schema.String,
  documents: Schema.Int,
  rule: Schema.String,
  reason: Schema.String,
})

/** More than this a message names by number. */
const NAMED = 12

export class LicenseRefused extends Schema.TaggedError<LicenseRefused>()("LicenseRefused", {
  license: Schema.String,
  objections: Schema.Array(ObjectionFields),
  possible: Schema.Array(Schema.String),
}) {
  override get message() {
    const { objections, possible } = this
    const lines = objections.slice(0, NAMED).map((objection) => `  ${objectionText(objection)}`)
    const more = objections.length > NAMED ? [`  … and ${objections.length - NAMED} more`] : []
    const unsaid = objections.find(({ rule, license }) => rule === "unknown" && license === "NOASSERTION")
    const unnamed = objections.find(({ reason }) => reason === nobodyNamed)
    const others = `take out ${quoted(hopeless(objections))}`
    const instead =
      unsaid !== undefined
        ? `say what they are under, ${saidBy(unsaid.source, "license")}; or ${others}`
        : unnamed !== undefined
          ? `say who is to be named, ${saidBy(unnamed.source, "attribution")}; or ${others}`
          : possible.length === 0
            ? `no licence is possible for all of these texts: ${others}`
            : `${possible.slice(0, 6).join(" or ")} would do; or take out ${quoted(objections.map(({ source }) => source))}`
    return [
      `release: ${JSON.stringify(oneLine(this.license))} is not possible for the texts it is trained on`,
      ...lines,
      ...more,
      `  hint: ${instead}; or write why the rule does not hold: \`licensing: { override: "…" }\``,
    ].join("\n")
  }
}

/** Where an experiment says what records leave out. */
const saidBy = (source: string, field: "license" | "attribution"): string =>
  `in the field \`${field}\` of their records or as \`corpus({ rights: { ${oneLine(source)}: { ${field}: "…" } } })\``

const quoted = (names: ReadonlyArray<string>): string =>
  [...new Set(names)].map((name) => `\`${oneLine(name)}\``).join(", ")

/** Sources that no licence at all could be found for; where there is none such, all that are in the way of one another. */
const hopeless = (all: ReadonlyArray<typeof ObjectionFields.Type>): ReadonlyArray<string> => {
  const alone = all.filter(({ rule }) => ["unknown", "no-derivatives", "no-training", "attribution"].includes(rule))
  return (alone.length > 0 ? alone : all).map(({ source }) => source)
}

/** `wiki_en: CC-BY-SA-3.0 (43 documents), share-alike: may go on only under …`; documents are left out where nobody counted them. */
export const objectionText = ({ source, license, documents, rule, reason }: typeof ObjectionFields.Type): string =>
  `${oneLine(source)}: ${short(oneLine(license))}${documents === 0 ? "" : ` (${documents} documents)`}, ${rule}: ${short(oneLine(reason))}`

/** Terms of use may be pages long. */
const short = (text: string): string => (text.length > 160 ? `${text.slice(0, 160)}…` : text)

export const ReleaseError = Schema.Union([
  LicenseRefused,
  ReleaseInputUnreadable,
  ReleaseInconsistent,
  ReleaseTemplateBroken,
  SecretInRelease,
  ReleaseFileFailed,
])
export type ReleaseError = typeof ReleaseError.Type

const reason = (error: PlatformError.PlatformError): string =>
  error.reason._tag === "NotFound" ? "there is no such file" : error.message

export const unreadable =
  (path: string) =>
  <A, R>(effect: Effect.Effect<A, PlatformError.PlatformError, R>): Effect.Effect<A, ReleaseInputUnreadable, R> =>
    Effect.mapError(effect, (error) => because(new ReleaseInputUnreadable({ path, problem: reason(error) }), error))

export const unwritable =
  (path: string) =>
  <A, R>(effect: Effect.Effect<A, PlatformError.PlatformError, R>): Effect.Effect<A, ReleaseFileFailed, R> =>
    Effect.mapError(effect, (error) => because(new ReleaseFileFailed({ path, problem: reason(error) }), error))
