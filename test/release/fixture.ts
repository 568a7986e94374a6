/** Artifacts of a run that never happened, but whose figures agree: what a release is assembled from in these tests. */
import { createHash } from "node:crypto"
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { type Architecture, parameterCount, tensors } from "../../src/model/Architecture.ts"
import { defaultOptimizer } from "../../src/model/Checkpoint.ts"
import { greedy, standardPresets } from "../../src/model/Decoding.ts"
import { type LrSchedule, lrAt } from "../../src/model/LrSchedule.ts"
import type { Measured, SourceLoss } from "../../src/model/Report.ts"
import type { ReleaseInput } from "../../src/release/Bundle.ts"
import type { Provenance } from "../../src/release/Provenance.ts"

export interface Fabrication {
  /** Put wherever somebody else's words can stand. */
  readonly words?: string
  readonly recommend?: "greedy" | "balanced"
  readonly license?: string
  /** Of the texts; CC-BY-SA-4.0 unless said. */
  readonly sourceLicense?: string
  /** Release the parent itself, without a decay. */
  readonly stable?: boolean
  /** That trained it; tfjs unless said. */
  readonly engine?: { readonly name: string; readonly precision: string }
}

const random = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296
}

/** GPT-2's printable stand-ins for bytes: themselves where they print, else the next free code points from 256. */
export const byteSymbols = (): ReadonlyArray<string> => {
  const prints = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
  let next = 256
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(prints(byte) ? byte : next++))
}

const specials = ["<|bos|>", "<|eos|>", "<|pad|>"]
/** Bytes only, but for one merge; ids 0–2 are special. */
const tokenizerJson = () => {
  const space = byteSymbols()[32]!
  const entries = [...specials, ...byteSymbols(), `${space}t`]
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specials.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: specials[0], type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
      special_tokens: { [specials[0]!]: { id: specials[0], ids: [0], tokens: [specials[0]] } },
    },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(entries.map((entry, id) => [entry, id])),
      merges: [`${space} t`],
    },
  }
}
export const VOCABULARY = 260

export const architecture: Architecture = {
  family: "gpt2",
  layers: 2,
  width: 16,
  heads: 2,
  context: 64,
  vocabulary: VOCABULARY,
}

/** Weights large enough that a wrong transpose shows. */
export const weights = (): ReadonlyMap<string, Float32Array> => {
  const draw = random(7)
  return new Map(
    tensors(architecture).map(({ name, shape, init }) => [
      name,
      Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => {
        const normal = Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw())
        return "constant" in init ? init.constant + 0.1 * normal : 0.3 * normal
      }),
    ]),
  )
}

const safetensors = (): Buffer => {
  let offset = 0
  const header: Record<string, unknown> = {}
  const parts: Array<Buffer> = []
  for (const { name, shape } of tensors(architecture)) {
    const data = weights().get(name)!
    header[name] = { dtype: "F32", shape, data_offsets: [offset, offset + data.byteLength] }
    offset += data.byteLength
    parts.push(Buffer.from(data.buffer))
  }
  const json = Buffer.from(JSON.stringify(header))
  const padded = Buffer.concat([json, Buffer.alloc((8 - (json.length % 8)) % 8, " ")])
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(padded.length))
  return Buffer.concat([length, padded, ...parts])
}

const PARENT = 40
const DECAY = 10
const RELEASED = 45
const ROWS = 4

const decaying: LrSchedule = {
  peakLr: 1e-3,
  warmupSteps: 5,
  decay: { startStep: PARENT, steps: DECAY, finalLr: 1e-5, shape: "1-sqrt" },
}

export const provenance: Provenance = {
  volatile: true,
  started: "2026-11-21T10:00:00.000Z",
  finished: "2026-11-21T11:00:00.000Z",
  git: {
    commit: "0123456789abcdef0123456789abcdef01234567",
    branch: "main",
    remotes: { origin: "https://example.org/us/exp.git" },
    dirty: false,
    diff: "",
    untracked: [],
  },
  gitAbsent: null,
  packageLockSha256: "ab".repeat(32),
  node: "v24.0.0",
  platform: "linux-x64",
  cpu: "a processor",
  cores: 2,
  memoryBytes: 8_000_000_000,
  engine: { name: "tfjs", numerics: 1, precision: "fp32", version: "4.22.0", backend: "wasm" },
}

