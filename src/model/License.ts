/**
 * What the licences of texts allow for a model that learned from them: a table and the rules over it.
 *
 * Whether a model is a derivative of the texts it was trained on is not settled law, anywhere. These rules are the *cautious* reading:
 * they treat the model as adapted material of everything it was trained on. So a share-alike text asks for the same licence, a
 * no-derivatives text allows none, and attribution is owed. Who reads the law otherwise says so in a written reason, which the card
 * prints. This is no legal advice.
 *
 * | rule               | licences                                                       | a release may be under                        |
 * |--------------------|----------------------------------------------------------------|-----------------------------------------------|
 * | `public-domain`    | CC0, PDDL, Unlicense, 0BSD, …                                   | any licence                                   |
 * | `attribution`      | CC-BY, ODC-By, MIT, Apache, BSD, CDLA-Permissive, …             | any that keeps attribution; who is known      |
 * | `share-alike`      | CC-BY-SA, ODbL, CDLA-Sharing, GFDL, MPL, EUPL, OFL, …           | the same, or one it names compatible          |
 * | `copyleft`         | GPL, LGPL, AGPL                                                 | the same, a later version where "or later"    |
 * | `non-commercial`   | CC-BY-NC…                                                       | one that is non-commercial too                |
 * | `no-derivatives`   | …-ND                                                            | none                                          |
 * | `unknown`          | `NOASSERTION`, `LicenseRef-…`, what is no SPDX expression       | none                                          |
 * | `no-training`      | terms that forbid training, whatever the licence                | none                                          |
 *
 * Licences are SPDX expressions: `AND` asks for both, `OR` leaves the choice, `WITH` only adds permissions and is read without them;
 * `X+` is X or a later version, read as X where no later one is known. A release may be under what is named here, or under terms of its
 * own as a `LicenseRef-…`: of anything else nobody knows whether it keeps attribution.
 * **White** are texts whose licence allows every use, **grey** all others: good for research, and not for a release without limits.
 */
import type { SourceInventory } from "./Corpus.ts"
import { didYouMean } from "./DidYouMean.ts"

export type Rule =
  | "public-domain"
  | "attribution"
  | "share-alike"
  | "copyleft"
  | "non-commercial"
  | "no-derivatives"
  | "unknown"
  | "no-training"

export type Class = "white" | "grey"

export interface License {
  /** SPDX identifier in SPDX's own spelling, as far as it is known. */
  readonly id: string
  readonly rule: Exclude<Rule, "no-training">
  readonly class: Class
  /** Whether a model that learned from such texts may be released under another licence. */
  readonly allows: (release: License) => boolean
  /** What it allows, in words that follow "may go on". */
  readonly onward: string
  /** Other licences it names, of which the usual list has not each. */
  readonly also?: ReadonlyArray<string>
}

const words = (text: string): ReadonlyArray<string> => text.trim().split(/\s+/)

const PUBLIC_DOMAIN = words("CC0-1.0 PDDL-1.0 CC-PDDC Unlicense 0BSD MIT-0 WTFPL")
const ATTRIBUTION =
  words(`MIT Apache-1.1 Apache-2.0 BSD-1-Clause BSD-2-Clause BSD-3-Clause BSD-3-Clause-Clear BSD-4-Clause ISC Zlib
  BSL-1.0 NCSA PostgreSQL Python-2.0 PSF-2.0 AFL-3.0 ECL-2.0 Artistic-2.0 ODC-By-1.0 CDLA-Permissive-1.0 CDLA-Permissive-2.0
  etalab-2.0 OGL-UK-1.0 OGL-UK-2.0 OGL-UK-3.0 NLOD-1.0 NLOD-2.0 DL-DE-BY-2.0`)
/** Share-alike and weak copyleft: the same licence, or one that its own text names. */
const SAME: Readonly<Record<string, ReadonlyArray<string>>> = {
  "ODbL-1.0": [],
  "CDLA-Sharing-1.0": [],
  "LAL-1.2": ["LAL-1.3"],
  "LAL-1.3": ["CC-BY-SA-4.0"],
  "OSL-3.0": [],
  "MPL-2.0": words(
    "GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later AGPL-3.0-only AGPL-3.0-or-later",
  ),
  "EPL-1.0": [],
  "EPL-2.0": [],
  "OFL-1.1": [],
  "EUPL-1.1": ["EUPL-1.2"],
  "EUPL-1.2": words("GPL-2.0-only GPL-3.0-only AGPL-3.0-only MPL-2.0 OSL-3.0 CC-BY-SA-3.0"),
}

