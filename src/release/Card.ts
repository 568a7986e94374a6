/**
 * The model card and the reports beside it, made from a release folder and nothing else.
 *
 * Handlebars fills the templates of `release-templates/<template>/` with strings that are ready to print: `strict`, no prototype
 * access, no helper that computes. Every string that carries a figure or a foreign word is a citation of one place in one file
 * (`Citation.ts`). Front matter is serialised as data, never templated. Clock, machine and git stay in `provenance.json`: the
 * card of two runs of one experiment is the same bytes.
 */
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import type { Architecture, LlamaArchitecture } from "../model/Architecture.ts"
import { byCodeUnit } from "../model/ByCodeUnit.ts"
import { sha256 } from "../model/Digest.ts"
import { classOf, parseExpression, ruleOf } from "../model/License.ts"
import type { Measured } from "../model/Report.ts"
import {
  type Citation,
  Citations,
  decimal,
  exact,
  integer,
  MissingFigure,
  percent,
  scientific,
  unmark,
  untracedNumbers,
} from "./Citation.ts"
import { bibtex, citationFile } from "./CitationFile.ts"
import { checkConsistency } from "./Consistency.ts"
import { fileNames, type ReleaseFiles, readFolder, torchName, weightsName } from "./Folder.ts"
import { classOfSources, hubLicense, licenseLink, licenseText, licensingOf, noticeText, objections } from "./License.ts"
import { code, inline, literal, oneLine } from "./Markdown.ts"
import { differences, firstOnHoldout, limitations, noise, strengths } from "./Quality.ts"
import {
  type ReleaseError,
  ReleaseInconsistent,
  ReleaseInputUnreadable,
  ReleaseTemplateBroken,
  unreadable,
} from "./ReleaseError.ts"
import { filesBelow, SUMS, sha256OfFile, unsummed } from "./Sums.ts"

export interface Rendered {
  readonly text: string
  /** The text with every citation between marks (`Citation.ts`), front matter included. */
  readonly marked: string
  readonly citations: ReadonlyArray<Citation>
  /** Numbers in the text (front matter left out) that come from the template and not from a file: none, in a good template. */
  readonly untraced: ReadonlyArray<string>
}

export interface TemplateOptions {
  /** Folder that holds a folder of templates by name. */
  readonly templates?: string
}

const ownTemplates = (): string => fileURLToPath(new URL("../../release-templates", import.meta.url))

/** A list in one line, of parts already safe. */
const list = (items: ReadonlyArray<string>): string => (items.length === 0 ? "none" : items.join(", "))

