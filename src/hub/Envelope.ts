/**
 * The signature that goes with a publication: `provenance.dsse.json` is made when a release is sent, for what lies in the store is
 * never changed. The same key makes the same bytes, so that publishing again has nothing to do.
 */
import { existsSync } from "node:fs"
import * as Effect from "effect/Effect"
import { readSigningKey, signingKeyPath } from "../release/Keys.ts"
import { ENVELOPE } from "../release/Signature.ts"
import { signedEnvelope } from "../release/Signing.ts"
import type { ExtraFile } from "./ReleaseFiles.ts"

/** Signed with the key that was named, or with the user's own where there is one; unsigned otherwise. */
export const envelopeFor = Effect.fn("Envelope.for")(function* (folder: string, key: string | undefined) {
  const path = key ?? signingKeyPath()
  if (key === undefined && !existsSync(path)) return [] as ReadonlyArray<ExtraFile>
  const text = yield* signedEnvelope(folder, yield* readSigningKey(path))
  return [{ path: ENVELOPE, text }] as ReadonlyArray<ExtraFile>
})
