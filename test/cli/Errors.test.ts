import { globSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "vitest"
import { root } from "./command.ts"

/** Names of tagged errors that only carry another one, and say what it says. */
const CARRIERS = ["StepFailed", "CouldNotVerify"]

/** Every tagged error class that the product declares: its name, and the text of its body. */
const declared = globSync("src/**/*.ts", { cwd: root })
  .sort()
  .flatMap((file) => {
    const text = readFileSync(join(root, file), "utf8")
    return [...text.matchAll(/^(?:export )?class (\w+) extends Schema\.TaggedError.*?^\}$/gms)].map(
      ([body, name]) => [name!, file, body] as const,
    )
  })

describe("what goes wrong and is expected", () => {
  it("has a class of its own in many places", () => assert.isAtLeast(declared.length, 25))

  it.for(declared)("says what to do next: %s in %s", ([name, , body]) => {
    if (CARRIERS.includes(name)) return
    assert.match(body, /get message\(\)/, "its message would be empty")
    assert.match(body, /\\n {2}hint: |["`] {2}hint: |hintOf\(/)
  })
})