/** Everything the templates may use. Strings are Markdown, safe in a line and in a table cell. */
const context = (cite: Citations) => {
  const { files } = cite
  const { training, tokens, benchmark, comparison, decoding, evaluation } = files
  const names = fileNames(files.release)
  const by = evaluation.by

  const candidates = comparison.candidates.map((candidate, i) => {
    const value = cite.measured("comparison", (file) => file.candidates[i]!.metrics[by])
    return {
      name: cite.text("comparison", (file) => file.candidates[i]!.candidate),
      step: cite.number("comparison", (file) => file.candidates[i]!.step, integer),
      parentStep: cite.number("comparison", (file) => file.candidates[i]!.parent_step, integer),
      tokensSeen: cite.number("comparison", (file) => file.candidates[i]!.tokens_seen, integer),
      parameters: cite.number("comparison", (file) => file.candidates[i]!.parameters, integer),
      ...value,
      verdict: candidate.winner
        ? "**released**"
        : candidate.tied
          ? "tied"
          : candidate.difference === undefined
            ? "not tested"
            : "worse",
      difference:
        candidate.difference === undefined
          ? "–"
          : cite.number("comparison", (file) => file.candidates[i]!.difference?.value),
      differenceInterval: cite.interval("comparison", (file) => file.candidates[i]!.difference?.ci95),
      p:
        candidate.difference === undefined
          ? "–"
          : cite.number("comparison", (file) => file.candidates[i]!.difference?.p),
      pHolm:
        candidate.difference === undefined
          ? "–"
          : cite.number("comparison", (file) => file.candidates[i]!.difference?.p_holm),
      metrics: Object.keys(candidate.metrics).map((name) => ({
        name: cite.key("comparison", (file) => file.candidates[i]!.metrics, name, code),
        ...cite.measured("comparison", (file) => file.candidates[i]!.metrics[name]),
      })),
    }
  })

  const sourceRows = (key: "sourceLosses" | "holdout") =>
    files[key].sources.map((source, i) => ({
      source: cite.text(key, (file) => file.sources[i]!.source),
      language: cite.text(key, (file) => file.sources[i]!.language),
      role: source.role === "train" ? "learned from" : "measured only",
      weight: cite.number(key, (file) => file.sources[i]!.weight),
      loss: cite.number(key, (file) => file.sources[i]!.loss),
      interval: cite.interval(key, (file) => file.sources[i]!.ci95),
      perplexity: cite.number(key, (file) => file.sources[i]!.perplexity),
      bitsPerByte: cite.number(key, (file) => file.sources[i]!.bits_per_byte),
      documents: cite.number(key, (file) => file.sources[i]!.documents, integer),
      tokens: cite.number(key, (file) => file.sources[i]!.tokens, integer),
      bytes: cite.number(key, (file) => file.sources[i]!.bytes, integer),
    }))

  const metricRows = (key: "benchmark" | "holdout") =>
    Object.keys(files[key].metrics).map((name) => ({
      name: cite.key(key, (file) => file.metrics, name, code),
      ...cite.measured(key, (file) => file.metrics[name]),
    }))

  const leaderboard = (key: "tuning" | "holdout") =>
    decoding[key].map((row, i) => ({
      preset: cite.text("decoding", (file) => file[key][i]!.preset),
      rank: cite.number("decoding", (file) => file[key][i]!.rank, integer),
      score: row.score === null ? "ruled out" : cite.number("decoding", (file) => file[key][i]!.score as number),
      ruledOut: row.ruled_out ? "ruled out" : "",
      z: Object.keys(row.z).map((term) => ({
        term: cite.key("decoding", (file) => file[key][i]!.z, term, code),
        value: cite.number("decoding", (file) => file[key][i]!.z[term]),
      })),
      metrics: Object.keys(row.metrics).map((name) => ({
        name: cite.key("decoding", (file) => file[key][i]!.metrics, name, code),
        ...cite.measured("decoding", (file) => file[key][i]!.metrics[name]),
      })),
    }))

  const presets = decoding.presets.map((preset, i) => ({
    name: cite.text("decoding", (file) => file.presets[i]!.name),
    doSample: preset.doSample ? "sampling" : "greedy",
    temperature: cite.number("decoding", (file) => file.presets[i]!.temperature, exact),
    topK: cite.number("decoding", (file) => file.presets[i]!.topK, exact),
    topP: cite.number("decoding", (file) => file.presets[i]!.topP, exact),
    repetitionPenalty: cite.number("decoding", (file) => file.presets[i]!.repetitionPenalty, exact),
    noRepeatNgramSize: cite.number("decoding", (file) => file.presets[i]!.noRepeatNgramSize, exact),
  }))

  const recommendedSettings = Object.entries(files.recommended).map(([name, value]) => ({
    name: cite.key("recommended", (file) => file as unknown as { readonly [key: string]: unknown }, name, code),
    value:
      typeof value === "number"
        ? cite.number("recommended", (file) => (file as unknown as { readonly [key: string]: number })[name], exact)
        : typeof value === "string"
          ? cite.text("recommended", (file) => (file as unknown as { readonly [key: string]: string })[name])
          : String(value),
  }))
  const holdoutRow = decoding.holdout.findIndex((row) => row.preset === decoding.recommended.name)
  const recommendedMetrics =
    holdoutRow < 0
      ? []
      : Object.keys(decoding.holdout[holdoutRow]!.metrics).map((name) => ({
          name: cite.key("decoding", (file) => file.holdout[holdoutRow]!.metrics, name, code),
          ...cite.measured("decoding", (file) => file.holdout[holdoutRow]!.metrics[name]),
        }))

  const probes = files.probes.probes.map((probe, i) => ({
    language: cite.text("probes", (file) => file.probes[i]!.language),
    kind: probe.kind,
    prompt: cite.text("probes", (file) => file.probes[i]!.prompt),
    expected: cite.text("probes", (file) => file.probes[i]!.expected),
    rank: cite.number("probes", (file) => file.probes[i]!.correct_token_rank, integer),
    ties: cite.number("probes", (file) => file.probes[i]!.rank_ties, integer),
    probability: cite.number("probes", (file) => file.probes[i]!.correct_token_probability),
    perplexity: cite.number("probes", (file) => file.probes[i]!.perplexity_on_target_sequence),
    targetTokens: cite.number("probes", (file) => file.probes[i]!.target_tokens, integer),
    top: list(
      probe.top.map(
        (_, j) =>
          `${cite.text(
            "probes",
            (file) => file.probes[i]!.top[j]!.token,
            (token) => inline(JSON.stringify(token)),
          )} ${cite.number("probes", (file) => file.probes[i]!.top[j]!.probability)}`,
      ),
    ),
  }))

  const data = tokens.sources.map((source, i) => {
    const own = files.inventory.sources.findIndex((entry) => entry.source === source.source)
    return {
      source: cite.text("tokens", (file) => file.sources[i]!.source),
      language: cite.text("tokens", (file) => file.sources[i]!.language),
      role: source.role === "train" ? "learned from" : "measured only",
      raw: cite.number("tokens", (file) => file.sources[i]!.rawTokens, integer),
      packed: cite.number("tokens", (file) => file.sources[i]!.packedTokens, integer),
      dropped: cite.number("tokens", (file) => file.sources[i]!.droppedTokens, integer),
      rows: cite.number("tokens", (file) => file.sources[i]!.rows, integer),
      weight: cite.number("tokens", (file) => file.sources[i]!.weight),
      parts: (["train", "validation", "holdout"] as const).map((part) => ({
        part,
        learned: source.role === "train" && part === "train",
        documents: cite.number("inventory", (file) => file.sources[own]!.parts[part].documents, integer),
        words: cite.number("inventory", (file) => file.sources[own]!.parts[part].words, integer),
        characters: cite.number("inventory", (file) => file.sources[own]!.parts[part].characters, integer),
        bytes: cite.number("inventory", (file) => file.sources[own]!.parts[part].bytes, integer),
      })),
    }
  })
  const sources = files.inventory.sources.map((source, i) => ({
    source: cite.text("inventory", (file) => file.sources[i]!.source),
    learned: source.role === "train",
    attributed: source.role === "train" && source.attributions.length > 0,
    sha256: cite.text("inventory", (file) => file.sources[i]!.sha256, code),
    licenses: list(
      Object.keys(source.licenses).map(
        (license) =>
          `${cite.key("inventory", (file) => file.sources[i]!.licenses, license)} (${cite.number("inventory", (file) => file.sources[i]!.licenses[license], integer)} documents)`,
      ),
    ),
    attributions: source.attributions.map((_, j) => cite.text("inventory", (file) => file.sources[i]!.attributions[j])),
    terms: source.terms.map((_, j) => cite.text("inventory", (file) => file.sources[i]!.terms[j])),
  }))
  const licenses = files.inventory.sources.flatMap((source, i) =>
    Object.keys(source.licenses).map((license) => ({
      source: cite.text("inventory", (file) => file.sources[i]!.source),
      role: source.role === "train" ? "learned from" : "measured only",
      license: cite.key("inventory", (file) => file.sources[i]!.licenses, license),
      documents: cite.number("inventory", (file) => file.sources[i]!.licenses[license], integer),
      rule: ruleOf(license),
      shade: classOf(parseExpression(license)),
    })),
  )
  const against = objections(files.release.license, files.inventory.sources).map((objection) => {
    const i = files.inventory.sources.findIndex(({ source }) => source === objection.source)
    const source = cite.text("inventory", (file) => file.sources[i]!.source)
    if (objection.rule === "no-training") {
      const terms = files.inventory.sources[i]!.terms.indexOf(objection.license)
      return `${source}: ${cite.text("inventory", (file) => file.sources[i]!.terms[terms])}, ${objection.rule}: ${objection.reason}`
    }
    const named = (format: (license: string) => string) =>
      cite.key("inventory", (file) => file.sources[i]!.licenses, objection.license, format)
    const documents = cite.number("inventory", (file) => file.sources[i]!.licenses[objection.license], integer)
    return `${source}: ${named(inline)} (${documents} documents), ${objection.rule}: ${named(() => inline(objection.reason))}`
  })
  const quantisation = quantisationOf(cite)

  const beside = Object.keys(evaluation.validation_beside_holdout).map((name) => ({
    name: cite.key("evaluation", (file) => file.validation_beside_holdout, name, code),
    validation: cite.measured("evaluation", (file) => file.validation_beside_holdout[name]!.validation),
    holdout: cite.measured("evaluation", (file) => file.validation_beside_holdout[name]!.holdout),
    difference: cite.number("evaluation", (file) => file.validation_beside_holdout[name]!.difference),
  }))

  const language = files.probes.probes[0]
  const prompt =
    language === undefined
      ? cite.text("prompts", (file) => file.tuning[0]?.text, literal)
      : cite.text("probes", (file) => file.probes[0]!.prompt, literal)

  return {
    name: cite.text("release", (file) => file.name),
    experiment: cite.text("release", (file) => file.experiment),
    license: cite.text("release", (file) => file.license),
    licenseLink:
      licenseLink(files.release.license) === null
        ? ""
        : cite.text(
            "release",
            (file) => file.license,
            (license) => licenseLink(license) ?? "",
          ),
    authors: list(files.release.authors.map((_, i) => cite.text("release", (file) => file.authors[i]))),
    authored: files.release.authors.length > 0,
    date: files.release.date === null ? "" : cite.text("release", (file) => file.date),
    attributed: files.inventory.sources.some(({ role, attributions }) => role === "train" && attributions.length > 0),
    termed: files.inventory.sources.some(({ terms }) => terms.length > 0),
    datasets: list(files.release.datasets.map((_, i) => cite.text("release", (file) => file.datasets[i]))),
    published: files.release.datasets.length > 0,
    override: files.release.license_override === null ? "" : cite.text("release", (file) => file.license_override),
    white: classOfSources(files.inventory.sources) === "white",
    shade: classOfSources(files.inventory.sources),
    licenses,
    against,
    // By line, as the lint compares: a citation may not span lines.
    bibtex: bibtex(files.release)
      .split("\n")
      .map((line) => cite.of(names.release, [], line))
      .join("\n"),
    flops: cite.number("training", (file) => file.training_flops, scientific),
    tokenRange: tokenRange(training.data.raw_tokens),
    strengths: strengths(cite),
    noise: noise(cite),
    differences: differences(cite),
    quantisation,
    languages: list(tokens.languages.map((_, i) => cite.text("tokens", (file) => file.languages[i]))),
    layers: cite.number("training", (file) => file.architecture.layers, integer),
    width: cite.number("training", (file) => file.architecture.width, integer),
    heads: cite.number("training", (file) => file.architecture.heads, integer),
    llama: llamaShape(training.architecture, cite),
    base: files.release.base !== undefined && {
      name: cite.text("release", (file) => file.base?.name),
      license: cite.text("release", (file) => file.base?.license),
      revision: files.release.base.revision !== undefined && cite.text("release", (file) => file.base?.revision, code),
    },
    contextTokens: cite.number("training", (file) => file.architecture.context, integer),
    vocabulary: cite.number("training", (file) => file.architecture.vocabulary, integer),
    parameters: cite.number("training", (file) => file.parameters, integer),
    engine: {
      name: cite.text("training", (file) => file.engine.name),
      numerics: cite.number("training", (file) => file.engine.numerics, exact),
      precision: cite.text("training", (file) => file.engine.precision),
      /** What a run has to ask for: the engine of `exp run` is another. */
      asked: training.engine.name === "torch" && {
        name: cite.text("training", (file) => file.engine.name, shell),
        precision: cite.text("training", (file) => file.engine.precision, shell),
      },
    },
    candidate: cite.text("benchmark", (file) => file.model.candidate),
    releasedStep: cite.number("training", (file) => file.released_step, integer),
    parentStep: cite.number("training", (file) => file.parent_step, integer),
    decaySteps: cite.number("training", (file) => file.decay_steps, integer),
    decayed: training.released_step > training.parent_step,
    decay:
      training.schedule.decay === undefined
        ? false
        : {
            shape: cite.text("training", (file) => file.schedule.decay?.shape),
            finalLr: cite.number("training", (file) => file.schedule.decay?.finalLr, exact),
          },
    lastOfDecay: training.released_step === training.parent_step + training.decay_steps,
    peakLr: cite.number("training", (file) => file.schedule.peakLr, exact),
    warmupSteps: cite.number("training", (file) => file.schedule.warmupSteps, integer),
    optimizer: {
      beta1: cite.number("training", (file) => file.optimizer.beta1, exact),
      beta2: cite.number("training", (file) => file.optimizer.beta2, exact),
      epsilon: cite.number("training", (file) => file.optimizer.epsilon, exact),
      weightDecay: cite.number("training", (file) => file.optimizer.weightDecay, exact),
      clipNorm: cite.number("training", (file) => file.optimizer.clipNorm, exact),
    },
    seed: cite.number("training", (file) => file.seed, exact),
    rowsPerStep: cite.number("training", (file) => file.rows_per_step, integer),
    tokensPerStep: cite.number("training", (file) => file.tokens_per_step, integer),
    tokensSeen: cite.number("training", (file) => file.tokens_seen, integer),
    tokensStable: cite.number("training", (file) => file.tokens_stable, integer),
    tokensDecay: cite.number("training", (file) => file.tokens_decay, integer),
    rawTokens: cite.number("training", (file) => file.data.raw_tokens, integer),
    packedTokens: cite.number("training", (file) => file.data.packed_tokens, integer),
    droppedTokens: cite.number("training", (file) => file.data.dropped_tokens, integer),
    epochs: cite.number("training", (file) => file.data.epochs),
    repeated: training.data.epochs > 1,
    rawByLanguage: list(
      Object.keys(training.data.raw_tokens_by_language).map(
        (language) =>
          `${cite.key("training", (file) => file.data.raw_tokens_by_language, language)} ${cite.number("training", (file) => file.data.raw_tokens_by_language[language], integer)}`,
      ),
    ),
    mix:
      typeof tokens.mix === "string" ? cite.text("tokens", (file) => file.mix as string, code) : "weights of its own",
    data,
    sources,
    by: cite.text("evaluation", (file) => file.by, code),
    direction: evaluation.direction,
    mixMode: cite.text("benchmark", (file) => file.mix.mode, code),
    weights: list(
      Object.keys(benchmark.mix.weights).map(
        (source) =>
          `${cite.key("benchmark", (file) => file.mix.weights, source)} ${cite.number("benchmark", (file) => file.mix.weights[source])}`,
      ),
    ),
    mixedLoss: cite.measured("benchmark", (file) => file.metrics.val_loss_mixed),
    mixedDocuments: cite.number("evaluation", (file) => file.documents, integer),
    mixedTokens: cite.number("evaluation", (file) => file.tokens, integer),
    candidates,
    candidateCount: cite.number("evaluation", (file) => file.candidates, integer),
    alone: comparison.candidates.length === 1,
    /** Every rival was held against the winner by a paired test. */
    tested: comparison.candidates.every((candidate) => candidate.winner || candidate.difference !== undefined),
    tied:
      evaluation.tied.length === 0
        ? false
        : list(evaluation.tied.map((_, i) => cite.text("evaluation", (file) => file.tied[i]))),
    bootstrapSamples: cite.number("comparison", (file) => file.bootstrap.samples, integer),
    bootstrapSeed: cite.number("comparison", (file) => file.bootstrap.seed, exact),
    comparisonWords: cite.text("comparison", (file) => file.words),
    metrics: metricRows("benchmark"),
    sourceLosses: sourceRows("sourceLosses"),
    beside,
    holdoutMetrics: metricRows("holdout"),
    holdoutSources: sourceRows("holdout"),
    holdoutWords: cite.text("holdout", (file) => file.words),
    probes,
    probesFirst: cite.number("evaluation", (file) => file.probes.first, integer),
    probesOf: cite.number("evaluation", (file) => file.probes.of, integer),
    presets,
    objective: cite.text("decoding", (file) => file.objective, code),
    preset: cite.text("decoding", (file) => file.recommended.name),
    maxNewTokens: cite.number("decoding", (file) => file.max_new_tokens, integer),
    decodingSeed: cite.number("decoding", (file) => file.seed, exact),
    tuningPrompts: cite.number("decoding", (file) => file.prompts.tuning, integer),
    holdoutPrompts: cite.number("decoding", (file) => file.prompts.holdout, integer),
    reference: Object.keys(decoding.reference).map((term) => ({
      term: cite.key("decoding", (file) => file.reference, term, code),
      mean: cite.number("decoding", (file) => file.reference[term]!.mean),
      deviation: cite.number("decoding", (file) => file.reference[term]!.sd),
    })),
    tuning: leaderboard("tuning"),
    decodingHoldout: leaderboard("holdout"),
    confirmed: decoding.confirmed,
    firstOnHoldout: firstOnHoldout(decoding),
    decodingWords: cite.text("decoding", (file) => file.words),
    recommendedSettings,
    recommendedMetrics,
    bestValidation: {
      step: cite.number("best", (file) => file.step, integer),
      phase: files.best.phase,
      loss: cite.number("best", (file) => file.val_loss_mixed),
      interval: cite.interval("best", (file) => file.ci95),
      documents: cite.number("best", (file) => file.documents, integer),
      tokens: cite.number("best", (file) => file.tokens, integer),
      tokensSeen: cite.number("best", (file) => file.tokens_seen, integer),
      losses: list(
        Object.keys(files.best.val_loss).map(
          (language) =>
            `${cite.key("best", (file) => file.val_loss, language)} ${cite.number("best", (file) => file.val_loss[language])}`,
        ),
      ),
      sources: list(
        Object.keys(files.best.source_loss).map(
          (source) =>
            `${cite.key("best", (file) => file.source_loss, source)} ${cite.number("best", (file) => file.source_loss[source])}`,
        ),
      ),
      weights: list(
        Object.keys(files.best.weights).map(
          (source) =>
            `${cite.key("best", (file) => file.weights, source)} ${cite.number("best", (file) => file.weights[source])}`,
        ),
      ),
    },
    prompt,
    limitations: limitations(cite),
    keys: Object.keys(files.release.keys).map((step) => ({
      step: cite.key("release", (file) => file.keys, step),
      key: cite.text("release", (file) => file.keys[step], code),
    })),
    set: Object.entries(files.release.parameters)
      .map(([name, value]) =>
        cite.of(names.release, ["parameters", name], ` --set ${shell(quoted(`${name}=${value}`))}`),
      )
      .join(""),
    weightsName: cite.of(weightsName(files.release), [], code(weightsName(files.release))),
    torch: files.release.torch_checkpoint === true && {
      file: cite.of(torchName(files.release), [], torchName(files.release)),
      state: cite.of(names.state, [], code(names.state)),
    },
    holdoutIdentity: cite.text("holdout", (file) => file.model.candidate),
  }
}

