/**
 * How to cite a release: `CITATION.cff` (citation-file-format 1.2.0) for tools, a BibTeX entry for people. Neither has a date unless
 * the experiment states one: a release reads no clock.
 */
import { licenseOf } from "../model/License.ts"
import type { ReleaseFiles } from "./Folder.ts"
import { licenseLink } from "./License.ts"
import { oneLine } from "./Markdown.ts"

type Facts = ReleaseFiles["release"]

/** The format asks for an author: where the experiment names none, the release's own. */
const authorsOf = ({ authors, name }: Facts): ReadonlyArray<string> =>
  authors.length > 0 ? authors.map(oneLine) : [`The authors of ${name}`]

/** Data, never a template: a name may hold anything. */
export const citationFile = async ({ release, training }: ReleaseFiles): Promise<string> => {
  const { stringify } = await import("yaml")
  const license = licenseOf(release.license)
  const data = {
    "cff-version": "1.2.0",
    message: "If you use this model, please cite it as here.",
    title: release.name,
    authors: authorsOf(release).map((name) => ({ name })),
    version: `step ${training.released_step}`,
    ...(release.date === null ? {} : { "date-released": release.date }),
    // The format lists the identifiers it knows; what is none of SPDX's it would refuse.
    ...(license.rule === "unknown" || licenseLink(license.id) === null ? {} : { license: license.id }),
    keywords: ["language model", "small language model"],
  }
  return stringify(data, { version: "1.1", lineWidth: 0 })
}

/** Text between braces of an entry, in a fence: neither may be closed by it. */
const field = (text: string): string =>
  oneLine(text)
    .replace(/[\\{}`]/g, "")
    .replace(/[%$#&_~^]/g, "\\$&")

export const bibtex = (facts: Facts): string => {
  const fields: ReadonlyArray<readonly [string, string]> = [
    ["title", `{${field(facts.name)}}`],
    [
      "author",
      authorsOf(facts)
        .map((author) => `{${field(author)}}`)
        .join(" and "),
    ],
    ...(facts.date === null ? [] : ([["year", facts.date.slice(0, 4)]] as const)),
    ["note", `Language model, released at step ${facts.released_step}`],
  ]
  return [`@misc{${facts.name},`, ...fields.map(([name, value]) => `  ${name} = {${value}},`), "}"].join("\n")
}
