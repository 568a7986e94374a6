/**
 * The last line of a test run, in a form that people and scripts read alike: `N passed, N failed, N skipped`.
 */
import type { Reporter, TestModule } from "vitest/node"

export default class ClosingLine implements Reporter {
  onTestRunEnd(modules: ReadonlyArray<TestModule>, unhandled: ReadonlyArray<unknown>): void {
    const tally = { passed: 0, failed: unhandled.length, skipped: 0 }
    for (const module of modules) {
      if (module.state() === "failed" && module.children.size === 0) tally.failed++
      for (const test of module.children.allTests()) {
        const { state } = test.result()
        if (state !== "pending") tally[state]++
      }
    }
    // after vitest's own summary
    process.once("exit", () => {
      process.stdout.write(`${tally.passed} passed, ${tally.failed} failed, ${tally.skipped} skipped\n`)
    })
  }
}