const inSpelling = new Map(
  [...PUBLIC_DOMAIN, ...ATTRIBUTION, ...Object.keys(SAME)].map((id) => [id.toLowerCase(), id] as const),
)

const listed = (ids: ReadonlyArray<string>): string =>
  ids.length < 2 ? ids.join("") : `${ids.slice(0, -1).join(", ")} or ${ids.at(-1)}`

/** A licence of one's own, as SPDX spells it. */
const isOwn = (id: string): boolean => /^(?:DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+$/.test(id)
const isUnnamed = ({ id, rule }: License): boolean => rule === "unknown" && !isOwn(id)

/** Attribution licences that terms of the GNU family cannot be added to: advertising clauses, clauses on patents. */
const ADVERTISING = words("BSD-4-Clause Apache-1.1 AFL-3.0")
const PATENTS = words("Apache-2.0 ECL-2.0")
const joins = (id: string, release: License): boolean => {
  const free = gnu(release.id)
  if (free === undefined) return true
  // version 3 was written to take in Apache-2.0; who gets an `-or-later` may choose the version before
  return !ADVERTISING.includes(id) && (!PATENTS.includes(id) || free.family === "GFDL" || free.version >= 30)
}
const publicDomain = (id: string): License => ({
  id,
  rule: "public-domain",
  class: "white",
  allows: () => true,
  onward: "under any licence",
})
const attribution = (id: string): License => ({
  id,
  rule: "attribution",
  class: "white",
  allows: (release) => release.rule !== "public-domain" && joins(id, release),
  onward: `under any licence that keeps attribution, so not as public domain${
    ADVERTISING.includes(id)
      ? ", nor under the GPL"
      : PATENTS.includes(id)
        ? ", nor under the GPL before version 3"
        : ""
  }`,
})
const nothing = (id: string, rule: "no-derivatives" | "unknown", onward: string): License => ({
  id,
  rule,
  class: "grey",
  allows: () => false,
  onward,
})
export const unknownLicense = (id: string): License =>
  nothing(id, "unknown", "under no licence, as nobody knows what it allows")

/** `CC-BY-NC-SA-3.0-IGO`: its elements, version and port. */
const creativeCommons = (id: string) => {
  const match = /^CC-BY(-NC)?(?:(-SA)|(-ND))?-(\d)\.(\d)(-[A-Z]{2,3})?(\+)?$/i.exec(id)
  if (match === null) return undefined
  const [, nc, sa, nd, major, minor, port, plus] = match
  return {
    id: id.toUpperCase().replace("+", ""),
    nonCommercial: nc !== undefined,
    shareAlike: sa !== undefined,
    noDerivatives: nd !== undefined,
    version: Number(major) * 10 + Number(minor),
    /** Version 1.0 alone has no word of later ones. */
    later: plus !== undefined || `${major}.${minor}` !== "1.0",
    port: port?.toUpperCase() ?? "",
  }
}

const creativeCommonsLicense = (own: NonNullable<ReturnType<typeof creativeCommons>>): License => {
  const { id, nonCommercial, shareAlike, noDerivatives, version, later } = own
  const terms = { id, class: nonCommercial ? "grey" : "white" } as const
  if (noDerivatives) return nothing(id, "no-derivatives", "under no licence, as adapted material may not be shared")
  if (shareAlike) {
    // CC's compatible licences: both for 4.0 alone, and GPL-3.0 as it is, without "or later".
    const compatible = version === 40 && !nonCommercial ? ["GPL-3.0-only", "LAL-1.3"] : []
    return {
      ...terms,
      rule: nonCommercial ? "non-commercial" : "share-alike",
      allows: (release) => {
        const other = creativeCommons(release.id)
        if (other === undefined) return compatible.includes(release.id)
        const sameElements = other.shareAlike && other.nonCommercial === nonCommercial
        return sameElements && (later ? other.version >= version : other.version === version)
      },
      onward: `only under ${listed([...new Set([id.replace(own.port, ""), later ? `a later version of it` : id, ...compatible])])}`,
      also: [id.replace(own.port, ""), ...compatible],
    }
  }
  if (!nonCommercial) return attribution(id)
  return {
    ...terms,
    rule: "non-commercial",
    allows: (release) => creativeCommons(release.id)?.nonCommercial === true,
    onward: "only under a licence that is non-commercial too",
  }
}

/** `GPL-2.0`, `GPL-2.0+` and the like are old spellings of `-only` and `-or-later`. */
const gnu = (id: string) => {
  const match = /^(A?GPL|LGPL|GFDL)-(\d)\.(\d)(?:-(?:no-)?invariants)?(-only|-or-later|\+)?$/i.exec(id)
  if (match === null) return undefined
  const [, name, major, minor, suffix] = match
  const later = suffix === "+" || suffix?.toLowerCase() === "-or-later"
  const family = name!.toUpperCase()
  return {
    id: `${family}-${major}.${minor}${later ? "-or-later" : "-only"}`,
    family,
    version: Number(major) * 10 + Number(minor),
    later,
  }
}

const gnuLicense = (own: NonNullable<ReturnType<typeof gnu>>): License => {
  const { id, family, version, later } = own
  const fits = (other: NonNullable<ReturnType<typeof gnu>>, from: number): boolean =>
    later ? other.version >= from : other.version === from && !other.later
  return {
    id,
    rule: family === "GFDL" ? "share-alike" : "copyleft",
    class: "white",
    allows: (release) => {
      const other = gnu(release.id)
      if (other === undefined) return false
      if (other.family === family) return fits(other, version)
      // LGPL 2.1 section 3 gives leave to go on under GPL 2 or any later one; LGPL 3 is GPL 3 with more permissions.
      if (family !== "LGPL" || other.family !== "GPL") return false
      return version < 30 ? other.version >= 20 : fits(other, version)
    },
    onward: later
      ? `only under ${id.replace("-or-later", "")} or a later version of it`
      : `only under ${id}${family === "LGPL" ? " or the GPL of that time" : ""}`,
    also: later ? [id.replace("-or-later", "-only")] : [],
  }
}

/** Later versions that the table has. */
const laterOf = (id: string): ReadonlyArray<string> => {
  const [, family, version] = /^(.+)-(\d+\.\d+)$/.exec(id)!
  return Object.keys(SAME).filter((other) => other.startsWith(`${family}-`) && other > `${family}-${version}`)
}

/** What is known of one SPDX identifier; spelling of capitals does not count, as SPDX has it. */
export const licenseOf = (id: string): License => {
  const known = inSpelling.get(id.toLowerCase().replace(/\+$/, ""))
  if (known !== undefined && Object.hasOwn(SAME, known)) {
    const also = [...new Set([...SAME[known]!, ...(id.endsWith("+") ? laterOf(known) : [])])]
    return {
      id: known,
      rule: "share-alike",
      class: "white",
      allows: (release) => release.id === known || also.includes(release.id),
      onward: `only under ${listed([known, ...also])}`,
      also,
    }
  }
  if (known !== undefined) return PUBLIC_DOMAIN.includes(known) ? publicDomain(known) : attribution(known)
  const commons = creativeCommons(id)
  if (commons !== undefined) return creativeCommonsLicense(commons)
  const free = gnu(id)
  if (free !== undefined) return gnuLicense(free)
  // Somebody's word that a text is in the public domain, as ELTeC and scancode give it: taken as other licences are taken.
  if (/^LicenseRef-(?:scancode-)?public-domain\b/i.test(id)) return publicDomain(id)
  return unknownLicense(id)
}

export type Expression =
  | { readonly _tag: "License"; readonly license: License }
  | { readonly _tag: "And" | "Or"; readonly of: ReadonlyArray<Expression> }

/** Deeper than this is no licence of a text; the parser calls itself for each parenthesis. */
const MAX_TOKENS = 200

/** An SPDX licence expression; what is none is one unknown licence. */
export const parseExpression = (text: string): Expression => {
  const unknown: Expression = { _tag: "License", license: unknownLicense(text) }
  const tokens = text.match(/[()]|[^\s()]+/g) ?? []
  if (tokens.length === 0 || tokens.length > MAX_TOKENS) return unknown
  let at = 0
  const one = (): Expression | undefined => {
    const token = tokens[at++]
    if (token === "(") {
      const inner = joined("Or", () => joined("And", one))
      return tokens[at++] === ")" ? inner : undefined
    }
    if (token === undefined || !/^[A-Za-z0-9][A-Za-z0-9.:-]*\+?$/.test(token) || /^(?:and|or|with)$/i.test(token))
      return undefined
    if (/^with$/i.test(tokens[at] ?? "")) {
      const exception = tokens[at + 1]
      if (exception === undefined || !/^[A-Za-z0-9][A-Za-z0-9.-]*$/.test(exception)) return undefined
      at += 2
    }
    return { _tag: "License", license: licenseOf(token) }
  }
  const joined = (tag: "And" | "Or", part: () => Expression | undefined): Expression | undefined => {
    const of: Array<Expression> = []
    do {
      const next = part()
      if (next === undefined) return undefined
      of.push(next)
    } while (tokens[at]?.toUpperCase() === tag.toUpperCase() && ++at > 0)
    return of.length === 1 ? of[0] : { _tag: tag, of }
  }
  const whole = joined("Or", () => joined("And", one))
  return whole !== undefined && at === tokens.length ? whole : unknown
}

/** All licences an expression names, each once. */
export const licensesIn = (expression: Expression): ReadonlyArray<License> => {
  if (expression._tag === "License") return [expression.license]
  const all = expression.of.flatMap(licensesIn)
  return all.filter((license, index) => all.findIndex(({ id }) => id === license.id) === index)
}

/** The licence that stands against a release, or `undefined` when none does. */
const against = (expression: Expression, release: ReadonlyArray<License>): License | undefined => {
  if (expression._tag === "License")
    return release.every((one) => expression.license.allows(one)) ? undefined : expression.license
  const each = expression.of.map((part) => against(part, release))
  return expression._tag === "And"
    ? each.find((one) => one !== undefined)
    : each.includes(undefined)
      ? undefined
      : each[0]
}

const both = (expression: Expression, holds: (license: License) => boolean): boolean =>
  expression._tag === "License"
    ? holds(expression.license)
    : expression._tag === "And"
      ? expression.of.every((part) => both(part, holds))
      : expression.of.some((part) => both(part, holds))

export const classOf = (expression: Expression): Class =>
  both(expression, (license) => license.class === "white") ? "white" : "grey"

/**
 * Whether terms of use forbid training: reservations that machines read (TDMRep, `noai`), and plain sentences. A sentence that is
 * misread blocks too much rather than too little, and its source is named.
 */
export const forbidsTraining = (terms: string): boolean => FORBIDDING.some((pattern) => pattern.test(terms))

const TRAINING = String.raw`(?:(?:pre-?)?train(?:ing|ed)?|fine-?tun(?:e|ed|ing)|(?:machine|deep)[- ]learning|(?:text|data)[- ]mining|tdm|ai|artificial intelligence|language models?|llms?)\b`
/** "No restrictions on training", "no permission is needed for it", "need not": words that only look like a ban. */
const NO_BAN = String.raw`(?! (?:(?:further|other|special|specific) )?(?:restrict|limit))(?! (?:[\w-]+ ){1,3}(?:is|are) (?:needed|required|necessary)\b)(?! (?:be )?(?:need|required|necessary))`
const FORBIDDING: ReadonlyArray<RegExp> = [
  /\bno(?:image)?ai\b/i,
  /\bno[- ](?:ai|training|tdm)\b/i,
  /\btdm[-_ ]?reservation["']?\s*(?:content\s*)?[:=]\s*["']?1\b/i,
  /\bcontent\s*=\s*["']?1\b[^<>]*\btdm[-_ ]?reservation\b/i,
  new RegExp(String.raw`\b(?:not|never|cannot|no)\b${NO_BAN}[^.;]{0,80}\b${TRAINING}`, "i"),
  new RegExp(
    String.raw`\b(?:prohibit|forbid|disallow|exclud|reserv|opt(?:s|ed|ing)?[- ]?out)\w*[^.;]{0,80}\b${TRAINING}`,
    "i",
  ),
  new RegExp(
    String.raw`\b${TRAINING}[^.;]{0,80}\b(?:prohibited|forbidden|disallowed|excluded|reserved|opt(?:s|ed|ing)?[- ]?out|not (?:be )?(?:allowed|permitted))\b`,
    "i",
  ),
]

/** What of a source the rules look at. */
export type Rights = Pick<SourceInventory, "source" | "role" | "licenses" | "attributions" | "terms">

/** A licence, or terms, of one source that stand against a release. */
export interface Objection {
  readonly source: string
  readonly license: string
  readonly documents: number
  readonly rule: Rule
  /** Follows `<licence> (<n> documents)`. */
  readonly reason: string
}

const documentsOf = ({ licenses }: Rights): number => Object.values(licenses).reduce((sum, n) => sum + n, 0)

/** The one objection that saying something takes away. */
export const nobodyNamed = "asks for attribution, and no record of the source says to whom"

/** What stands against a release of a model trained on these sources; those only measured on do not bind it. */
export const objections = (release: string, sources: ReadonlyArray<Rights>): ReadonlyArray<Objection> => {
  const asked = licensesIn(parseExpression(release))
  const unnamed = asked.some(isUnnamed)
  return sources
    .filter(({ role }) => role === "train")
    .flatMap((rights): ReadonlyArray<Objection> => {
      const { source } = rights
      const forbidden = rights.terms.filter(forbidsTraining).map((terms) => ({
        source,
        license: terms,
        documents: documentsOf(rights),
        rule: "no-training" as const,
        reason: "terms that forbid training, so no licence can allow a release",
      }))
      const licensed = Object.entries(rights.licenses).flatMap(([license, documents]): ReadonlyArray<Objection> => {
        if (unnamed) {
          const reason = `${JSON.stringify(release)} is no licence that is known, so nobody knows what it keeps`
          return [{ source, license, documents, rule: "unknown", reason }]
        }
        const expression = parseExpression(license)
        const opposed = against(expression, asked)
        if (opposed !== undefined) {
          const other = opposed.id === license ? "" : `${opposed.id} `
          return [{ source, license, documents, rule: opposed.rule, reason: `${other}may go on ${opposed.onward}` }]
        }
        if (rights.attributions.length > 0 || both(expression, ({ rule }) => rule === "public-domain")) return []
        return [{ source, license, documents, rule: "attribution", reason: nobodyNamed }]
      })
      return [...forbidden, ...licensed]
    })
}

/** Licences that a hint may name, those that ask for least first. */
export const candidateLicenses: ReadonlyArray<string> =
  words(`CC0-1.0 CC-BY-4.0 Apache-2.0 MIT ODC-By-1.0 CC-BY-SA-4.0 CC-BY-SA-3.0 ODbL-1.0 CDLA-Sharing-1.0 GFDL-1.3-or-later
  MPL-2.0 EUPL-1.2 LGPL-2.1-only LGPL-3.0-only GPL-2.0-only GPL-3.0-only GPL-3.0-or-later AGPL-3.0-only CC-BY-NC-4.0 CC-BY-NC-SA-4.0
  CC-BY-NC-SA-3.0`)

/** Release licences that nothing stands against, among the usual ones and those that the texts' own name: themselves first of all. */
export const possibleLicenses = (sources: ReadonlyArray<Rights>): ReadonlyArray<string> => {
  const named = sources
    .flatMap(({ licenses }) => Object.keys(licenses))
    .flatMap((license) => licensesIn(parseExpression(license)))
    .flatMap(({ id, also = [] }) => [id, ...also])
    .filter((id) => !isOwn(id))
  return [...new Set([...candidateLicenses, ...named])].filter((license) => objections(license, sources).length === 0)
}

/** What is wrong with the licence that a release or a file shall be under, whatever its texts say. */
export const licenseProblem = (license: string): { readonly problem: string; readonly hint: string } | undefined => {
  const unnamed = licensesIn(parseExpression(license)).find(isUnnamed)
  if (unnamed === undefined) return undefined
  const meant = didYouMean(unnamed.id, [...candidateLicenses, ...inSpelling.values()])
  return {
    problem: `\`${license}\` is no licence that is known of SPDX's list`,
    hint: `terms of one's own are \`LicenseRef-<name>\`; ${
      meant === undefined ? `else one such as ${listed(candidateLicenses.slice(0, 6))}` : `did you mean \`${meant}\`?`
    }`,
  }
}

/** The class of a model: white only when every text it was trained on is, and none of its terms forbid training. */
export const classOfSources = (sources: ReadonlyArray<Rights>): Class =>
  sources
    .filter(({ role }) => role === "train")
    .every(
      ({ licenses, terms }) =>
        Object.keys(licenses).every((license) => classOf(parseExpression(license)) === "white") &&
        !terms.some(forbidsTraining),
    )
    ? "white"
    : "grey"

/** The rule that a licence of texts falls under: of both the stricter, of a choice the milder. */
export const ruleOf = (license: string): License["rule"] => {
  const strictness = (expression: Expression): number =>
    expression._tag === "License"
      ? STRICTER.indexOf(expression.license.rule)
      : Math[expression._tag === "And" ? "max" : "min"](...expression.of.map(strictness))
  return STRICTER[strictness(parseExpression(license))]!
}

const STRICTER: ReadonlyArray<License["rule"]> = [
  "public-domain",
  "attribution",
  "share-alike",
  "copyleft",
  "non-commercial",
  "no-derivatives",
  "unknown",
]
