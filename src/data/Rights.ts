/**
 * What the licences of texts are, as far as can be told before any of them is brought here or read through: by what the experiment says
 * of its data sets, and by the first records of each file. What stands against a release here stands against it for good; what is not
 * seen yet may still come, and is looked for when the corpus is there.
 */
import * as Effect from "effect/Effect"
import type { SourceRights } from "../model/Corpus.ts"
import type { Rights } from "../model/License.ts"
import { find, type LocatedSource, list, noLicense, ownRecordsOf, rightsIn, sourceErrorOf } from "./Source.ts"

/** Records of a file that are looked at. */
const FIRST = 500

export interface RightsAhead {
  /** As `corpus` takes them. */
  readonly from?: string | undefined
  readonly train: { readonly [language: string]: ReadonlyArray<string> }
  readonly rights?: { readonly [source: string]: SourceRights } | undefined
  /** Data sets that will be brought: their records say nothing of rights, the experiment says all. */
  readonly texts: ReadonlyArray<SourceRights & { readonly source: string }>
}

/** Nobody has counted them yet. */
const SOME = 0

const sure = (source: string, { license = noLicense, attribution, terms }: SourceRights): Rights => ({
  source,
  role: "train",
  licenses: { [license]: SOME },
  attributions: attribution === undefined ? [] : [attribution],
  terms: terms === undefined ? [] : [terms],
})

/** Who is to be named may stand in a record that was not looked at, so nobody is missed here. */
const ANYBODY = "somebody"

const peek = (file: LocatedSource, said: SourceRights): Effect.Effect<Rights, unknown> =>
  Effect.tryPromise({
    try: async () => {
      const licenses = new Set<string>()
      const terms = new Set<string>()
      let seen = 0
      for await (const records of ownRecordsOf(file)) {
        for (const fields of records.slice(0, FIRST - seen)) {
          const { license, terms: own = said.terms } = rightsIn(file, fields)
          licenses.add(license === noLicense ? (said.license ?? noLicense) : license)
          if (own !== undefined) terms.add(own)
        }
        seen += records.length
        if (seen >= FIRST) break
      }
      return {
        source: file.source,
        role: "train" as const,
        licenses: Object.fromEntries([...licenses].map((license) => [license, SOME])),
        attributions: [ANYBODY],
        terms: [...terms],
      }
    },
    catch: sourceErrorOf(file.file),
  })

/** Of the sources that are learned from. One that cannot be read is left to the step that reads it. */
export const rightsAhead = Effect.fn("data.rightsAhead")(function* ({ from, train, rights = {}, texts }: RightsAhead) {
  const known: Array<Rights> = []
  const listing = from === undefined ? undefined : yield* Effect.result(list(from))
  for (const source of Object.values(train).flat()) {
    const own = Object.hasOwn(rights, source) ? rights[source]! : {}
    const brought = texts.find((one) => one.source === source)
    if (brought !== undefined) known.push(sure(source, { ...brought, ...own }))
    else if (from !== undefined && listing?._tag === "Success") {
      const found = yield* Effect.result(Effect.flatMap(find(from, listing.success, source), (file) => peek(file, own)))
      if (found._tag === "Success") known.push(found.success)
    }
  }
  return known
})
