/**
 * llama.cpp through `node-llama-cpp`, where it is installed: a folder with it in `node_modules` as EXP_LLAMA_CPP, or beside this
 * project. What is asked of it is little, and written down here instead of its types.
 */
import { createRequire } from "node:module"
import { join, resolve } from "node:path"
import { pathToFileURL } from "node:url"

interface Sequence {
  readonly controlledEvaluate: (
    input: ReadonlyArray<readonly [number, { readonly generateNext: { readonly probabilities: true } }]>,
  ) => Promise<ReadonlyArray<{ readonly next: { readonly probabilities: ReadonlyMap<number, number> } }>>
  readonly clearHistory: () => Promise<void>
}
interface Loaded {
  readonly tokenize: (text: string, specialTokens: boolean) => ReadonlyArray<number>
  readonly fileInfo: { readonly metadata: { readonly general: { readonly name?: string } } }
  readonly createContext: (options: object) => Promise<{
    readonly getSequence: () => Sequence
    readonly dispose: () => Promise<void>
  }>
  readonly dispose: () => Promise<void>
}
interface Llama {
  readonly loadModel: (options: object) => Promise<Loaded>
}
interface Library {
  readonly getLlama: (options: object) => Promise<Llama>
}

const NAME = "node-llama-cpp"

const found = (() => {
  const folder = process.env["EXP_LLAMA_CPP"]
  const from = folder === undefined ? import.meta.url : join(resolve(folder), "any.js")
  try {
    return { path: createRequire(from).resolve(NAME) }
  } catch {
    return { why: `\`${NAME}\` is not installed; set EXP_LLAMA_CPP to a folder that has it` }
  }
})()

/** Why llama.cpp cannot be asked here, if it cannot. */
export const noLlama = found.why

export interface Model {
  /** Ids of a text, special tokens neither added nor parsed. */
  readonly tokenize: (text: string) => ReadonlyArray<number>
  /** After each token, the probabilities of the whole vocabulary. */
  readonly probabilities: (ids: ReadonlyArray<number>, vocabulary: number) => Promise<ReadonlyArray<Float64Array>>
  /** The likeliest token, again and again. */
  readonly greedy: (ids: ReadonlyArray<number>, count: number) => Promise<ReadonlyArray<number>>
  readonly close: () => Promise<void>
}

let started: Promise<Llama> | undefined
const start = async (): Promise<Llama> => {
  const { getLlama } = (await import(pathToFileURL(found.path!).href)) as Library
  return getLlama({ gpu: false, build: "never", skipDownload: true, progressLogs: false, logLevel: "error" })
}

/** Keys and values are kept in single precision, or the cache alone would round more than is asked about. */
export const loadModel = async (path: string, context: number): Promise<Model> => {
  started ??= start()
  const llama = await started
  const model = await llama.loadModel({ modelPath: path })
  const open = await model.createContext({
    // a context that is full is shifted, and what is seen afterwards is another text
    contextSize: 2 * context,
    batchSize: 2 * context,
    // its threads wait for one another by spinning, which is slow where others work too
    threads: 1,
    flashAttention: false,
    experimentalKvCacheKeyType: "F32",
    experimentalKvCacheValueType: "F32",
  })
  const sequence = open.getSequence()
  return {
    tokenize: (text) => model.tokenize(text, false),
    probabilities: async (ids, vocabulary) => {
      await sequence.clearHistory()
      const answers = await sequence.controlledEvaluate(
        ids.map((id) => [id, { generateNext: { probabilities: true } }]),
      )
      return answers.map(({ next }) => {
        const all = new Float64Array(vocabulary)
        for (const [token, probability] of next.probabilities) all[token] = probability
        return all
      })
    },
    greedy: async (ids, count) => {
      await sequence.clearHistory()
      const tokens: Array<number> = []
      for (let next = ids; tokens.length < count; next = tokens.slice(-1)) {
        const answers = await sequence.controlledEvaluate(
          next.map((id) => [id, { generateNext: { probabilities: true } }]),
        )
        // the likeliest comes first
        const [likeliest] = answers.at(-1)!.next.probabilities.keys()
        tokens.push(likeliest!)
      }
      return tokens
    },
    close: async () => {
      await open.dispose()
      await model.dispose()
    },
  }
}