/** One word of a shell, whatever stands in it. */
const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`

/**
 * A line of a shell in a fence, which only a line that begins with ticks or tildes could close. Nothing within it may be replaced: a
 * command quotes words that are not ours, and any quote put in would end theirs.
 */
const shell = (text: string): string => oneLine(text).replace(/^[`~\s]+/, "")

/** Perplexities and nats as they are; probabilities and shares in percent, as the metric is defined. */
const LOSSES = [
  ["ppl", decimal],
  ["delta_ppl", decimal],
  ["kld", decimal],
  ["mean_delta_p", percent],
  ["rms_delta_p", percent],
  ["same_top_p", percent],
] as const

/** The GGUF files and what each costs; `false` where there are none. */
const quantisationOf = (cite: Citations) => {
  const { quantisation, training } = cite.files
  if (quantisation === undefined) return false
  type File = NonNullable<ReleaseFiles["quantisation"]>
  const text = (accessor: (file: File) => string, format?: (text: string) => string) =>
    cite.text("quantisation", (file) => accessor(file!), format)
  return {
    reference: text((file) => file.reference, code),
    rule: text((file) => file.rule),
    picked: text((file) => file.picked, code),
    llamaCpp: text((file) => file.commands.llama_cpp, shell),
    ollama: text((file) => file.commands.ollama, shell),
    /** Rows that the types of 256 numbers a block do not part have another type (`gguf/Mixture.ts`): files of several names may be alike. */
    uneven:
      training.architecture.width % 256 !== 0 && quantisation.files.some(({ type }) => type.includes("_K"))
        ? cite.number("training", (file) => file.architecture.width, integer)
        : "",
    warmed: quantisation.preset.doSample && quantisation.preset.temperature !== 1,
    noRepeat:
      quantisation.preset.noRepeatNgramSize === 0
        ? ""
        : cite.number("quantisation", (file) => file!.preset.noRepeatNgramSize, integer),
    documents: cite.number("quantisation", (file) => file!.documents, integer),
    tokens: cite.number("quantisation", (file) => file!.tokens, integer),
    rows: quantisation.files.flatMap((each, i) =>
      Object.keys(each.losses).map((texts) => ({
        file: text((file) => file.files[i]!.file, code),
        type: text((file) => file.files[i]!.type),
        matrix: each.importance_matrix ? "with" : "without",
        bytes: cite.number("quantisation", (file) => file!.files[i]!.bytes, integer),
        bits: cite.number(
          "quantisation",
          (file) => file!.files[i]!.bits_per_weight,
          (bits) => bits.toFixed(2),
        ),
        texts: cite.key("quantisation", (file) => file!.files[i]!.losses, texts),
        losses: LOSSES.map(([key, format]) =>
          cite.measured("quantisation", (file) => file!.files[i]!.losses[texts]![key], format),
        ),
      })),
    ),
  }
}

