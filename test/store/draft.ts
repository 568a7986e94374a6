import { digest } from "../../src/model/Digest.ts"
import { artifactName } from "../../src/store/Manifest.ts"
import type { ManifestDraft } from "../../src/store/Store.ts"

/** What is known of an artifact before it is made. */
export const draft = (params: Readonly<Record<string, unknown>> = { size: 1 }): ManifestDraft => {
  const key = digest({ kind: "thing", params })
  return {
    artifact: artifactName("thing", key),
    kind: "thing",
    version: 1,
    key,
    identity: key,
    params,
    inputs: { from: [{ identity: digest("other"), artifact: "other-0123456789abcdef", part: "step_3" }] },
    code: digest("code"),
  }
}
