/**
 * Whatever happens to a run, what is in the store is whole, and the same command again completes with the bytes of a run that nothing
 * happened to.
 */
import { assert, describe, it } from "vitest"
import { FAILPOINTS } from "../../src/store/Failpoint.ts"
import { everyOperation, isClean, mayMount, type Trial, trialOfError, trialsOfRot, underLimit } from "./trials.ts"

/** `EXP_FAULT_FLIPS=5000` for as many flipped bits, `EXP_FAULT_SIZES=100` for as many sizes of a full disk. */
const FLIPS = Number(process.env["EXP_FAULT_FLIPS"] ?? 100)

const nothing: Omit<Trial, "struck"> = { wrong: [], lost: [], manual: [] }
const found = ({ wrong, lost, manual }: Trial) => ({ wrong, lost, manual })

describe("a failure at a place that has a name", () => {
  for (const at of FAILPOINTS) {
    it.for(["throw", "ENOSPC", "EIO"] as const)(`${at}: %s`, async (action) => {
      for (const nth of [1, 2]) {
        const trial = await trialOfError({ at, action, nth })
        assert.isTrue(trial.struck, "it came to pass")
        assert.deepStrictEqual(found(trial), nothing)
      }
    })
  }
})

describe("every file operation of a run, one after the other,", () => {
  it.for(["throw", "ENOSPC"] as const)("fails with %s", async (action) => {
    const { operations, bad } = await everyOperation(action, (nth) => trialOfError({ action, nth }))
    assert.deepStrictEqual(bad, [])
    assert.isAbove(operations, 30)
  })
})

describe("a store that rots", () => {
  it(`is mended before anything is read, after each of ${FLIPS} flipped bits`, {
    timeout: 60_000 + FLIPS * 500,
  }, async () => {
    const trials = await trialsOfRot(Array.from({ length: FLIPS }, (_, n) => n + 1))
    assert.lengthOf(trials, FLIPS)
    assert.deepStrictEqual(
      trials.filter(([, trial]) => !isClean(trial)),
      [],
    )
  })
})

describe("a limit that the system really sets", () => {
  const noMount = mayMount()

  it.skipIf(noMount !== undefined)(`a full disk${noMount === undefined ? "" : ` (${noMount})`}`, () => {
    const trials = underLimit("full")
    assert.isAbove(trials.filter(({ struck }) => struck).length, 10)
    for (const trial of trials) {
      assert.deepStrictEqual(found(trial), nothing)
      // a worker has its own words
      if (trial.struck)
        assert.match(trial.error!, /ENOSPC.*\n {2}hint: the disk is full: free some room|the worker ended/)
    }
  })

  it.skipIf(noMount !== undefined)("a read-only disk", () => {
    const trials = underLimit("readonly")
    assert.match(trials[0]!.error!, /EROFS.*\n {2}hint: make the runs folder writable/)
    for (const trial of trials) assert.deepStrictEqual(found(trial), nothing)
  })

  it.skipIf(process.platform === "win32")("so many open files and no more", () => {
    const trials = underLimit("descriptors")
    assert.isAbove(trials.filter(({ struck }) => struck).length, 2)
    for (const trial of trials) {
      assert.deepStrictEqual(found(trial), nothing)
      if (trial.struck) assert.match(trial.error!, /EMFILE.*\n {2}hint: too many files are open/)
    }
  })
})