/** The ranges that the public summary of training content has for text. */
const tokenRange = (tokens: number): string =>
  tokens < 1e9
    ? "less than one billion tokens"
    : tokens <= 1e13
      ? "one billion to ten trillion tokens"
      : "more than ten trillion tokens"

const FILES: ReadonlyArray<readonly [pattern: RegExp, what: string]> = [
  [/^README\.md$/, "this card"],
  [/^model\.safetensors$/, "weights for `transformers`"],
  [/-step_\d+\.safetensors$/, "weights of the checkpoint as it was trained"],
  [/-step_\d+\.pt$/, "that checkpoint for `torch.load(…, weights_only=True)`: weights, configuration, state"],
  [/-step_\d+\.json$/, "where the training stood at that checkpoint"],
  [/^config\.json$/, "shape of the model for `transformers`"],
  [/^generation_config\.json$/, "recommended decoding, used by `generate()` unasked"],
  [/^recommended_decoding_params\.json$/, "the same, as arguments"],
  [/^(tokenizer|tokenizer_config|special_tokens_map)\.json$/, "tokenizer"],
  [/^training_config\.json$/, "architecture, schedule, optimizer, data and the arithmetic of tokens"],
  [/^release\.json$/, "name, licence, experiment and the keys of its steps"],
  [/^corpus_inventory\.json$/, "documents, licences and attributions by source"],
  [/^tokens\.json$/, "tokens by source: raw, packed, dropped"],
  [/^metrics\.jsonl$/, "training loss by step; `phase` says whether of training or decay"],
  [/^eval_metrics\.jsonl$/, "validation during training"],
  [/^best_validation\.json$/, "its best line"],
  [/^probe_generations\.jsonl$/, "samples during training"],
  [/^benchmark_scores\.json$/, "scores by document"],
  [/^benchmark_source_losses\.json$/, "losses by source"],
  [/^benchmark_metrics\.json$/, "every metric, with intervals"],
  [/^benchmark_report\.md$/, "benchmark, told in full"],
  [/^behaviour_generations\.jsonl$/, "samples the behaviour metrics were counted on"],
  [/^eval_summary\.json$/, "validation beside holdout, ties, counts"],
  [/^comparison\.json$/, "candidates beside each other"],
  [/^holdout\.json$/, "losses on the holdout, measured once"],
  [/^probe_step\d+_summary\.json$/, "probes"],
  [/^decoding_summary\.json$/, "decoding sweep"],
  [/^decoding_report\.md$/, "decoding sweep, told in full"],
  [/^(tuning|holdout)_leaderboard\.csv$/, "presets in order"],
  [/^(tuning|holdout)_generations\.jsonl$/, "samples of the sweep"],
  [/^prompts\.json$/, "prompts, with their own continuations"],
  [/^release_note\.md$/, "the release in short"],
  [/^experiment\.ts$/, "the experiment: what makes all this"],
  [/^plan\.txt$/, "its plan"],
  [/^LICENSE$/, "licence of the model"],
  [/^NOTICE$/, "sources, their licences, attributions and terms"],
  [/^CITATION\.cff$/, "how to cite it, for tools"],
  [/^training_content_summary\.md$/, "public summary of the training content"],
  [/^quantisation\.json$/, "what each quantised file costs in quality"],
  [/-imatrix\.gguf$/, "how much each column matters, as llama.cpp's tools read it"],
  [/\.gguf$/, "weights and tokenizer for llama.cpp and what builds on it"],
  [/^Modelfile$/, "for Ollama"],
  [/^provenance\.json$/, "when, where and by what code it was made; differs from run to run"],
  [/^SHA256SUMS$/, "sums of all files; `sha256sum --check SHA256SUMS`"],
]

