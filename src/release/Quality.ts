/**
 * What the numbers say of a model, in plain words: for it, against it, what is within noise and what is not. A sentence for each
 * figure that is there; every share stands beside its 95% interval.
 */
import { apart } from "../evaluation/Beside.ts"
import { type Citations, integer } from "./Citation.ts"
import { code, inline } from "./Markdown.ts"

type Where = "counts" | "decoding_counts"
type Count = { readonly count: number; readonly of: number }

const CONDITIONS = [
  ["counts", "samples of the benchmark"],
  ["decoding_counts", "samples with the recommended decoding on prompts not used to choose it"],
] as const

const interval = (text: string): string => (text === "–" ? "" : ` (95% interval ${text})`)

/** Shares of samples as "21 of 40 …", and the interval that goes with them. */
const sharesOf = (cite: Citations) => {
  const { evaluation, decoding } = cite.files
  const row = decoding.holdout.findIndex(({ preset }) => preset === decoding.recommended.name)
  const ends = (where: Where, name: string): string =>
    where === "counts"
      ? cite.interval("benchmark", (file) => file.metrics[name]!.ci95)
      : cite.interval("decoding", (file) => file.holdout[row]!.metrics[name]!.ci95)
  return {
    counts: (where: Where): ReadonlyArray<readonly [string, Count]> => Object.entries(evaluation[where]),
    count: (where: Where, name: string): string =>
      `${cite.number("evaluation", (file) => file[where][name]!.count, integer)} of ${cite.number("evaluation", (file) => file[where][name]!.of, integer)}`,
    ends: (where: Where, name: string): string => interval(ends(where, name)),
    language: (where: Where, name: string): string =>
      cite.key(
        "evaluation",
        (file) => file[where],
        name,
        (key) => inline(key.slice(CONSISTENCY.length)),
      ),
  }
}
const CONSISTENCY = "language_consistency_"
/** Samples whose language nobody could tell are not among those counted, and may be most of them. */
const TOLD = "whose language could be told"

/** What speaks for it: only what was counted without an exception, and the holdout where it bears out the choice. */
export const strengths = (cite: Citations): ReadonlyArray<string> => {
  const { evaluation, decoding } = cite.files
  const shares = sharesOf(cite)
  const sentences: Array<string> = []
  const beside = evaluation.validation_beside_holdout["val_loss_mixed"]
  // of one language alone no other could have been told
  const several = (where: Where) => shares.counts(where).filter(([name]) => name.startsWith(CONSISTENCY)).length > 1
  if (beside !== undefined && (beside.holdout.value <= beside.validation.value || apart(beside) === false)) {
    const of = (part: "validation" | "holdout") =>
      cite.measured("evaluation", (file) => file.validation_beside_holdout["val_loss_mixed"]![part])
    const [holdout, validation] = [of("holdout"), of("validation")]
    sentences.push(
      `Texts that no choice was made on bear it out: their mixed loss is ${holdout.value}${interval(holdout.interval)}, where the choice was made ${validation.value}${interval(validation.interval)}.`,
    )
  }
  if (decoding.confirmed)
    sentences.push(
      firstOnHoldout(decoding)
        ? "Prompts that the decoding was not chosen on confirm the recommended preset: it is the best there too."
        : "Prompts that the decoding was not chosen on do not speak against the recommended preset: what is ahead of it there is so by no more than chance.",
    )
  for (const [where, words] of CONDITIONS)
    for (const [name, { count, of }] of shares.counts(where)) {
      if (of === 0) continue
      const told = `${shares.count(where, name)} ${words}${shares.ends(where, name)}`
      const language = `${shares.count(where, name)} ${words} ${TOLD}${shares.ends(where, name)}`
      if (name === "loop_rate" && count === 0)
        sentences.push(`It does not get stuck: ${told} end in the same words over and over.`)
      if (name === "completion_rate" && count === of)
        sentences.push(`It always writes something: ${told} have text of a useful length.`)
      if (name.startsWith(CONSISTENCY) && several(where) && count === of && !mostlyUndetermined(evaluation[where]))
        sentences.push(
          `It keeps to the language of the prompt (${shares.language(where, name)}): ${language} stayed in it.`,
        )
    }
  return sentences
}

/** Whether the preset chosen on tuning prompts is the best of those that are not ruled out on the holdout prompts, too. */
export const firstOnHoldout = ({ holdout, recommended }: Citations["files"]["decoding"]): boolean =>
  holdout.find(({ ruled_out }) => !ruled_out)?.preset === recommended.name

const mostlyUndetermined = (counts: { readonly [name: string]: Count }): boolean => {
  const undetermined = Object.hasOwn(counts, "undetermined_rate") ? counts["undetermined_rate"] : undefined
  return undetermined !== undefined && 2 * undetermined.count > undetermined.of
}

