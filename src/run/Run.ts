/**
 * Walk a plan. The key of a step is made of what its inputs turned out to be, not of which steps made them: a selection that picks
 * the same model again leaves everything after it cached.
 *
 * A step runs when all its inputs are known and the machine has a place for it (`Places.ts`) and room for its files (`Disk.ts`). What
 * the store has is reused; what it lacks is made by the step's own doing; what it had and lost is made again by its producer before
 * anybody reads it.
 */
import { setFlagsFromString } from "node:v8"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import type * as Path from "effect/Path"
import * as Queue from "effect/Queue"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import { letGrow } from "../data/YoungSpace.ts"
import { Engine } from "../engine/Engine.ts"
import { Headway, type Reached } from "../engine/Headway.ts"
import { Remarks } from "../engine/Remarks.ts"
import { Telemetry } from "../engine/Telemetry.ts"
import type { Ref } from "../model/Artifact.ts"
import type { Node } from "../plan/Plan.ts"
import { ordinary } from "../plan/Resources.ts"
import type { MadeWith, Outside } from "../plan/Step.ts"
import type { Input, Lineage, Outcome, Progress, RunFacts, Work } from "../plan/Work.ts"
import { Room } from "../store/Disk.ts"
import type { InputRecord, Manifest } from "../store/Manifest.ts"
import { type ArtifactDamaged, Store, type StoreFailed } from "../store/Store.ts"
import { codeDigest } from "./Code.ts"
import { turns, withBodies, within } from "./FanOut.ts"
import { frontier } from "./Frontier.ts"
import { keyOf, madeWith } from "./Key.ts"
import { type Machine, thisMachine, tooSmall } from "./Machine.ts"
import { Places } from "./Places.ts"
import { foreseen } from "./Refusals.ts"
import { Reporter } from "./Reporter.ts"

export class StepFailed extends Schema.TaggedError<StepFailed>()("StepFailed", {
  label: Schema.String,
  cause: Schema.Defect(),
}) {
  override get message() {
    const cause = this.cause
    return `${this.label}: ${cause instanceof Error ? cause.message : String(cause)}`
  }
}

/** What a doing may ask for. */
type Services = Engine | FileSystem.FileSystem | Path.Path

/** What a reference turned out to be: one thing, or for a fan-out a list. */
type Known = ReadonlyArray<InputRecord>

export interface StepResult {
  readonly node: Node
  /** Absent for a fan-out, which makes nothing itself. */
  readonly manifest?: Manifest
  readonly made: boolean
}

export const partFolder = (part: string): string => `checkpoints/${part}`

/** How many steps beyond those that run are asked what they need: large ones that wait do not hide small ones behind them. */
const LOOKAHEAD = 16

/** A plan of so many steps is orchestration more than computing: V8 collects at a fifth more than what is alive, not at its double. */
const LARGE_PLAN = 1000

export interface RunOptions {
  /** Steps side by side at most. */
  readonly jobs: number
  readonly machine?: Machine
  readonly facts: RunFacts
}