/** The folder as a table. What differs from run to run, and the card itself, go without size and sum. */
const fileRows = Effect.fnUntraced(function* (folder: string, cite: Citations) {
  const fs = yield* FileSystem.FileSystem
  // The Hub adds `.gitattributes`, a download its cache, whoever signs a signature: none of them is the card's.
  const own = (yield* filesBelow(folder)).filter((file) => !/(?:^|\/)\./.test(file) && !unsummed.has(file))
  const there = new Set([...own, "README.md", "provenance.json", SUMS])
  const rows: Array<{ name: string; what: string; bytes: string; sha256: string }> = []
  for (const file of [...there].sort(byCodeUnit)) {
    const varies = file === "README.md" || file === "provenance.json" || file === SUMS
    const path = `${folder}/${file}`
    rows.push({
      name: cite.of(file, [], code(file)),
      what: FILES.find(([pattern]) => pattern.test(file))?.[1] ?? "",
      bytes: varies
        ? "–"
        : cite.of(file, ["(bytes)"], integer(Number((yield* fs.stat(path).pipe(unreadable(path))).size))),
      sha256: varies ? "–" : cite.of(file, ["(sha256)"], code((yield* sha256OfFile(path)).slice(0, 16))),
    })
  }
  return rows
})

const measuredForHub = (name: string, { value }: Measured) => ({ type: name, name, value })

