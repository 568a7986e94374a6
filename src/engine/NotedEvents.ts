/**
 * What an engine noted for a listener that it runs ahead of: `<resume folder>/events.ndjson` holds the `Step`, `Validation` and `Samples`
 * events, in order, from the resume point before to the newest resume point or kept checkpoint. An engine that waits for its listener
 * writes none.
 */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import type { TrainEvent } from "./Engine.ts"

export type NotedEvent = Extract<TrainEvent, { readonly _tag: "Step" | "Validation" | "Samples" }>

const parsed = (line: string): NotedEvent | undefined => {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}

/** In the order of the training; empty where nothing was noted. */
export const notedEvents = (resumeFolder: string): ReadonlyArray<NotedEvent> => {
  let text: string
  try {
    text = readFileSync(join(resumeFolder, "events.ndjson"), "utf8")
  } catch {
    return []
  }
  return text.split("\n").flatMap((line) => parsed(line) ?? [])
}

/**
 * The noted events that take telemetry further than `reached`, the last step that was heard; they begin at or before it, since what
 * was measured after that step may not have been heard any more. Empty where they say nothing new, or would leave a gap.
 */
export const unheard = (
  noted: ReadonlyArray<NotedEvent>,
  reached: number,
  startStep: number,
): ReadonlyArray<NotedEvent> => {
  const steps = noted.filter(({ _tag }) => _tag === "Step").map(({ step }) => step)
  const [first, last] = [steps[0], steps.at(-1)]
  if (first === undefined || last === undefined || last < reached) return []
  return first <= reached || first === startStep + 1 ? noted.filter(({ step }) => step >= first) : []
}
