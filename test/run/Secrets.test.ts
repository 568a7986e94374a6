import { afterEach, assert, describe, it, vi } from "vitest"
import { secretOf, withoutSecrets } from "../../src/run/Secrets.ts"

afterEach(() => void vi.unstubAllEnvs())

// Put together here, so that no scanner takes this file for a leak.
const token = `hf_${"canary12".repeat(3)}`

describe("secrets of a run", () => {
  it("are taken out of the words of others in an event, and nothing else is: names of artifacts are read back", () => {
    vi.stubEnv("SOME_PASSWORD", "correct horse")
    vi.stubEnv("POSTGRES_PASSWORD", "train-0123456789ab")
    const event = {
      _tag: "StepFailed",
      step: "train-0123456789ab",
      error: `403 for https://me:pass@example.org/x with ${token}, correct horse`,
      of: [{ path: "/tmp/aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1/x", at: 3, none: null }],
    }
    assert.deepStrictEqual(withoutSecrets(event), {
      ...event,
      error: "403 for https://<redacted>@example.org/x with <redacted>, <redacted>",
    })
  })

  it("are known by their form, or as the value of a variable that is named for one", () => {
    assert.isNull(secretOf([`corpus=experiments/corpus`, "const key = digest(step)"]))
    assert.strictEqual(secretOf(["plain", `// ${token}`]), "a Hugging Face token")
    vi.stubEnv("THEIR_API_KEY", "0123456789")
    assert.strictEqual(secretOf(["x 0123456789"]), "the value of a secret environment variable")
    vi.stubEnv("THEIR_API_KEY", "short")
    assert.isNull(secretOf(["a short one"]))
  })

  it("are no mere words, and no number of tokens", () => {
    vi.stubEnv("POSTGRES_PASSWORD", "benchmark")
    vi.stubEnv("MAX_TOKENS", "1234567890")
    vi.stubEnv("TOKENIZER_NAME", "tokenizer-v2")
    assert.isNull(secretOf(["yield* benchmark({ model, tokens: 1234567890 }), tokenizer-v2"]))
  })

  it("are not the places where secrets lie: a folder's name is in every path below it", () => {
    vi.stubEnv("PASSWORD_STORE_DIR", "/home/somebody")
    assert.isNull(secretOf(["corpus=/home/somebody/texts"]))
    assert.deepStrictEqual(withoutSecrets({ text: "/home/somebody/runs" }), { text: "/home/somebody/runs" })
  })
})
