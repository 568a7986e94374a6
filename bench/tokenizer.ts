/**
 * Training and encoding speed beside the Rust library, on the same text in the same run.
 *
 *     npx node bench/tokenizer.ts [megabytes] [vocabulary]
 *
 * Reads `$EXP_SHARED_DATA/corpus/*.parquet` (default `../shared/data`). The library is measured when `$EXP_PYTHON` (default
 * `python3`) can import `tokenizers`; both merge lists are then compared too. Prints JSON.
 */
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { availableParallelism, tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { Effect, Stream } from "effect"
import { BpeTrainer } from "../src/data/BpeTrainer.ts"
import { documentsOf, locate } from "../src/data/Source.ts"
import { BpeTokenizer, specialTokens, writeTokenizer } from "../src/data/Tokenizer.ts"

const megabytes = Number(process.argv[2] ?? 40)
const vocabulary = Number(process.argv[3] ?? 16_384)
const shared = resolve(process.env.EXP_SHARED_DATA ?? join(import.meta.dirname, "../../shared/data"))
const python = process.env.EXP_PYTHON ?? "python3"

const program = `
import json, sys, time, hashlib
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
texts = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
size = sum(len(text.encode()) for text in texts) / 1e6
new = Tokenizer(models.BPE())
new.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
trainer = trainers.BpeTrainer(vocab_size=int(sys.argv[3]), min_frequency=2, special_tokens=json.loads(sys.argv[4]),
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
start = time.perf_counter()
new.train_from_iterator(texts, trainer)
train = time.perf_counter() - start
merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in json.loads(new.to_str())["model"]["merges"]]
ours = Tokenizer.from_file(sys.argv[2])
start = time.perf_counter()
tokens = sum(len(each.ids) for each in ours.encode_batch(texts, add_special_tokens=False))
encode = time.perf_counter() - start
print(json.dumps({"trainSeconds": train, "encodeMBs": size / encode, "tokens": tokens,
    "merges": hashlib.sha256("\\n".join(merges).encode()).hexdigest()}))
`

const texts: Array<string> = []
let bytes = 0
for (const file of readdirSync(join(shared, "corpus")).sort()) {
  const located = await Effect.runPromise(locate(join(shared, "corpus"), file.replace(/\.parquet$/, "")))
  await Effect.runPromise(
    documentsOf(located).pipe(
      Stream.runForEach(({ text }) =>
        Effect.sync(() => {
          if (bytes > megabytes * 1e6) return
          texts.push(text)
          bytes += Buffer.byteLength(text)
        }),
      ),
    ),
  )
}

let start = performance.now()
const trainer = new BpeTrainer()
for (const text of texts) trainer.add(text)
const countSeconds = (performance.now() - start) / 1000
const trained = await Effect.runPromise(trainer.train({ vocabulary, specialTokens }))
const trainSeconds = (performance.now() - start) / 1000

const tokenizer = new BpeTokenizer(trained)
start = performance.now()
let tokens = 0
for (const text of texts) tokens += tokenizer.encode(text).length
const encodeMBs = bytes / 1e6 / ((performance.now() - start) / 1000)
const merges = createHash("sha256").update(trained.merges.join("\n")).digest("hex")

const ours = { trainSeconds, countSeconds, encodeMBs, tokens, merges, threads: 1 }
const folder = mkdtempSync(join(tmpdir(), "exp-bench-"))
try {
  const textFile = join(folder, "texts.jsonl")
  writeFileSync(textFile, texts.map((text) => `${JSON.stringify(text)}\n`).join(""))
  await writeTokenizer(folder, trained)
  const run = spawnSync(
    python,
    ["-c", program, textFile, join(folder, "tokenizer.json"), String(vocabulary), JSON.stringify(specialTokens)],
    { encoding: "utf8", maxBuffer: 1 << 26 },
  )
  const library =
    run.status === 0
      ? { ...JSON.parse(run.stdout), threads: availableParallelism() }
      : `skipped: ${run.error?.message ?? run.stderr.trim().split("\n").at(-1)}`
  const same = run.status === 0 ? library.merges === merges && library.tokens === tokens : undefined
  console.log(JSON.stringify({ megabytes: bytes / 1e6, vocabulary, ours, library, same }, null, 2))
} finally {
  rmSync(folder, { recursive: true })
}