export const runPlan = Effect.fn("runPlan")(function* (nodes: ReadonlyArray<Node>, options: RunOptions) {
  const store = yield* Store
  const engine = yield* Engine
  const reporter = yield* Reporter
  const services = yield* Effect.context<Services>()
  const machine = options.machine ?? thisMachine()
  const places = new Places(machine, options.jobs)
  const room = new Room(store.root, machine.freeBytes)
  const code = codeDigest()
  const results = new Map<string, StepResult>()
  /** How each artifact of this run is made, should it turn out to be damaged. */
  const producers = new Map<string, Node>()
  /** What this run knows, by identity: stands in for the same thing out of an artifact of another length. */
  const standIns = new Map<string, InputRecord>()
  const known = new Map<string, Deferred.Deferred<Known, StepFailed>>()
  const makers = new Map<string, { readonly turn: Semaphore.Semaphore; length: number }>()
  const ahead = foreseen(nodes)
  const manifestsSeen = new Map<string, Manifest>()
  const manifestOf = (artifact: string): Manifest => {
    const manifest = manifestsSeen.get(artifact)
    if (manifest === undefined) throw new Error(`${artifact} was not resolved before it was used`)
    return manifest
  }

  const resolve = (ref: Ref): Effect.Effect<Known, StepFailed> =>
    Effect.gen(function* () {
      if (ref._tag === "Item") return yield* Effect.die(new Error("an item of a fan-out was used outside it"))
      const records = yield* Deferred.await(known.get(ref.step)!)
      if (ref.part === undefined) return records
      const { part } = ref
      const parts = records.flatMap((record) => within(record, part, manifestOf(record.artifact)))
      for (const part of parts) standIns.set(part.identity, part)
      return parts
    })

  /** What a selection chose, unless the selection itself is asked for. */
  const settled = (record: InputRecord, whole: boolean): InputRecord => {
    const { chosen } = manifestOf(record.artifact)
    return chosen === undefined || whole ? record : settled(chosen, false)
  }

  /**
   * An input as a step sees it, every byte of it hashed before it is read. One that is damaged is made again by its producer, here
   * and now; where this run has it out of another artifact, that one is taken.
   */
  const toInput = (record: InputRecord): Effect.Effect<Input, ArtifactDamaged | StoreFailed | StepFailed, Services> =>
    store.verify(record.artifact).pipe(
      Effect.catchTag("ArtifactDamaged", (damaged) =>
        Effect.gen(function* () {
          const producer = producers.get(record.artifact)
          if (producer === undefined) return yield* damaged
          yield* doStep(producer, damaged.problem)
          return yield* store.verify(record.artifact)
        }),
      ),
      Effect.map((manifest) => {
        manifestsSeen.set(record.artifact, manifest)
        const folder = store.pathOf(record.artifact)
        return { ...record, path: record.part === undefined ? folder : `${folder}/${partFolder(record.part)}` }
      }),
      Effect.catchTag("ArtifactDamaged", (damaged) => {
        const standIn = standIns.get(record.identity)
        return standIn === undefined || standIn.artifact === record.artifact ? Effect.fail(damaged) : toInput(standIn)
      }),
    )

  const toInputs = (inputs: Readonly<Record<string, Known>>, whole: (name: string) => boolean) =>
    Effect.map(
      Effect.forEach(Object.entries(inputs), ([name, records]) =>
        Effect.map(
          Effect.forEach(records, (record) => toInput(settled(record, whole(name)))),
          (given) => [name, given] as const,
        ),
      ),
      Object.fromEntries<ReadonlyArray<Input>>,
    )

  /** Every artifact that a manifest names is loaded, so that lineage can be followed without asking the store again. */
  const remember = (manifest: Manifest): Effect.Effect<void, StoreFailed> =>
    Effect.gen(function* () {
      manifestsSeen.set(manifest.artifact, manifest)
      const further = [...Object.values(manifest.inputs).flat(), ...(manifest.chosen ? [manifest.chosen] : [])]
      for (const { artifact } of further) {
        if (manifestsSeen.has(artifact)) continue
        const found = yield* store.find(artifact)
        if (found !== undefined) yield* remember(found)
      }
    })

  const lineageOf = (artifact: string): Effect.Effect<Lineage, Error> =>
    Effect.gen(function* () {
      const { path } = yield* toInput({ artifact, identity: manifestOf(artifact).identity })
      const { kind, key, identity, chosen, params, inputs } = manifestOf(artifact)
      const given = yield* Effect.forEach(Object.entries(inputs), ([name, records]) =>
        Effect.map(Effect.forEach(records, toInput), (known) => [name, known] as const),
      )
      return {
        artifact,
        path,
        kind,
        key,
        identity,
        ...(chosen !== undefined && { chosen: yield* toInput(chosen) }),
        params,
        inputs: Object.fromEntries(given),
      }
    }).pipe(Effect.provideContext(services))

  /** Artifacts of the same identity that are whole. */
  const kinOf = (kind: string, identity: string): Work["kin"] =>
    Effect.gen(function* () {
      const kin: Array<{ readonly path: string; readonly params: Readonly<Record<string, unknown>> }> = []
      for (const { artifact, params, ...other } of yield* store.list(kind)) {
        if (other.identity !== identity) continue
        const whole = yield* Effect.result(store.verify(artifact))
        if (Result.isSuccess(whole)) kin.push({ path: store.pathOf(artifact), params })
      }
      return kin
    })

  /** Steps that make the same artifact do it one after the other, and only the first of them takes a place. */
  const alone = <A, E, R>(artifact: string, work: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.suspend(() => {
      const line = makers.get(artifact) ?? { turn: Semaphore.makeUnsafe(1), length: 0 }
      makers.set(artifact, line)
      line.length++
      return Effect.ensuring(
        line.turn.withPermits(1)(work),
        Effect.sync(() => {
          if (--line.length === 0) makers.delete(artifact)
        }),
      )
    })

  /** `lost`: what became of its artifact, by which somebody who has a place already needs it again. */
  const doStep = (node: Node, lost?: string): Effect.Effect<Known, StepFailed, Services> =>
    Effect.gen(function* () {
      const { definition } = node
      const inputs = Object.fromEntries(
        yield* Effect.forEach(Object.entries(node.inputs), ([name, refs]) =>
          Effect.map(Effect.forEach(refs, resolve), (records) => [name, records.flat()] as const),
        ),
      )
      if (node.body !== undefined) return yield* fanOut(node, node.body, inputs["of"]!)
      const outside =
        definition.outside === undefined
          ? undefined
          : yield* outsideOf(definition.outside, node.params, madeWith(inputs, manifestOf))
      const keyed = keyOf(node, inputs, manifestOf, outside, engine.numerics)
      const named = { step: node.id, label: node.label, artifact: keyed.artifact }
      const resources = node.resources ?? ordinary
      const emitNote = (text: string) => reporter.emit({ _tag: "StepNote", step: node.id, label: node.label, text })
      const emitProgress = (progress: Progress) =>
        reporter.emit({ _tag: "StepProgress", step: node.id, label: node.label, progress })
      const damaged = (problem: string) => emitNote(`was damaged (${problem}): made anew`)
      const produce = Effect.gen(function* () {
        if (definition.computes) letGrow()
        const started = performance.now()
        reporter.emit({ _tag: "StepStarted", ...named, resources })
        const given = yield* toInputs(inputs, (name) => definition.wholeSelection?.includes(name) ?? false)
        const { manifest, made } = yield* store.make(
          {
            artifact: keyed.artifact,
            kind: definition.kind,
            version: definition.version,
            key: keyed.key,
            identity: keyed.identity,
            params: node.params,
            ...(outside !== undefined && { outside: outside as Readonly<Record<string, unknown>> }),
            inputs,
            ...(definition.computes && { engine: engine.numerics }),
            code,
          },
          {
            resumable: definition.resumable ?? false,
            onWait: () => emitNote("another process is making it: waiting"),
          },
          ({ out, scratch }) => {
            let own: Progress | undefined
            const work: Work = {
              label: node.label,
              key: keyed.key,
              identity: keyed.identity,
              params: node.params,
              outside,
              inputs: given,
              out,
              scratch,
              progress: (progress) => {
                own = progress
                emitProgress(progress)
              },
              note: emitNote,
              lineage: lineageOf,
              kin: kinOf(definition.kind, keyed.identity),
              run: options.facts,
            }
            const doing = (
              Effect.scoped(definition.run!(work)) as Effect.Effect<Outcome | undefined, unknown, Services>
            ).pipe(
              Effect.provideService(Telemetry, (reading) =>
                reporter.emit({ _tag: "StepDevice", step: node.id, label: node.label, reading }),
              ),
              Effect.provideService(Remarks, emitNote),
              Effect.provideService(Headway, (reached) => emitProgress(together(own, reached))),
            )
            return Effect.map(
              room.within({ folders: [out, scratch], bytes: bytesToWrite(node, given) }, doing),
              (outcome) => {
                if (outcome?.chosen === undefined) return {}
                const { identity, artifact, part } = outcome.chosen
                return { chosen: { identity, artifact, ...(part !== undefined && { part }) } }
              },
            )
          },
        )
        yield* remember(manifest)
        const seconds = (performance.now() - started) / 1000
        const bytes = manifest.files.reduce((sum, file) => sum + file.bytes, 0)
        reporter.emit(made ? { _tag: "StepFinished", ...named, seconds, bytes } : { _tag: "StepCached", ...named })
        results.set(node.id, { node, manifest, made: made || results.get(node.id)?.made === true })
      }).pipe(failingAs(node))
      const record = { identity: keyed.identity, artifact: keyed.artifact }
      if (lost !== undefined) {
        const refused = tooSmall(machine, node.label, resources)
        if (refused !== undefined) return yield* refused
        damaged(lost)
        yield* alone(keyed.artifact, produce)
        return [record]
      }
      // the node, not the effect: what an effect holds on to is most of the memory of a large plan
      producers.set(keyed.artifact, node)
      standIns.set(record.identity, record)
      const makeOrTake = Effect.gen(function* () {
        const before = yield* store.find(keyed.artifact, damaged)
        if (before === undefined) return yield* places.within(node.label, resources, produce)
        yield* remember(before)
        reporter.emit({ _tag: "StepCached", ...named })
        results.set(node.id, { node, manifest: before, made: false })
      })
      yield* alone(keyed.artifact, makeOrTake)
      for (const { later, check } of ahead.after(node.id)) {
        const look = check(store.pathOf(keyed.artifact)) as Effect.Effect<void, unknown, Services>
        // what it read may have rotted: a refusal counts when every byte is as it was stored
        const lookAgain = (refusal: unknown) =>
          Effect.matchEffect(store.verify(keyed.artifact), {
            onFailure: () => Effect.andThen(alone(keyed.artifact, makeOrTake), look),
            onSuccess: () => Effect.fail(refusal),
          })
        yield* Effect.catch(look, lookAgain).pipe(failingAs(later))
      }
      return [record]
    }).pipe(failingAs(node))

  const failingAs =
    (node: Node) =>
    <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, StepFailed, R> =>
      Effect.catch(effect, (cause) => {
        if (cause instanceof StepFailed) return Effect.fail(cause)
        const error = cause instanceof Error ? cause.message : String(cause)
        reporter.emit({ _tag: "StepFailed", step: node.id, label: node.label, error })
        return Effect.fail(new StepFailed({ label: node.label, cause }))
      })

  /** The body of a fan-out, once for each thing there turned out to be. */
  const fanOut = (
    node: Node,
    body: NonNullable<Node["body"]>,
    items: Known,
  ): Effect.Effect<Known, StepFailed | Error, Services> =>
    Effect.gen(function* () {
      if (items.length > body.atMost)
        return yield* Effect.fail(
          new Error(
            `there are ${items.length} items, more than the plan allows\n  hint: raise \`atMost\` to ${items.length}`,
          ),
        )
      reporter.emit({ _tag: "FanOut", step: node.id, label: node.label, items: items.length })
      const yields = yield* Effect.forEach(
        turns(node, body, items),
        (turn) =>
          Effect.gen(function* () {
            const there = yield* Deferred.make<Known, StepFailed>()
            yield* Deferred.succeed(there, [turn.item])
            known.set(turn.itemId, there)
            yield* runAll(turn.nodes)
            return (yield* Effect.forEach(turn.yields, resolve)).flat()
          }),
        { concurrency: "unbounded" },
      )
      return yields.flat()
    })

  const finish = (node: Node): Effect.Effect<Known, StepFailed, Services> =>
    Effect.flatMap(Effect.exit(doStep(node)), (exit) => Effect.andThen(Deferred.done(known.get(node.id)!, exit), exit))

  const runAll = (all: ReadonlyArray<Node>): Effect.Effect<void, StepFailed, Services> =>
    Effect.suspend(() => {
      for (const node of all) known.set(node.id, Deferred.makeUnsafe())
      return options.jobs === 1 ? Effect.forEach(all, finish, { discard: true }) : sideBySide(all)
    })

  /** Bytes that a step leaves in its workplace at most, resume points included. */
  const bytesToWrite = (node: Node, given: Readonly<Record<string, ReadonlyArray<Input>>>): number => {
    const { diskBytes = 0, scratchBytes = 0 } = node.forecast
    const { writes } = node.definition
    if (writes === undefined) return diskBytes + scratchBytes
    const weigh = ({ artifact, part }: Input): number =>
      manifestOf(artifact).files.reduce(
        (sum, { path, bytes }) => (part === undefined || path.startsWith(`${partFolder(part)}/`) ? sum + bytes : sum),
        0,
      )
    const weights = Object.entries(given).map(([name, inputs]) => [
      name,
      inputs.reduce((sum, input) => sum + weigh(input), 0),
    ])
    return writes(node.params, Object.fromEntries(weights)) ?? 0
  }

  /**
   * Workers take steps whose inputs are there. A fan-out is no work itself and its body may wait for steps around it, so it never
   * holds a worker: nothing that a worker does waits for a step that is still in line.
   */
  const sideBySide = (all: ReadonlyArray<Node>): Effect.Effect<void, StepFailed, Services> =>
    Effect.gen(function* () {
      const { first, after } = frontier(all)
      const line = yield* Queue.unbounded<Node | undefined>()
      let left = all.length
      const enter = (nodes: ReadonlyArray<Node>): void =>
        void Queue.offerAllUnsafe(
          line,
          nodes.filter((node) => node.body === undefined),
        )
      const leave = (node: Node): void => {
        enter(after(node))
        left--
        if (left === 0) Queue.offerAllUnsafe(line, workers)
      }
      const through = (node: Node) => Effect.map(finish(node), () => leave(node))
      const fanOuts = all.filter((node) => node.body !== undefined)
      const workers: ReadonlyArray<undefined> = Array.from({ length: Math.min(options.jobs + LOOKAHEAD, all.length) })
      const worker = Effect.gen(function* () {
        for (let node = yield* Queue.take(line); node !== undefined; node = yield* Queue.take(line))
          yield* through(node)
      })
      enter(first)
      yield* Effect.all([...fanOuts.map(through), ...workers.map(() => worker)], {
        concurrency: "unbounded",
        discard: true,
      })
    })

  if (nodes.length >= LARGE_PLAN) setFlagsFromString("--heap-growing-percent=20")
  yield* runAll(nodes)
  yield* store.settle
  return [...results.values()] as ReadonlyArray<StepResult>
})

/** How far a step is: by its own count, of which one request to the engine is a detail; by the engine's where it has none. */
const together = (own: Progress | undefined, { done, total, unit }: Reached): Progress =>
  own === undefined ? { done, total, unit } : { ...own, detail: `${done}/${total} ${unit}` }

const outsideOf = (outside: Outside, params: unknown, given: MadeWith) =>
  outside(params, given) as Effect.Effect<unknown, unknown, Services>

/** The part of a plan that is needed for the steps of one kind, or with one label or id. */
export const until = (nodes: ReadonlyArray<Node>, wanted: string): ReadonlyArray<Node> | undefined => {
  const byId = new Map(nodes.map((node) => [node.id, node]))
  const targets = nodes.filter((node) => node.definition.kind === wanted || node.label === wanted || node.id === wanted)
  if (targets.length === 0) return undefined
  const needed = new Set<string>()
  const visit = (node: Node): void => {
    if (needed.has(node.id)) return
    needed.add(node.id)
    for (const ref of withBodies([node]).flatMap((one) => [
      ...Object.values(one.inputs).flat(),
      ...(one.body?.yields ?? []),
    ]))
      if (ref._tag === "Output" && byId.has(ref.step)) visit(byId.get(ref.step)!)
  }
  targets.forEach(visit)
  return nodes.filter((node) => needed.has(node.id))
}
