/** Licences as a release tells them: its own by SPDX identifier and link, those of its sources with their attributions. */
import type { Inventory } from "../model/Corpus.ts"
import { oneLine } from "./Markdown.ts"

/** Identifiers the Hugging Face Hub knows, in its spelling (SPDX in lower case). */
const HUB: ReadonlySet<string> = new Set(
  `afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc cc-by-2.0 cc-by-2.5 cc-by-3.0
  cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
  cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0
  eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ncsa odbl odc-by ofl-1.1 osl-3.0 pddl
  postgresql unlicense wtfpl zlib`.split(/\s+/),
)

const isSpdx = (license: string): boolean => /^[A-Za-z0-9][A-Za-z0-9.+-]*$/.test(license)

export const licenseLink = (license: string): string | null =>
  isSpdx(license) ? `https://spdx.org/licenses/${license}.html` : null

/** For the card's metadata: `license`, or `other` with a name and a link. */
export const hubLicense = (license: string): { readonly [key: string]: string } => {
  const id = license.toLowerCase().replace(/-(only|or-later)$/, "")
  if (HUB.has(id)) return { license: id }
  const known = id === "odc-by-1.0" ? "odc-by" : id === "odbl-1.0" ? "odbl" : null
  return known === null ? { license: "other", license_name: license, license_link: "LICENSE" } : { license: known }
}

export const licenseText = (name: string, license: string): string => {
  const link = licenseLink(license)
  return [
    `${name}: weights, tokenizer and the files of this folder`,
    "",
    `SPDX-License-Identifier: ${oneLine(license)}`,
    ...(link === null ? [] : ["", `The text of the licence: ${link}`]),
    "",
    "The texts the model learned from keep their own licences: see NOTICE.",
    "",
  ].join("\n")
}

/** Every source with the file it was read from, its licences by number of documents, and the attributions found in it. */
export const noticeText = (name: string, inventory: Inventory): string =>
  [
    `${name} was made from these texts`,
    "",
    ...inventory.sources.flatMap((source) => [
      `${oneLine(source.source)} (${oneLine(source.language)}; ${source.role === "train" ? "learned from" : "measured on only"})`,
      `  file: ${oneLine(source.file)}`,
      `  sha256: ${source.sha256}`,
      ...Object.entries(source.licenses).map(
        ([license, documents]) =>
          `  licence: ${oneLine(license)} (${documents} documents)${licenseLink(license) === null ? "" : ` ${licenseLink(license)}`}`,
      ),
      ...source.attributions.map((attribution) => `  attribution: ${oneLine(attribution)}`),
      "",
    ]),
  ].join("\n")
