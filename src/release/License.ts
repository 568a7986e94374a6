/**
 * Licences as a release tells them: its own by SPDX identifier and link, those of its sources with their attributions and terms, and
 * whether the one is possible for the others (rules: `src/model/License.ts`).
 */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Schema from "effect/Schema"
import { Inventory } from "../model/Corpus.ts"
import {
  type Class,
  classOf,
  classOfSources,
  licensesIn,
  type Objection,
  objections,
  parseExpression,
  possibleLicenses,
  type Rights,
  ruleOf,
} from "../model/License.ts"
import { oneLine } from "./Markdown.ts"
import { LicenseRefused, objectionText } from "./ReleaseError.ts"

export interface Licensing {
  readonly license: string
  /** Why the rules do not hold here, in the experiment's words. */
  readonly override: string | undefined
}

/** As `release.json` has it. */
export const licensingOf = (facts: {
  readonly license: string
  readonly license_override: string | null
}): Licensing => ({
  license: facts.license,
  override: facts.license_override ?? undefined,
})

/** Refuses a release that the licences of its training texts do not allow, unless a reason is written. */
export const checkLicensing = (
  { license, override }: Licensing,
  sources: ReadonlyArray<Rights>,
): Effect.Effect<void, LicenseRefused> => {
  const found = objections(license, sources)
  return found.length === 0 || override !== undefined
    ? Effect.void
    : Effect.fail(new LicenseRefused({ license, objections: found, possible: possibleLicenses(sources) }))
}

/** Weights that a training went on from bind what comes of it as texts do; who is to be named is who published them. */
export const rightsOfWeights = ({ name, license }: { readonly name: string; readonly license: string }): Rights => ({
  source: name,
  role: "train",
  licenses: { [license]: 1 },
  attributions: [name],
  terms: [],
})

/** As many as a line holds. */
const NAMED = 8

/** Refuses as `checkLicensing` does, and says what else would do. */
export const checkPlanned = (
  licensing: Licensing,
  sources: ReadonlyArray<Rights>,
): Effect.Effect<string | undefined, LicenseRefused> =>
  Effect.map(checkLicensing(licensing, sources), () => {
    if (sources.length === 0) return undefined
    const [license, possible] = [oneLine(licensing.license), possibleLicenses(sources)]
    if (objections(licensing.license, sources).length > 0)
      return `${license} by a written reason; without it ${possible.slice(0, NAMED).join(", ") || "no licence"} would do`
    const others = possible.filter((one) => one !== licensing.license).slice(0, NAMED)
    return `${license}: nothing that is known of its texts now stands against it${others.length === 0 ? "" : `, nor against ${others.join(", ")}`}`
  })

/**
 * The same for a corpus in the store: what a plan can know of its release as soon as the texts are there, long before training ends.
 * A corpus that cannot be read is left to the step that reads it.
 */
export const checkCorpus = (
  licensing: Licensing,
  folder: string,
): Effect.Effect<string | undefined, LicenseRefused, FileSystem.FileSystem> =>
  Effect.flatMap(FileSystem.FileSystem, (fs) => fs.readFileString(`${folder}/inventory.json`)).pipe(
    Effect.flatMap(Schema.decodeUnknownEffect(Schema.fromJsonString(Inventory))),
    Effect.orElseSucceed((): Inventory => ({ sources: [] })),
    Effect.flatMap(({ sources }) => checkPlanned(licensing, sources)),
  )

export interface LicenseUse {
  readonly license: string
  readonly documents: number
  readonly rule: string
  readonly class: Class
}

export const usesOf = ({ licenses }: Rights): ReadonlyArray<LicenseUse> =>
  Object.entries(licenses).map(([license, documents]) => ({
    license,
    documents,
    rule: ruleOf(license),
    class: classOf(parseExpression(license)),
  }))

export { classOfSources, type Objection, objections }

/** Identifiers the Hugging Face Hub knows, in its spelling (SPDX in lower case). */
const HUB: ReadonlySet<string> = new Set(
  `afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc cc-by-2.0 cc-by-2.5 cc-by-3.0
  cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
  cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0
  eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ncsa odbl odc-by ofl-1.1 osl-3.0 pddl
  postgresql unlicense wtfpl zlib`.split(/\s+/),
)

const isSpdx = (license: string): boolean =>
  /^[A-Za-z0-9][A-Za-z0-9.+-]*$/.test(license) && !/^(?:NOASSERTION|NONE|LicenseRef-.*)$/i.test(license)

export const licenseLink = (license: string): string | null =>
  isSpdx(license) ? `https://spdx.org/licenses/${license}.html` : null

/** Of an expression, a link for each licence that SPDX could name. */
const linksOf = (license: string): ReadonlyArray<string> =>
  licensesIn(parseExpression(license)).flatMap(({ id }) => licenseLink(id) ?? [])

/** For the card's metadata: `license`, or `other` with a name and a link. */
export const hubLicense = (license: string): { readonly [key: string]: string } => {
  const id = license.toLowerCase().replace(/-(only|or-later)$/, "")
  if (HUB.has(id)) return { license: id }
  const known = id === "odc-by-1.0" ? "odc-by" : id === "odbl-1.0" ? "odbl" : null
  return known === null ? { license: "other", license_name: license, license_link: "LICENSE" } : { license: known }
}

export const licenseText = (name: string, { license, override }: Licensing): string => {
  const links = linksOf(license)
  return [
    `${name}: weights, tokenizer and the files of this folder`,
    "",
    `SPDX-License-Identifier: ${oneLine(license)}`,
    ...(links.length === 0 ? [] : ["", `The text of the licence: ${links.join(" ")}`]),
    "",
    "The texts the model learned from keep their own licences: see NOTICE.",
    ...(override === undefined
      ? []
      : ["", `Why this licence, against the cautious reading of theirs: ${oneLine(override)}`]),
    "",
  ].join("\n")
}

/** Every source with the file it was read from, its licences by number of documents, attributions and terms found in it. */
export const noticeText = (name: string, { license, override }: Licensing, inventory: Inventory): string => {
  const against = objections(license, inventory.sources)
  return [
    `${name} was made from these texts`,
    "",
    `It is released under ${oneLine(license)}. Whether a model is adapted material of its training texts is not settled law; read`,
    `cautiously, as if it were, the texts learned from are ${classOfSources(inventory.sources)} (${
      classOfSources(inventory.sources) === "white"
        ? "their licences allow every use"
        : "not all of their licences allow every use"
    }).`,
    ...(override === undefined
      ? []
      : ["", `The release departs from that reading, and says why: ${oneLine(override)}`]),
    ...against.map((objection) => `  ${objectionText(objection)}`),
    "",
    ...inventory.sources.flatMap((source) => [
      `${oneLine(source.source)} (${oneLine(source.language)}; ${source.role === "train" ? "learned from" : "measured on only"})`,
      `  file: ${oneLine(source.file)}`,
      `  sha256: ${source.sha256}`,
      ...(source.dataset === undefined
        ? []
        : [
            `  data set: ${oneLine(source.dataset.repository)} at ${source.dataset.commit}, ${source.dataset.files.length} of its files`,
          ]),
      ...usesOf(source).map(({ license, documents, rule, class: shade }) =>
        [`  licence: ${oneLine(license)} (${documents} documents; ${rule}, ${shade})`, ...linksOf(license)].join(" "),
      ),
      ...source.attributions.map((attribution) => `  attribution: ${oneLine(attribution)}`),
      ...source.terms.map((terms) => `  terms of use: ${oneLine(terms)}`),
      "",
    ]),
  ].join("\n")
}
