import { ALL_MODEL_LIBRARY_KEYS, PIPELINE_DATA } from "@huggingface/tasks"
import { Result } from "effect"
import { assert, describe, it } from "vitest"
import { cardProblems, LIBRARIES, PIPELINE_TAGS, withNewVersion } from "../../src/hub/FrontMatter.ts"
import { cardOf } from "./release.ts"

const nothing = { metrics: new Map(), files: new Set(["LICENSE"]) }
const problems = (matter: Readonly<Record<string, unknown>>) => cardProblems(cardOf(matter), nothing)

describe("front matter", () => {
  it("knows tasks and libraries that the Hub knows", () => {
    for (const tag of PIPELINE_TAGS) assert.property(PIPELINE_DATA, tag)
    for (const library of LIBRARIES) assert.include(ALL_MODEL_LIBRARY_KEYS, library as never)
  })

  it("is taken as the Hub takes it", async () => {
    const good = [
      {},
      { license: "other", license_name: "mine", license_link: "LICENSE" },
      { license: "other", license_name: "mine", license_link: "https://example.org/licence" },
      { license: "llama3.2" },
      { language: "it" },
      { language: ["pl", "szl", "zh-Hans", "pt-BR", "code"] },
      { datasets: ["wikimedia/wikipedia", "squad"] },
      { base_model: ["our-org/base"], new_version: "our-org/tiny-2" },
    ]
    for (const matter of good) assert.deepStrictEqual(await problems(matter), [], JSON.stringify(matter))
    const bad = [
      { license: "CC0-1.0" },
      { license: "other" },
      { license: "other", license_name: "mine", license_link: "TERMS" },
      { language: [] },
      { language: ["xx"] },
      { language: 5 },
      { tags: "one" },
      { datasets: ["https://huggingface.co/datasets/squad"] },
      { "model-index": [{ name: "tiny", results: [{ task: {}, dataset: { type: "a", name: "b" }, metrics: [] }] }] },
    ]
    for (const matter of bad) assert.isAbove((await problems(matter)).length, 0, JSON.stringify(matter))
  })

  it("is refused when it is not there, not YAML, says a thing twice, or grows when it is read", async () => {
    const bomb = ["a: &a [x, x, x]", "b: &b [*a, *a, *a]", "c: &c [*b, *b, *b]", "license: mit"].join("\n")
    for (const card of [
      "# tiny\n",
      "---\nlicense: [mit\n---\n",
      "---\nlicense: mit\nlicense: mit\n---\n",
      `---\n${bomb}\n---\n`,
    ])
      assert.lengthOf(await cardProblems(card, nothing), 1, card)
  })
})

it("a card gets a new version beside whatever it says already", async () => {
  const of = async (card: string) => Result.getOrThrow(await withNewVersion(card, "a/b"))
  assert.strictEqual(
    await of("---\nlicense: mit # mine\n---\n\n# x\n"),
    '---\nlicense: mit # mine\nnew_version: "a/b"\n---\n\n# x\n',
  )
  assert.strictEqual(await of("---\nnew_version: a/b\n---\n"), "---\nnew_version: a/b\n---\n")
  assert.strictEqual(await of("---\nnew_version: a/c\nx: 1\n---\n"), '---\nnew_version: "a/b"\nx: 1\n---\n')
  assert.strictEqual(await of("# x\n"), '---\nnew_version: "a/b"\n---\n\n# x\n')
  assert.strictEqual(
    await of("---\r\nlicense: mit\r\n---\r\n# x\r\n"),
    '---\r\nlicense: mit\r\nnew_version: "a/b"\r\n---\r\n# x\r\n',
  )
  assert.strictEqual(
    await of("---\r\nnew_version:\r\n  a/c # the next\r\nx: 1\r\n---\r\n"),
    '---\r\nnew_version: "a/b" # the next\r\nx: 1\r\n---\r\n',
  )
  assert.strictEqual(
    await of("---\nlicense: mit\nnew_version:\n  a/c\n---\n# x\n"),
    '---\nlicense: mit\nnew_version: "a/b"\n---\n# x\n',
  )
  assert.strictEqual(await of("---\nnew_version:\nx: 1\n---\n"), '---\nnew_version: "a/b"\nx: 1\n---\n')
  assert.strictEqual(
    await of('---\n"new_version": >-\n  a/\n  c\nx: 1\n---\n').then((card) => card.split("\n")[1]),
    'new_version: "a/b"',
  )
  assert.strictEqual(await of("---\n---\n# x\n"), '---\nnew_version: "a/b"\n---\n# x\n')
})

it("a card that cannot get a new version without losing something is left as it is", async () => {
  for (const card of [
    "---\nx: [\n---\n",
    "---\nlicense: mit\n# and no end\n",
    "---\n{ license: mit }\n---\n",
    "---\n- license\n---\n",
    "---\nnew_version: [a/c]\n---\n",
    "---\nlicense: mit\n...\nrest: x\n---\n",
    "---\ntext: |+\n  a\n\n# b\n\nnew_version: a/c\nnew_version: a/d\n---\n",
  ])
    assert.isTrue(Result.isFailure(await withNewVersion(card, "a/b")), card)
})