const besideNamed = (cite: Citations, when: boolean): string =>
  Object.entries(cite.files.evaluation.validation_beside_holdout)
    .filter(([, beside]) => apart(beside) === when)
    .map(([name]) => cite.key("evaluation", (file) => file.validation_beside_holdout, name, code))
    .join(", ")

/** What must not be read as a difference. */
export const noise = (cite: Citations): ReadonlyArray<string> => {
  const { tied } = cite.files.evaluation
  const together = besideNamed(cite, false)
  return [
    ...(tied.length === 0
      ? []
      : [
          `The choice among the released checkpoint and ${tied.map((_, i) => cite.text("evaluation", (file) => file.tied[i])).join(", ")}: the test does not tell them apart.`,
        ]),
    ...(together === ""
      ? []
      : [`Between validation and holdout, a difference that its 95% interval does not tell from none: ${together}.`]),
  ]
}

/** What may be read as one. */
export const differences = (cite: Citations): ReadonlyArray<string> => {
  const named = besideNamed(cite, true)
  return named === ""
    ? []
    : [
        `Between validation and holdout, a difference whose 95% interval leaves out none at all: ${named}. Each was looked at by itself: where there are many, one or another may be so by chance.`,
      ]
}

/** What speaks against it. */
export const limitations = (cite: Citations): ReadonlyArray<string> => {
  const { evaluation, benchmark, decoding } = cite.files
  const shares = sharesOf(cite)
  const sentences: Array<string> = []
  const some = ({ count }: Count): boolean => count > 0
  const notAll = ({ count, of }: Count): boolean => count < of
  const told: ReadonlyArray<readonly [name: string, when: (count: Count) => boolean, before: string, after: string]> = [
    ["loop_rate", some, "It gets stuck: ", " end in the same words over and over."],
    ["repeated_4gram_rate", some, "It repeats itself: ", " use some run of four tokens twice."],
    ["completion_rate", notAll, "It does not always answer: only ", " have text of a useful length."],
  ]
  for (const [where, words] of CONDITIONS) {
    const counts = new Map(shares.counts(where))
    const share = (name: string) => `${shares.count(where, name)} ${words}${shares.ends(where, name)}`
    for (const [name, when, before, after] of told) {
      const count = counts.get(name)
      if (count !== undefined && when(count)) sentences.push(`${before}${share(name)}${after}`)
    }
    const ended = counts.get("eos_rate")
    if (ended !== undefined && notAll(ended))
      sentences.push(
        `${2 * ended.count < ended.of ? "It rarely knows when to stop: " : ""}${share("eos_rate")} end by themselves, the others are cut off.`,
      )
    for (const [name, count] of counts)
      if (name.startsWith(CONSISTENCY) && notAll(count))
        sentences.push(
          `It ${2 * count.count < count.of ? "mostly leaves" : "may leave"} the language of the prompt (${shares.language(where, name)}): ${shares.count(where, name)} ${words} ${TOLD}${shares.ends(where, name)} stayed in it.`,
        )
    if (counts.has("undetermined_rate") && mostlyUndetermined(evaluation[where]))
      sentences.push(`Of most of what it writes the language cannot be told: ${share("undetermined_rate")}.`)
  }
  if (evaluation.probes.of > 0)
    sentences.push(
      `It is no source of facts: the expected token was its first choice in ${cite.number("evaluation", (file) => file.probes.first, integer)} of ${cite.number("evaluation", (file) => file.probes.of, integer)} probes.`,
    )
  if (Object.hasOwn(benchmark.metrics, "ppl_mixed")) {
    const perplexity = cite.number("benchmark", (file) => file.metrics.ppl_mixed?.value, tenths)
    const ends = cite.interval("benchmark", (file) => file.metrics.ppl_mixed?.ci95, tenths)
    sentences.push(
      `On texts it has not seen it hesitates between about ${perplexity} equally likely tokens at every step (perplexity${ends === "–" ? "" : `, 95% interval ${ends}`}).`,
    )
  }
  if (!decoding.confirmed)
    sentences.push(
      "The recommended decoding was the best on the tuning prompts; the holdout prompts did not confirm it.",
    )
  sentences.push(
    `It reads at most ${cite.number("training", (file) => file.architecture.context, integer)} tokens, prompt and answer together.`,
    `It has ${cite.number("training", (file) => file.parameters, integer)} parameters and saw ${cite.number("training", (file) => file.tokens_seen, integer)} tokens, ${cite.number("training", (file) => file.data.epochs, hundredths)} times what there is: what its texts say wrongly, partially or not at all, it cannot know better.`,
    "It continues text. It was not taught to follow instructions, to converse, or to refuse, and nothing filters what it writes.",
  )
  return sentences
}

const tenths = (value: number): string => value.toFixed(1)
const hundredths = (value: number): string => value.toFixed(2)
