import { assert, describe, expect, it } from "vitest"
import { pathProblem, pathProblems } from "../../src/hub/Paths.ts"
import { isRepository } from "../../src/model/Repository.ts"

describe("a path that is published", () => {
  it("is a plain one", () => {
    for (const path of [
      "README.md",
      "a/b/c.json",
      "zażółć/gęślą jaźń.txt",
      "日本語.md",
      "tiny-Q4_K_M.gguf",
      "#1 100%.md",
    ])
      assert.isUndefined(pathProblem(path), path)
  })

  it("leads nowhere else, is seen, and is a name under Windows too", () => {
    const bad = [
      "",
      "/etc/passwd",
      "C:/x",
      "a/../../b",
      "./a",
      "a//b",
      "a\\b",
      ".gitattributes",
      ".git/config",
      "a/.env",
      "GIT~1/config",
      "con",
      "NUL.txt",
      "a/COM1",
      "lpt².md",
      "a.",
      "a /b",
      " a",
      "a:b",
      "a?",
      "a\u0000b",
      "a\nb",
      "a\u202Eb",
      "a\u200Bb",
      "e\u0301.md",
      "\uD800",
      "x".repeat(201),
      "é".repeat(128),
    ]
    expect(bad.map((path) => `${JSON.stringify(path.slice(0, 20))}: ${pathProblem(path)}`)).toMatchInlineSnapshot(`
      [
        """: it is empty",
        ""/etc/passwd": it is not relative",
        ""C:/x": it is not relative",
        ""a/../../b": it leads elsewhere",
        ""./a": it leads elsewhere",
        ""a//b": one of its names is empty",
        ""a\\\\b": it has one of < > : " | ? * \\",
        "".gitattributes": it is hidden: its name begins with a dot",
        "".git/config": it is hidden: its name begins with a dot",
        ""a/.env": it is hidden: its name begins with a dot",
        ""GIT~1/config": git takes it for its own folder",
        ""con": one of its names is a device of Windows",
        ""NUL.txt": one of its names is a device of Windows",
        ""a/COM1": one of its names is a device of Windows",
        ""lpt².md": one of its names is a device of Windows",
        ""a.": one of its names ends in a dot or a space",
        ""a /b": one of its names ends in a dot or a space",
        "" a": one of its names begins with a space",
        ""a:b": it is not relative",
        ""a?": it has one of < > : " | ? * \\",
        ""a\\u0000b": it has a character that cannot be seen",
        ""a\\nb": it has a character that cannot be seen",
        ""a‮b": it has a character that cannot be seen",
        ""a​b": it has a character that cannot be seen",
        ""é.md": its accents are not composed (Unicode NFC)",
        ""\\ud800": it is no Unicode text",
        ""xxxxxxxxxxxxxxxxxxxx": it has more than 200 characters",
        ""éééééééééééééééééééé": one of its names is longer than 255 bytes",
      ]
    `)
  })

  it("is no other file's where case and accents make no difference", () => {
    expect(
      pathProblems([
        "A.md",
        "a.md",
        "Reports/x.md",
        "reports/y.md",
        "straße.md",
        "ﬁle",
        "file",
        "d",
        "d/e",
        "K.txt",
        "K.txt",
      ]),
    ).toMatchInlineSnapshot(`
      [
        ""A.md" and "a.md" are one file where case or accents make no difference",
        "the folders "Reports" and "reports" are one where case makes no difference",
        ""ﬁle" and "file" are one file where case or accents make no difference",
        ""K.txt" is there twice",
        ""d" is a file and a folder",
      ]
    `)
  })
})

it("a repository is called org/name", () => {
  for (const name of ["our-org/tiny", "a/b", "Ada_L/small.en-it_2"]) assert.isTrue(isRepository(name), name)
  for (const name of [
    "tiny",
    "a/b/c",
    "../x",
    "a/..",
    "a/b.git",
    "a/b--c",
    "a/-b",
    "a/b.",
    "a /b",
    "a/b?c",
    "",
    "a/",
    "é/b",
  ])
    assert.isFalse(isRepository(name), name)
})
