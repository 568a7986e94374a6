/**
 * What a run says while it runs. Renderers (terminal, plain lines, NDJSON) listen; the journal writes everything down.
 */
import * as Context from "effect/Context"
import type { DeviceReading } from "../engine/Telemetry.ts"
import type { Resources } from "../plan/Resources.ts"
import type { Progress } from "../plan/Work.ts"
import type { Capacity } from "./Machine.ts"

/** A step of the plan and how much work it is: optimizer steps where they are known, else one. */
export interface PlannedWork {
  readonly step: string
  readonly kind: string
  readonly amount: number
}

/** What is expected of one step. */
export interface Foretold {
  readonly step: string
  readonly seconds?: number
  readonly memoryBytes?: number
  readonly diskBytes?: number
}

/** A sentence about a step. */
export interface Note {
  readonly step: string
  readonly label: string
  readonly text: string
}

export type RunEvent =
  | {
      readonly _tag: "RunStarted"
      readonly experiment: string
      readonly run: string
      readonly steps: number
      readonly work: ReadonlyArray<PlannedWork>
      /** Steps side by side at most, and what there is for them. */
      readonly jobs: number
      readonly machine: Capacity
      /** Absent where nothing is computed, or the plan is too long to ask. */
      readonly forecast?: ReadonlyArray<Foretold>
      /** Who computes and why, where somebody asked for an engine. */
      readonly engine?: string
    }
  | { readonly _tag: "StepCached"; readonly step: string; readonly label: string; readonly artifact: string }
  | {
      readonly _tag: "StepStarted"
      readonly step: string
      readonly label: string
      readonly artifact: string
      /** What is set aside for it while it runs. */
      readonly resources: Resources
    }
  | { readonly _tag: "StepProgress"; readonly step: string; readonly label: string; readonly progress: Progress }
  /** What the engine says of its device while the step runs: `device.jsonl` of the run's folder has it, the journal does not. */
  | { readonly _tag: "StepDevice"; readonly step: string; readonly label: string; readonly reading: DeviceReading }
  | ({ readonly _tag: "StepNote" } & Note)
  | {
      readonly _tag: "StepFinished"
      readonly step: string
      readonly label: string
      readonly artifact: string
      readonly seconds: number
      /** Of the artifact's files. */
      readonly bytes: number
      /** Most that was held while it ran, by this process or by the engine's own. */
      readonly peakMemoryBytes?: number
    }
  | { readonly _tag: "StepFailed"; readonly step: string; readonly label: string; readonly error: string }
  | { readonly _tag: "FanOut"; readonly step: string; readonly label: string; readonly items: number }
  | { readonly _tag: "RunInterrupted"; readonly run: string }
  | {
      readonly _tag: "RunFinished"
      readonly run: string
      /** Folder of the run, and of each release it made. */
      readonly folder: string
      readonly releases: ReadonlyArray<string>
      readonly made: number
      readonly cached: number
      readonly seconds: number
    }

export class Reporter extends Context.Service<Reporter, { readonly emit: (event: RunEvent) => void }>()(
  "exp/run/Reporter",
) {}
