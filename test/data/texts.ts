/** Texts of our own that tokenizers stumble over, and what the live comparisons share. */
import { spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { gunzipSync } from "node:zlib"

export const hostile: ReadonlyArray<string> = [
  "",
  " ",
  "\n",
  "a",
  "Plain words, then a stop.",
  "it's we're they've I'm he'll she'd can't IT'S WE'RE 'tis ''s 'sand o'clock 'reed 'l 'v '",
  "L'acqua dell'isola; perché così, città, più, é e\u0301 n\u0303",
  "Zażółć gęślą jaźń — „cudzysłów” …",
  "emoji 😀 family 👩‍👩‍👧‍👦 flag 🇮🇹 skin 👍🏽 keycap 1️⃣",
  "漢字とかな混じり文。中文没有空格。한국어 띄어쓰기",
  "العربية من اليمين עברית हिन्दी ไทย ខ្មែរ",
  "combining a\u0300\u0301\u0302\u0303 zalgo t\u0336e\u0336x\u0336t\u0336",
  "control \u0000 \u0001 \u0007 \u001b[31m \u007f \u0080 \u009f end",
  "CRLF\r\nline\r\n\r\nCR\ronly\r and\u0085next\u2028line\u2029par",
  "no\u00a0break thin\u2009space ideographic\u3000space ogham\u1680mark zero\u200bwidth bom\ufeffmid mongolian\u180evowel",
  "\ufeffstarts with a mark",
  "   leading, trailing   ",
  `spaces${" ".repeat(500)}and tabs${"\t".repeat(40)}x`,
  "\n\n\n  \n\t\n x\n \n",
  "digits 0123456789 3.14 1,000,000 ½ ² Ⅻ ٣٤ ५ 1st 2nd x86_64",
  "= == === !== => ... ?!?! --- *** /* */ // # @user http://example.org/a?b=c&d=e#f",
  "const f = (x: number): string => `$" + "{x}`; // snake_case camelCase",
  "<|bos|> literal <|eos|> and <|pad|> in a page",
  "__proto__ constructor toString hasOwnProperty",
  "private \ue000 unassigned \u0378 noncharacter \uffff last \u{10ffff} tag \u{e0041}",
  "newer letters \u{16ea0}\u{1e6c0} ࢏ౝ\u088f\u0c5c beside abc",
  "a".repeat(3000),
  "ab".repeat(700),
  "=".repeat(1000),
  "漢".repeat(400),
  "aaaaaaaaab bbbbbbbbba abababab",
]

/** Sentences a small vocabulary can be learned from. */
export const lessons: ReadonlyArray<string> = [
  "The miller's daughter counts the sacks: one sack, two sacks, three sacks. The sacks are heavy and the daughter is tired.",
  "It's raining on the river, and the river is rising. They've moved the boats; we'll move the sheep before the night.",
  "La figlia del mugnaio conta i sacchi: un sacco, due sacchi, tre sacchi. I sacchi sono pesanti e la figlia è stanca.",
  "Piove sul fiume e il fiume cresce. Hanno spostato le barche; noi sposteremo le pecore prima della notte, perché così è più sicuro.",
  "Counting is slow; counting again is slower. Contare è lento, contare di nuovo è più lento. 1 2 3, 10 20 30, 100 200 300.",
  "The the the the. aaaa aaaa aaaaaaaa ababab ababab.\n\n  Two  spaces,\ta tab, and an end…",
]

export const sharedData = resolve(process.env.EXP_SHARED_DATA ?? join(import.meta.dirname, "../../../shared/data"))

/** Why a test on the shared data cannot run here, if it cannot. */
export const noSharedData = existsSync(join(sharedData, "tiny"))
  ? undefined
  : `no shared data at EXP_SHARED_DATA (default ../shared/data)`

export const tinySources = ["books_en", "books_it", "web_en", "web_it", "wiki_en", "wiki_it"] as const

export const tinyTexts = (): ReadonlyArray<string> =>
  tinySources.flatMap((source) =>
    gunzipSync(readFileSync(join(sharedData, "tiny", `${source}.jsonl.gz`)))
      .toString("utf8")
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => (JSON.parse(line) as { readonly text: string }).text),
  )

const python = process.env.EXP_PYTHON ?? "python3"

/** Why the Python library cannot be asked here, if it cannot. */
export const noPython = (() => {
  const run = spawnSync(python, ["-c", "import tokenizers"], { encoding: "utf8" })
  return run.status === 0
    ? undefined
    : (run.error?.message ?? run.stderr.trim().split("\n").at(-1) ?? "no reason given")
})()

/** Runs a Python program with a JSON value as `given`; what it assigns to `answer` comes back. */
export const askPython = (program: string, given: unknown): unknown => {
  const folder = mkdtempSync(join(tmpdir(), "exp-python-"))
  try {
    writeFileSync(join(folder, "given.json"), JSON.stringify(given))
    const whole = `import json, sys\ngiven = json.load(open(sys.argv[1], encoding="utf-8"))\n${program}\njson.dump(answer, open(sys.argv[2], "w"))`
    const run = spawnSync(python, ["-c", whole, join(folder, "given.json"), join(folder, "answer.json")], {
      encoding: "utf8",
    })
    if (run.status !== 0) throw new Error(run.stderr)
    return JSON.parse(readFileSync(join(folder, "answer.json"), "utf8"))
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Trains with the library; `given` has texts and vocabulary. */
export const trainWithPython = `
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
def trained(texts, vocabulary):
    new = Tokenizer(models.BPE())
    new.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    new.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocabulary, min_frequency=2, show_progress=False,
        special_tokens=["<|bos|>", "<|eos|>", "<|pad|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return new
def merges(new):
    return [" ".join(merge) for merge in json.loads(new.to_str())["model"]["merges"]]
`