/** What a LLaMA's shape has that a GPT-2's has not. */
const llamaShape = (architecture: Architecture, cite: Citations) => {
  if (architecture.family !== "llama") return false
  const of = (key: "keyValueHeads" | "feedForwardWidth" | "slidingWindow") =>
    cite.number("training", ({ architecture }) => (architecture as LlamaArchitecture)[key], integer)
  return {
    tied: architecture.tiedHead,
    keyValueHeads: of("keyValueHeads"),
    feedForwardWidth: of("feedForwardWidth"),
    window: architecture.slidingWindow !== undefined && of("slidingWindow"),
  }
}

/** The card's metadata, as the Hub reads it. */
export const frontMatterData = (files: ReleaseFiles): { readonly [key: string]: unknown } => {
  const { release, tokens, benchmark, holdout, decoding } = files
  const result = (part: string, metrics: { readonly [name: string]: Measured }) => ({
    task: { type: "text-generation", name: "Text generation" },
    dataset: { type: `${release.name}-${part.replaceAll(" ", "-")}`, name: `${oneLine(release.experiment)}: ${part}` },
    metrics: Object.keys(metrics).map((name) => measuredForHub(oneLine(name), metrics[name]!)),
  })
  const recommended = decoding.holdout.find((row) => row.preset === decoding.recommended.name)
  return {
    ...Object.fromEntries(Object.entries(hubLicense(release.license)).map(([key, value]) => [key, oneLine(value)])),
    language: tokens.languages.filter((language) => /^[a-z]{2,3}$/.test(language)),
    library_name: "transformers",
    pipeline_tag: "text-generation",
    tags: [files.config["model_type"], "small-language-model", "base-model", "exp"],
    ...(release.base?.revision === undefined ? {} : { base_model: oneLine(release.base.name) }),
    ...(release.datasets.length === 0 ? {} : { datasets: release.datasets.map(oneLine) }),
    "model-index": [
      {
        name: release.name,
        results: [
          result("validation", benchmark.metrics),
          result("holdout", holdout.metrics),
          ...(recommended === undefined || Object.keys(recommended.metrics).length === 0
            ? []
            : [result("recommended decoding", recommended.metrics)]),
        ],
      },
    ],
  }
}

