import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { afterAll, onTestFinished } from "vitest"

/** An empty folder on the real file system, gone when the test is over. */
export const temporaryFolder = (): string => {
  const folder = mkdtempSync(join(tmpdir(), "exp-test-"))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** The same for a suite, gone after its last test. */
export const suiteFolder = (): string => {
  const folder = mkdtempSync(join(tmpdir(), "exp-test-"))
  afterAll(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** The same, gone when its scope is closed. */
export const temporary = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "exp-test-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true })),
)
