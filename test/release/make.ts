/** `node test/release/make.ts FOLDER`: a whole release of the fabricated run in FOLDER/release, with FOLDER/logits_check.json beside it. */
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect } from "effect"
import { assembleRelease } from "../../src/release/Bundle.ts"
import { fabricate } from "./fixture.ts"
import { referenceTexts } from "./reference.ts"

const folder = process.argv[2]!
const recommend = process.argv[3] === "greedy" ? "greedy" : "balanced"
const out = join(folder, "release")
mkdirSync(out, { recursive: true })
const input = { ...fabricate(join(folder, "artifacts"), { recommend }), out }
await Effect.runPromise(assembleRelease(input).pipe(Effect.provide(NodeServices.layer)))
writeFileSync(join(folder, "logits_check.json"), JSON.stringify({ texts: referenceTexts() }))
console.log(out)
