/**
 * From the logits of one position to the next token, exactly as Hugging Face `transformers` does it (generation/utils.py,
 * `_get_logits_processor`, and generation/logits_process.py of 4.57 and 5.23):
 *
 * 1. repetition penalty: every id that occurs in prompt or text so far, once however often it occurs: s < 0 ? s·r : s/r;
 * 2. no-repeat n-gram: every token that followed the current (n−1)-suffix anywhere before is banned;
 *
 * and, only when sampling,
 *
 * 3. temperature: s/T;
 * 4. top-k: s below the k-th largest is banned; ties with it stay, so more than k may be left;
 * 5. top-p: in ascending order (equal values by index) tokens are banned while the running sum of softmax is ≤ 1−p; the last stays;
 * 6. one draw by inverse distribution function: the smallest id whose running sum of weights exceeds uniform × their total.
 *
 * Greedy takes the first of the largest after 1 and 2. A setting at its neutral value (1, 0) is skipped, as there.
 *
 * Numbers: scores and softmax terms are rounded to fp32 after each operation, sums are fp64; PyTorch's CPU `cumsum` does the same.
 * Its softmax denominator is an fp32 sum whose order depends on the machine, so a token whose running sum lies within about
 * 1e-6 of 1−p may fall either way there; here it never does: nothing depends on machine, engine or vocabulary order.
 */
import type { DecodingPreset } from "../model/Decoding.ts"

/** Logits [vocabulary] after the preset's processors; banned tokens are −∞. The argument is left alone. */
export const processLogits = (
  preset: DecodingPreset,
  logits: Float32Array,
  previous: ReadonlyArray<number>,
): Float32Array<ArrayBuffer> => {
  const scores = Float32Array.from(logits)
  refuseNaN(scores)
  repetitionPenalty(scores, previous, preset.repetitionPenalty, new Uint8Array(scores.length))
  noRepeatNgram(scores, previous, preset.noRepeatNgramSize)
  if (!preset.doSample) return scores
  const work = workspace(scores.length)
  work.scores.set(scores)
  const count = warp(preset, work)
  const processed = new Float32Array(scores.length).fill(Number.NEGATIVE_INFINITY)
  for (let i = 0; i < count; i++) processed[work.kept[i]!] = work.scores[work.kept[i]!]!
  return processed
}

/**
 * The next token for a preset. `logits` [vocabulary] is left alone; `previous` are prompt and generated ids, BOS included;
 * `uniform` in [0, 1) decides the draw and is ignored by greedy. Buffers are kept between calls: one sampler per thread.
 */
export const makeSampler = (
  preset: DecodingPreset,
): ((logits: Float32Array, previous: ReadonlyArray<number>, uniform: number) => number) => {
  let work = workspace(0)
  return (logits, previous, uniform) => {
    if (work.scores.length !== logits.length) work = workspace(logits.length)
    const { scores, kept, weights } = work
    scores.set(logits)
    refuseNaN(scores)
    repetitionPenalty(scores, previous, preset.repetitionPenalty, work.seen)
    noRepeatNgram(scores, previous, preset.noRepeatNgramSize)
    if (!preset.doSample) return argmax(scores)
    const count = warp(preset, work)
    const max = maximum(scores, kept, count)
    let total = 0
    for (let i = 0; i < count; i++) {
      const weight = Math.fround(Math.exp(Math.fround(scores[kept[i]!]! - max)))
      weights[i] = weight
      total += weight
    }
    if (!(total > 0)) throw new RangeError("no token can be drawn: every token of the vocabulary is banned")
    const target = uniform * total
    let sum = 0
    let last = 0
    for (let i = 0; i < count; i++) {
      if (weights[i] === 0) continue
      sum += weights[i]!
      if (sum > target) return kept[i]!
      last = i
    }
    return kept[last]!
  }
}

interface Workspace {
  readonly scores: Float32Array
  /** Ids still in play, ascending. */
  readonly kept: Int32Array
  readonly weights: Float32Array
  readonly buckets: Float64Array
  /** All zero between calls. */
  readonly seen: Uint8Array
}

const BUCKETS = 4096

const workspace = (vocabulary: number): Workspace => ({
  scores: new Float32Array(vocabulary),
  kept: new Int32Array(vocabulary),
  weights: new Float32Array(vocabulary),
  buckets: new Float64Array(BUCKETS),
  seen: new Uint8Array(vocabulary),
})

const repetitionPenalty = (
  scores: Float32Array,
  previous: ReadonlyArray<number>,
  penalty: number,
  seen: Uint8Array,
): void => {
  if (penalty === 1) return
  const factor = Math.fround(penalty)
  for (const id of previous) {
    if (seen[id] !== 0) continue // seen before, or outside of the vocabulary
    seen[id] = 1
    const score = scores[id]!
    scores[id] = score < 0 ? score * factor : score / factor
  }
  for (const id of previous) if (seen[id] !== undefined) seen[id] = 0
}

const noRepeatNgram = (scores: Float32Array, previous: ReadonlyArray<number>, size: number): void => {
  if (size === 0 || previous.length < size) return
  const suffix = previous.length - (size - 1)
  next: for (let start = 0; start + size <= previous.length; start++) {
    for (let i = 0; i < size - 1; i++) if (previous[start + i] !== previous[suffix + i]) continue next
    scores[previous[start + size - 1]!] = Number.NEGATIVE_INFINITY
  }
}

