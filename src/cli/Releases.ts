/** Where the releases of a run lie, and what is said of a name that was to be one. */
import { existsSync } from "node:fs"
import { join } from "node:path"
import { SUMS } from "../release/Sums.ts"
import type { RunRecord } from "../run/RunFolder.ts"
import type { RunNotFound } from "../run/Tags.ts"
import { NotFound } from "./Errors.ts"

/** Where a run's releases are in its store, or were: runs may have been moved since the record was written. */
export const placesOf = (runs: string, { steps }: RunRecord): ReadonlyArray<string> =>
  steps
    .filter(({ artifact }) => artifact.startsWith("release-"))
    .map(({ artifact }) => join(runs, "store", artifact, "release"))

/** Release folders of a run, where they lie now. */
export const releasesOf = (runs: string, record: RunRecord): ReadonlyArray<string> => {
  const inStore = placesOf(runs, record).filter(existsSync)
  return inStore.length > 0 ? inStore : record.releases.filter(existsSync)
}

/** It is no run either: a folder that is there is told from a name that nothing has. */
export const noRelease =
  (target: string) =>
  (error: RunNotFound): NotFound | RunNotFound => {
    // a tag whose run is gone
    if (error.name !== target) return error
    return existsSync(target)
      ? new NotFound({
          what: `\`${target}\` is no release: it has no ${SUMS}`,
          hint: "a release is the folder that `exp run` names at its end",
        })
      : new NotFound({ what: `there is no folder, run or tag \`${target}\``, hint: error.hint })
  }