/** YAML 1.1 is what Python reads: there an unquoted `no` is a falsehood. */
const frontMatter = async (files: ReleaseFiles): Promise<string> => {
  const { stringify } = await import("yaml")
  return `---\n${stringify(frontMatterData(files), { version: "1.1", lineWidth: 0, aliasDuplicateObjects: false })}---\n`
}

const REPORTS = {
  "benchmark_report.md": "benchmark-report",
  "decoding_report.md": "decoding-report",
  "release_note.md": "release-note",
  "training_content_summary.md": "training-summary",
} as const

/** sha256 over the templates of a release: whether a card was filled into the same words. */
export const templatesDigest = Effect.fnUntraced(function* (template: string, options: TemplateOptions = {}) {
  const texts = yield* Effect.forEach(["card", ...Object.values(REPORTS)], (file) =>
    templateText(template, file, options),
  )
  return sha256(texts.join("\0"))
})

const templateText = Effect.fnUntraced(function* (template: string, file: string, options: TemplateOptions) {
  const fs = yield* FileSystem.FileSystem
  const path = `${options.templates ?? ownTemplates()}/${template}/${file}.hbs`
  return yield* fs
    .readFileString(path)
    .pipe(
      Effect.mapError(
        () => new ReleaseTemplateBroken({ template: `${template}/${file}.hbs`, problem: `there is no ${path}` }),
      ),
    )
})