const argmax = (scores: Float32Array): number => {
  let best = 0
  for (let id = 1; id < scores.length; id++) if (scores[id]! > scores[best]!) best = id
  if (scores[best] === Number.NEGATIVE_INFINITY)
    throw new RangeError("no token can be drawn: every token of the vocabulary is banned")
  return best
}

/** −∞ is a banned token; NaN and +∞ come of a broken model, and a token drawn from them would hide it. */
const refuseNaN = (scores: Float32Array): void => {
  for (let id = 0; id < scores.length; id++)
    if (!(scores[id]! < Number.POSITIVE_INFINITY)) throw new RangeError(`logit of token ${id} is ${scores[id]}`)
}

/** Temperature, top-k, top-p on `work.scores` in place; how many ids are left at the front of `work.kept`. */
const warp = (preset: DecodingPreset, work: Workspace): number => {
  const { scores, kept } = work
  if (preset.temperature !== 1) {
    const temperature = Math.fround(preset.temperature)
    for (let id = 0; id < scores.length; id++) scores[id] = scores[id]! / temperature
  }
  const floor =
    preset.topK > 0 && preset.topK < scores.length ? kthLargest(scores, preset.topK) : Number.NEGATIVE_INFINITY
  let count = 0
  for (let id = 0; id < scores.length; id++) if (scores[id]! >= floor) kept[count++] = id
  return preset.topP < 1 ? topP(preset.topP, work, count) : count
}

/** Value of the k-th largest, equal values counted apart: a heap of k, smallest on top, is all that is ever sorted. */
const kthLargest = (scores: Float32Array, k: number): number => {
  const heap = scores.slice(0, k).sort() // an ascending array is a heap
  for (let id = k; id < scores.length; id++) {
    const score = scores[id]!
    if (!(score > heap[0]!)) continue
    let parent = 0
    for (;;) {
      let child = 2 * parent + 1
      if (child >= k) break
      if (child + 1 < k && heap[child + 1]! < heap[child]!) child++
      if (heap[child]! >= score) break
      heap[parent] = heap[child]!
      parent = child
    }
    heap[parent] = score
  }
  return heap[0]!
}

/** Nats below the maximum that are told apart; what lies lower shares one bucket (e^-40 of the maximum's weight). */
const DEPTH = 40

/**
 * The ascending running sum crosses 1−p at one score. Softmax mass is first gathered in buckets of neighbouring scores; only the
 * bucket in which the sum crosses is sorted, so a vocabulary of 64,000 costs little more than its exponentials.
 */
const topP = (p: number, { scores, kept, weights, buckets }: Workspace, count: number): number => {
  const max = maximum(scores, kept, count)
  let lowest = max
  let denominator = 0
  let finite = 0
  for (let i = 0; i < count; i++) {
    const id = kept[i]!
    const score = scores[id]!
    if (score === Number.NEGATIVE_INFINITY) continue
    if (score < lowest && score >= max - DEPTH) lowest = score
    const weight = Math.fround(Math.exp(Math.fround(score - max)))
    kept[finite] = id
    weights[finite++] = weight
    denominator += weight
  }
  denominator = Math.fround(denominator)
  const scale = lowest < max ? (BUCKETS - 1) / (max - lowest) : 0
  const bucketOf = (score: number) => Math.min(BUCKETS - 1, Math.floor((max - score) * scale))
  buckets.fill(0)
  for (let i = 0; i < finite; i++) {
    const probability = Math.fround(weights[i]! / denominator)
    weights[i] = probability
    buckets[bucketOf(scores[kept[i]!]!)]! += probability
  }
  const limit = Math.fround(1 - p)
  let crossing = BUCKETS - 1
  let sum = 0
  for (; crossing > 0; crossing--) {
    if (Math.fround(sum + buckets[crossing]!) > limit) break
    sum += buckets[crossing]!
  }
  const members: Array<number> = []
  for (let i = 0; i < finite; i++) if (bucketOf(scores[kept[i]!]!) === crossing) members.push(i)
  members.sort((a, b) => scores[kept[a]!]! - scores[kept[b]!]! || a - b)
  const banned = new Set<number>()
  for (const i of members) {
    sum += weights[i]!
    if (Math.fround(sum) > limit) break
    banned.add(i)
  }
  // bucket 0 holds the maximum, and the last of its ascending order is what "at least one" keeps
  if (crossing === 0 && banned.size === members.length) banned.delete(members[members.length - 1]!)
  let left = 0
  for (let i = 0; i < finite; i++) {
    const id = kept[i]!
    const bucket = bucketOf(scores[id]!)
    if (bucket > crossing || (bucket === crossing && banned.has(i))) continue
    kept[left++] = id
  }
  return left
}

const maximum = (scores: Float32Array, kept: Int32Array, count: number): number => {
  let max = Number.NEGATIVE_INFINITY
  for (let i = 0; i < count; i++) {
    const score = scores[kept[i]!]!
    if (score > max) max = score
  }
  return max
}