/** Writes the artifacts below `folder`; the input still needs `out`. */
export const fabricate = (folder: string, options: Fabrication = {}): Omit<ReleaseInput, "out"> => {
  const words = options.words ?? "plain words"
  const released = options.stable === true ? PARENT : RELEASED
  const decaySteps = options.stable === true ? 0 : DECAY
  const schedule: LrSchedule = options.stable === true ? { peakLr: 1e-3, warmupSteps: 5 } : decaying
  const draw = random(11)
  const text = (path: string, content: string | Buffer) => {
    mkdirSync(join(folder, path, ".."), { recursive: true })
    writeFileSync(join(folder, path), content)
  }
  const json = (path: string, value: unknown) => text(path, `${JSON.stringify(value, null, 2)}\n`)
  const lines = (path: string, values: ReadonlyArray<unknown>) =>
    text(path, values.map((value) => `${JSON.stringify(value)}\n`).join(""))
  const round = (value: number) => Math.round(value * 1e6) / 1e6

  const perStep = ROWS * architecture.context
  const candidate = options.stable === true ? `stable ${PARENT}` : `stable ${PARENT} → step ${released}`
  const model = {
    candidate,
    step: released,
    parent_step: PARENT,
    tokens_seen: released * perStep,
    parameters: parameterCount(architecture),
  }

  json("tokenizer/tokenizer.json", tokenizerJson())
  json("tokenizer/tokenizer_config.json", { tokenizer_class: "PreTrainedTokenizerFast", unk_token: null })

  const sourceNames = [
    { source: options.words === undefined ? "wiki-en" : words, language: "en", role: "train" },
    { source: "wiki-it", language: "it", role: "train" },
    { source: "books-en", language: "en", role: "evaluate" },
  ] as const
  json("corpus/inventory.json", {
    sources: sourceNames.map(({ source, language, role }, i) => ({
      source,
      language,
      role,
      file: `${i}.jsonl`,
      sha256: String(i).repeat(64),
      licenses: {
        [options.sourceLicense ?? "CC-BY-SA-4.0"]: 90 + i,
        ...(options.words === undefined ? {} : { [words]: 1 }),
      },
      attributions: [`Wikipedia contributors ${i}`, words],
      terms: options.words === undefined ? [] : [words],
      parts: Object.fromEntries(
        ["train", "validation", "holdout"].map((part, j) => [
          part,
          {
            documents: 70 + 10 * i - j,
            bytes: 9000 + 7 * i + j,
            characters: 8000 + 5 * i + j,
            words: 1500 + 3 * i + j,
          },
        ]),
      ),
    })),
  })
  const sources = sourceNames.map(({ source, language, role }, i) => {
    const rawTokens = role === "train" ? 6_431 + 700 * i : 0
    const rows = Math.floor(rawTokens / architecture.context)
    return {
      source,
      language,
      role,
      startToken: i === 1 ? 6_431 : 0,
      rawTokens,
      packedTokens: rows * architecture.context,
      droppedTokens: rawTokens - rows * architecture.context,
      firstRow: i === 1 ? 100 : 0,
      rows,
      weight: role === "train" ? 0.5 : 0,
    }
  })
  json("tokens/tokens.json", {
    context: architecture.context,
    vocabulary: VOCABULARY,
    dtype: "uint16",
    bosId: 0,
    eosId: 1,
    padId: 2,
    mix: "source_balanced",
    languages: ["en", "it"],
    sources,
    shards: [{ file: "train-00000.bin", part: "train", tokens: 13_562 }],
  })

  const file = safetensors()
  text("checkpoint/model.safetensors", file)
  const engine = { name: "tfjs", precision: "fp32", ...options.engine, numerics: 1 }
  json("checkpoint/state.json", {
    step: released,
    tokensSeen: released * perStep,
    rowCursor: released * ROWS,
    architecture,
    schedule,
    optimizer: defaultOptimizer,
    rowsPerStep: ROWS,
    seed: 1337,
    engine,
    modelSha256: createHash("sha256").update(file).digest("hex"),
  })

  const step = (n: number) => ({
    step: n,
    loss: round(5.5 - n / 40 + draw() / 10),
    lr: lrAt(schedule, n - 1),
    grad_norm: round(1 + draw()),
    tokens_seen: n * perStep,
  })
  const validation = (n: number) => {
    const en = round(4.9 - n / 100)
    const it = round(3.9 - n / 90)
    const mixed = 0.5 * en + 0.5 * it
    return {
      step: n,
      tokens_seen: n * perStep,
      val_loss_mixed: mixed,
      ci95: [mixed - 0.1, mixed + 0.1],
      val_loss: { en, it },
      source_loss: { "wiki-en": en, "wiki-it": it },
      weights: { "wiki-en": 0.5, "wiki-it": 0.5 },
      documents: 10,
      tokens: 1200,
    }
  }
  const sample = (n: number) => ({ step: n, language: "en", prompt: words, generated: `${words} ${n}` })
  const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i + 1)
  // Training went on past the parent: those lines are no part of the released model.
  lines(
    "training/metrics.jsonl",
    range(0, 60).map((n) => ({ ...step(n), lr: lrAt({ peakLr: 1e-3, warmupSteps: 5 }, n - 1) })),
  )
  lines("training/eval_metrics.jsonl", [20, 40, 60].map(validation))
  lines("training/probe_generations.jsonl", [20, 40, 60].map(sample))
  lines("decay/metrics.jsonl", range(PARENT, PARENT + DECAY).map(step))
  lines("decay/eval_metrics.jsonl", [45, 50].map(validation))
  lines("decay/probe_generations.jsonl", [45, 50].map(sample))

  // Documents, and everything that follows from them.
  const measure = (part: string) => {
    const documents = sourceNames.flatMap(({ source }, s) =>
      range(0, 5).map((n) => {
        const tokens = 60 + Math.floor(draw() * 80)
        const textNll = round(tokens * (3 + s / 2 + draw()))
        return {
          id: `${part}-${s}-${n}`,
          source,
          nll: round(textNll + draw()),
          text_nll: textNll,
          tokens,
          bytes: tokens * 4 + n,
        }
      }),
    )
    const losses: ReadonlyArray<SourceLoss> = sourceNames.map(({ source, language, role }) => {
      const own = documents.filter((document) => document.source === source)
      const sum = (key: "nll" | "text_nll" | "tokens" | "bytes") => own.reduce((total, d) => total + d[key], 0)
      const loss = sum("nll") / sum("tokens")
      return {
        source,
        language,
        role,
        weight: role === "train" ? 0.5 : 0,
        loss,
        ci95: [loss - 0.2, loss + 0.2],
        perplexity: Math.exp(loss),
        bits_per_byte: sum("text_nll") / (Math.LN2 * sum("bytes")),
        documents: own.length,
        tokens: sum("tokens"),
        bytes: sum("bytes"),
      }
    })
    const mixed = 0.5 * losses[0]!.loss + 0.5 * losses[1]!.loss
    const documentMetric = (value: number): Measured => ({
      value,
      ci95: [value - 0.1, value + 0.1],
      n: 10,
      unit: "documents",
    })
    const metrics: Record<string, Measured> = {
      val_loss_mixed: documentMetric(mixed),
      ppl_mixed: documentMetric(Math.exp(mixed)),
      val_loss_en: documentMetric(losses[0]!.loss),
      ppl_en: documentMetric(Math.exp(losses[0]!.loss)),
      val_loss_it: documentMetric(losses[1]!.loss),
      ppl_it: documentMetric(Math.exp(losses[1]!.loss)),
    }
    return { documents, losses, metrics }
  }
  const share = (count: number, of: number): Measured => ({
    value: count / of,
    ci95: [Math.max(0, count / of - 0.15), Math.min(1, count / of + 0.15)],
    n: of,
    unit: "samples",
  })
  const behaviour = (base: number): Record<string, Measured> => ({
    loop_rate: share(base, 40),
    repeated_4gram_rate: share(base + 9, 40),
    completion_rate: share(39, 40),
    eos_rate: share(3, 40),
    distinct_2: { value: 0.4591 + base / 100, ci95: [0.41, 0.71], n: 40, unit: "samples" },
    distinct_2_mean: { value: 0.5113 + base / 100, ci95: [0.42, 0.72], n: 40, unit: "samples" },
    language_consistency_en: share(19, 20),
    language_consistency_it: share(16, 20),
  })
  const onValidation = measure("validation")
  const onHoldout = measure("holdout")
  const metrics = { ...onValidation.metrics, ...behaviour(21) }
  json("benchmark/benchmark_metrics.json", {
    model,
    metrics,
    mix: {
      mode: "source_balanced",
      weights: Object.fromEntries(sourceNames.filter((s) => s.role === "train").map((s) => [s.source, 0.5])),
    },
  })
  json("benchmark/benchmark_source_losses.json", { model, sources: onValidation.losses })
  json("benchmark/benchmark_scores.json", { model, documents: onValidation.documents })
  const probe = (
    language: string,
    prompt: string,
    expected: string,
    kind: string,
    rank: number,
    probability: number,
  ) => ({
    language,
    kind,
    prompt,
    expected,
    correct_token_rank: rank,
    rank_ties: 0,
    correct_token_probability: probability,
    perplexity_on_target_sequence: 1 / probability,
    target_tokens: 1,
    top: [
      { token: ` ${words}`, probability: 0.41 },
      { token: " the", probability: 0.11 },
    ],
  })
  json("benchmark/probes.json", {
    model,
    probes: [
      probe("en", options.words === undefined ? "The capital of Italy is" : words, "Rome", "factual", 1, 0.41),
      probe("it", "La capitale d'Italia è", "Roma", "factual", 7, 0.023),
    ],
  })
  const generation = (preset: string, i: number) => ({
    preset,
    prompt_id: `p${i}`,
    language: "en",
    prompt: words,
    generated: `${words} …`,
    token_ids: [10 + i, 11, 12],
    finish: "length",
    detected_language: "en",
  })
  lines(
    "benchmark/behaviour_generations.jsonl",
    [0, 1].map((i) => generation("greedy", i)),
  )

  const rival = (n: number, by: number, p: number, tied: boolean) => ({
    ...model,
    candidate: `stable ${PARENT} → step ${n}`,
    step: n,
    tokens_seen: n * perStep,
    metrics: {
      val_loss_mixed: { value: metrics.val_loss_mixed!.value + by, ci95: [3.1, 4.9], n: 10, unit: "documents" },
    },
    winner: false,
    tied,
    difference: { value: by, ci95: [by - 0.02, by + 0.02], p: p / 2, p_holm: p },
  })
  json("selection/comparison.json", {
    by: "val_loss_mixed",
    direction: "lowest",
    candidates: [
      { ...model, metrics, winner: true, tied: false },
      rival(50, 0.004, 0.44, true),
      rival(40, 0.19, 0.002, false),
    ],
    bootstrap: { samples: 10_000, seed: 5 },
    words,
  })
  const { metrics: heldMetrics, losses: heldLosses, documents } = onHoldout
  json("selection/holdout.json", { model, metrics: heldMetrics, sources: heldLosses, documents, words })

  const judged = standardPresets.filter(({ name }) => name === "balanced" || name === "greedy")
  const chosen = judged.find(({ name }) => name === (options.recommend ?? "balanced")) ?? greedy
  const others = judged.filter((preset) => preset !== chosen)
  const leaderboard = (base: number) =>
    [chosen, ...others].map((preset, i) => ({
      preset: preset.name,
      rank: i + 1,
      score: -(0.5 + i),
      ruled_out: false,
      z: { distinct_2_mean: 0.3 + i, rep_4: 0.7 + i },
      metrics: behaviour(base + i),
    }))
  json("sweep/decoding_summary.json", {
    objective: "distance_to_real_text",
    presets: judged,
    recommended: chosen,
    max_new_tokens: 16,
    seed: 99,
    prompts: { tuning: 2, holdout: 3 },
    reference: { distinct_2_mean: { mean: 0.91, sd: 0.04 }, rep_4: { mean: 0.02, sd: 0.013 } },
    tuning: leaderboard(2),
    holdout: leaderboard(5),
    confirmed: true,
    words,
  })
  const prompt = (i: number) => ({
    id: `p${i}`,
    language: "en",
    source: "wiki-en",
    document: `d${i}`,
    text: words,
    continuation: words,
  })
  json("sweep/prompts.json", { tuning: [0, 1].map(prompt), holdout: [2, 3, 4].map(prompt), behaviour: [5].map(prompt) })
  for (const part of ["tuning", "holdout"]) {
    lines(
      `sweep/${part}_generations.jsonl`,
      judged.flatMap((preset) => [0, 1].map((i) => generation(preset.name, i))),
    )
    const rows = leaderboard(part === "tuning" ? 2 : 5)
    text(
      `sweep/${part}_leaderboard.csv`,
      [
        "rank,preset,score,loop_rate,loop_rate_low,loop_rate_n,z_rep_4",
        ...rows.map(
          (r) =>
            `${r.rank},"${r.preset}",${r.score},${r.metrics["loop_rate"]!.value},${r.metrics["loop_rate"]!.ci95![0]},40,${r.z.rep_4}`,
        ),
      ]
        .join("\n")
        .concat("\n"),
    )
  }

  return {
    name: "tiny-en-it",
    license: options.license ?? "CC-BY-SA-4.0",
    ...(options.words !== undefined && { licensing: { override: words }, authors: [words], datasets: [words] }),
    template: "small-lm",
    artifacts: Object.fromEntries(
      ["corpus", "tokenizer", "tokens", "checkpoint", "training", "decay", "benchmark", "selection", "sweep"]
        .filter((name) => name !== "decay" || options.stable !== true)
        .map((name) => [name, join(folder, name)]),
    ) as unknown as ReleaseInput["artifacts"],
    experiment: {
      name: options.words ?? "tiny-en-it",
      source: "// What does a model of two layers learn?\n",
      plan: "corpus → tokenizer → pack → train → decay → release\n",
      parameters: {},
      keys: { corpus: "aa".repeat(32), [options.words ?? "train"]: "bb".repeat(32) },
      parentStep: PARENT,
      decaySteps,
      releasedStep: released,
      schedule,
      architecture,
      seed: 1337,
      optimizer: defaultOptimizer,
      rowsPerStep: ROWS,
    },
    provenance,
  }
}
