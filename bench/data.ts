/**
 * Memory and speed from a JSONL file to packed tokens: corpus, tokenizer and pack, each in a process of its own.
 *
 *     npx node bench/data.ts [megabytes] [vocabulary] [folder]
 *
 * The corpus (200 MB unless told) is made of sentences with numbers and made-up words, so that the distinct words grow with it as
 * in real text, and is removed afterwards. Peak memory is VmHWM of the process (Linux). Prints JSON.
 */
import { spawnSync } from "node:child_process"
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { Effect } from "effect"
import { stream } from "../src/model/Random.ts"

const bytesIn = (folder: string): number =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0)

const sentences =
  "the river rises at night and the boats move towards the mill|il fiume cresce di notte e le barche vanno verso il mulino|nobody counted the sheep before the rain came|perché così è più sicuro, disse la figlia del mugnaio|it's a heavy sack; they've carried three of them already|una volta spostati i sacchi, la strada era libera|the letter arrived in March, two years after it was sent|“Non lo so”, rispose, e chiuse la porta".split(
    "|",
  )

/** About 2 kB a document; a word in twenty is made up, of syllables, with a long tail. */
const make = (path: string, bytes: number): { readonly documents: number; readonly bytes: number } => {
  const random = stream(1, "bench:data")
  const syllables = "ba be co da di en fo ga ha in ka lo ma ne or pi qu ra se ta un ve wi zo".split(" ")
  const file = openSync(path, "w")
  let draws = 0
  let state = 1
  const below = (n: number): number => {
    if (draws++ % 4096 === 0) state = random.word(draws) | 1
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * n)
  }
  let written = 0
  let documents = 0
  while (written < bytes) {
    let batch = ""
    while (batch.length < 1 << 20) {
      let text = ""
      const length = 400 + below(3200)
      while (text.length < length) {
        const made = Array.from({ length: 2 + below(4) }, () => syllables[below(syllables.length)]).join("")
        text += `${sentences[below(sentences.length)]} ${made} ${below(10_000)}. `
      }
      batch += `${JSON.stringify({ id: `doc-${documents++}`, text, license: "CC0-1.0" })}\n`
    }
    written += writeSync(file, batch)
  }
  closeSync(file)
  return { documents, bytes: written }
}

const phases = {
  corpus: async (root: string) => {
    const { buildCorpus } = await import("../src/data/Corpus.ts")
    await Effect.runPromise(
      buildCorpus({ from: join(root, "from"), train: { en: ["bench"] }, out: join(root, "corpus") }),
    )
  },
  tokenizer: async (root: string, vocabulary: number) => {
    const { trainTokenizer } = await import("../src/data/TokenizerTraining.ts")
    await Effect.runPromise(
      trainTokenizer({ corpusFolder: join(root, "corpus"), vocabulary, out: join(root, "tokenizer") }),
    )
  },
  pack: async (root: string) => {
    const { packTokens } = await import("../src/data/Pack.ts")
    await Effect.runPromise(
      packTokens({
        corpusFolder: join(root, "corpus"),
        tokenizerFolder: join(root, "tokenizer"),
        context: 512,
        mix: "source_balanced",
        out: join(root, "pack"),
      }),
    )
  },
}
type Phase = keyof typeof phases

const peakMegabytes = (): number => {
  const line = /VmHWM:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))
  return Math.round((Number(line?.[1] ?? 0) * 1024) / 1e6)
}

if (process.argv[2] === "--phase") {
  const [phase, root, vocabulary] = process.argv.slice(3) as [Phase, string, string]
  const start = performance.now()
  await phases[phase](root, Number(vocabulary))
  console.log(JSON.stringify({ seconds: (performance.now() - start) / 1000, peakMegabytes: peakMegabytes() }))
} else {
  const megabytes = Number(process.argv[2] ?? 200)
  const vocabulary = process.argv[3] ?? "16384"
  const root = mkdtempSync(join(process.argv[4] ?? tmpdir(), "exp-bench-data-"))
  try {
    for (const folder of ["from", "corpus", "tokenizer", "pack"]) mkdirSync(join(root, folder))
    const made = make(join(root, "from/bench.jsonl"), megabytes * 1e6)
    console.log(JSON.stringify(made))
    for (const phase of Object.keys(phases)) {
      const run = spawnSync(process.execPath, [fileURLToPath(import.meta.url), "--phase", phase, root, vocabulary], {
        encoding: "utf8",
      })
      if (run.status !== 0) throw new Error(`${phase}: ${run.stderr}`)
      const { seconds, peakMegabytes } = JSON.parse(run.stdout)
      const diskMegabytes = Math.round(bytesIn(join(root, phase)) / 1e6)
      const megabytesPerSecond = Math.round(made.bytes / 1e5 / seconds) / 10
      console.log(
        JSON.stringify({
          phase,
          seconds: Math.round(seconds * 10) / 10,
          megabytesPerSecond,
          peakMegabytes,
          diskMegabytes,
        }),
      )
    }
  } finally {
    rmSync(root, { recursive: true })
  }
}
