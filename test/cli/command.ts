import { type ChildProcess, spawn } from "node:child_process"
import * as fs from "node:fs"
import { join } from "node:path"
import { onTestFinished } from "vitest"

export const root = join(import.meta.dirname, "../..")

export interface Said {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

export interface Started {
  readonly child: ChildProcess
  readonly ended: Promise<Said>
  /** Resolves when this was printed. */
  readonly said: (text: string) => Promise<void>
}

/** Starts `exp` as a user does, in a folder. */
export const start = (cwd: string, ...args: ReadonlyArray<string>): Started => {
  const child = spawn(process.execPath, [join(root, "bin/exp"), ...args], {
    cwd,
    env: { ...process.env, TZ: "UTC", NO_COLOR: "1" },
    stdio: ["ignore", "pipe", "pipe"],
  })
  onTestFinished(() => void child.kill("SIGKILL"))
  let out = ""
  let err = ""
  const waiting: Array<() => void> = []
  child.stdout.on("data", (chunk) => {
    out += chunk
    for (const check of waiting) check()
  })
  child.stderr.on("data", (chunk) => {
    err += chunk
  })
  return {
    child,
    ended: new Promise((resolve) => child.on("close", (code) => resolve({ code, out, err }))),
    said: (text) =>
      new Promise((resolve) => {
        const check = () => {
          if (out.includes(text)) resolve()
        }
        waiting.push(check)
        check()
      }),
  }
}

export const exp = (cwd: string, ...args: ReadonlyArray<string>): Promise<Said> => start(cwd, ...args).ended

/** What was printed, with what differs from run to run filtered. */
export const shown = ({ code, out, err }: Said): string =>
  [`exit ${code}`, out.trimEnd(), err === "" ? "" : `stderr:\n${err.trimEnd()}`]
    .filter(Boolean)
    .join("\n")
    .replaceAll(/\b\d{12}(_[a-z]+)(-\d+)?/g, "<minute>$1") // the second run of one minute ends in -2
    .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, "<time>")
    .replaceAll(/ *\b\d+(\.\d+)? m?s\b/g, " <duration>")
    .replaceAll(/\b(corpus|tokenizer|slow|pack)-[0-9a-f]{16}\b/g, "$1-<key>")
    .replaceAll(root, "<exp>")

const sentences = {
  en: ["The river runs to the sea", "A cat sleeps in the sun", "We read old books at night", "Rain falls on the roof"],
  it: ["Il fiume corre verso il mare", "Un gatto dorme al sole", "La pioggia cade sul tetto", "Leggiamo vecchi libri"],
}

/** Two languages, forty short documents each. */
export const writeCorpus = (folder: string): void => {
  fs.mkdirSync(join(folder, "texts"))
  for (const [language, lines] of Object.entries(sentences))
    fs.writeFileSync(
      join(folder, "texts", `web_${language}.jsonl`),
      Array.from({ length: 40 }, (_, n) =>
        JSON.stringify({
          id: `${language}-${n}`,
          text: `${lines[n % 4]}, ${n}. ${lines[(n + 1) % 4]}.`,
          license: "CC0-1.0",
        }),
      ).join("\n"),
    )
}

export const experimentText = (
  vocabulary: string | number = 300,
): string => `import { corpus, experiment, tokenizer } from "exp"

export default experiment("tiny", { vocabulary: ${JSON.stringify(vocabulary)}, seed: 1 }, function* (set) {
  const split = { validation: 0.2, holdout: 0.2, minimumDocuments: 1 }
  const texts = yield* corpus({ from: "texts", train: { en: ["web_en"], it: ["web_it"] }, split })
  return yield* tokenizer({ corpus: texts, vocabulary: set.vocabulary })
})
`