const compiled = new Map<string, (context: unknown) => string>()

const fill = Effect.fnUntraced(function* (template: string, file: string, values: unknown, options: TemplateOptions) {
  const text = yield* templateText(template, file, options)
  const { default: Handlebars } = yield* Effect.promise(() => import("handlebars"))
  return yield* Effect.try({
    try: () => {
      let render = compiled.get(text)
      if (render === undefined) {
        const environment = Handlebars.create()
        for (const helper of ["log", "lookup", "helperMissing", "blockHelperMissing"])
          environment.unregisterHelper(helper)
        const filled = environment.compile(text, { strict: true, noEscape: true, preventIndent: true })
        render = (context) =>
          filled(context, { allowProtoPropertiesByDefault: false, allowProtoMethodsByDefault: false })
        compiled.set(text, render)
      }
      return render(values)
    },
    catch: (error) =>
      new ReleaseTemplateBroken({
        template: `${template}/${file}.hbs`,
        problem: error instanceof Error ? error.message : String(error),
      }),
  })
})

const contextOf = (files: ReleaseFiles, folder: string) =>
  Effect.try({
    try: () => {
      const cite = new Citations(files)
      return { cite, values: context(cite) }
    },
    catch: (error) =>
      new ReleaseInputUnreadable({
        path: error instanceof MissingFigure ? `${folder}/${error.file}` : folder,
        problem: error instanceof Error ? error.message : String(error),
      }),
  })

export interface RenderedReports {
  readonly [file: string]: Rendered
}

/** Reports, licence and notice: what the card's own table of files lists and so has to be there before it. */
export const renderReports = Effect.fn("Card.renderReports")(function* (
  folder: string,
  options: TemplateOptions = {},
): Effect.fn.Return<RenderedReports, ReleaseError, FileSystem.FileSystem> {
  const files = yield* readFolder(folder)
  yield* checkConsistency(folder, files)
  return yield* reportsOf(folder, files, options)
})

const withoutCitations = (text: string): Rendered => ({ text, marked: text, citations: [], untraced: [] })

const reportsOf = Effect.fnUntraced(function* (folder: string, files: ReleaseFiles, options: TemplateOptions) {
  const { release, inventory } = files
  const reports: Record<string, Rendered> = {
    LICENSE: withoutCitations(licenseText(release.name, licensingOf(release))),
    NOTICE: withoutCitations(noticeText(release.name, licensingOf(release), inventory)),
    "CITATION.cff": withoutCitations(yield* Effect.promise(() => citationFile(files))),
  }
  for (const [file, template] of Object.entries(REPORTS)) {
    const { cite, values } = yield* contextOf(files, folder)
    const marked = yield* fill(files.release.template, template, values, options)
    reports[file] = { text: unmark(marked), marked, citations: cite.all, untraced: untracedNumbers(marked) }
  }
  return reports
})

/**
 * `README.md` of a release folder that has everything else (`provenance.json` and `SHA256SUMS` may be missing). Fails when any
 * two files disagree, or when a report is not what its files make.
 */
export const renderCard = Effect.fn("Card.render")(function* (
  folder: string,
  options: TemplateOptions = {},
): Effect.fn.Return<Rendered, ReleaseError, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const files = yield* readFolder(folder)
  yield* checkConsistency(folder, files)
  for (const [file, { text }] of Object.entries(yield* reportsOf(folder, files, options))) {
    const there = yield* fs.readFileString(`${folder}/${file}`).pipe(unreadable(`${folder}/${file}`))
    if (there !== text)
      return yield* new ReleaseInconsistent({
        first: file,
        second: "the files it is made from",
        problem: "made again from them it reads otherwise",
      })
  }
  return yield* cardOf(folder, files, options)
})

const cardOf = Effect.fnUntraced(function* (folder: string, files: ReleaseFiles, options: TemplateOptions) {
  const { cite, values } = yield* contextOf(files, folder)
  const rows = yield* fileRows(folder, cite)
  const body = yield* fill(files.release.template, "card", { ...values, files: rows }, options)
  const marked = `${yield* Effect.promise(() => frontMatter(files))}\n${body}`
  return { text: unmark(marked), marked, citations: cite.all, untraced: untracedNumbers(body) } satisfies Rendered
})

/** Card and reports as the files make them, whether or not these agree: what a folder's own texts are held against. */
export const renderAll = Effect.fn("Card.renderAll")(function* (
  folder: string,
  files: ReleaseFiles,
  options: TemplateOptions = {},
): Effect.fn.Return<RenderedReports, ReleaseError, FileSystem.FileSystem> {
  return { "README.md": yield* cardOf(folder, files, options), ...(yield* reportsOf(folder, files, options)) }
})
