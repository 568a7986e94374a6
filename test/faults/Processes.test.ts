/**
 * Processes that are killed, and processes that want the same. What is in the store is whole, nothing is done twice but what was in
 * flight, nobody hangs or stays, and the same command again completes with the bytes of a run that nothing happened to.
 *
 * `EXP_FAULT_TRIALS=1000` for as many random kills (60), a fifth as many power cuts and a kill at
 * every operation (every third), `EXP_FAULT_ROUNDS=200` for as many crowds (6). Trials are numbered by seed:
 * what one seed does is always the same, but for the clock.
 */
import { assert, describe, it } from "vitest"
import { FAILPOINTS } from "../../src/store/Failpoint.ts"
import {
  everyOperation,
  isClean,
  type Trial,
  trialOfCrowd,
  trialOfKill,
  trialOfPowerCut,
  trialOfRandomKills,
} from "./trials.ts"

const TRIALS = Number(process.env["EXP_FAULT_TRIALS"] ?? 60)
const ROUNDS = Number(process.env["EXP_FAULT_ROUNDS"] ?? 6)
const POWER_CUTS = Math.ceil(TRIALS / 5)
/** The operations at which a process is killed; an error is tried at all of them, elsewhere. */
const STRIDE = TRIALS > 60 ? 1 : 3
const LONG = 60_000 + (TRIALS + 10 * ROUNDS) * 3000

/** Seeds that once found something. */
const FOUND: ReadonlyArray<number> = []

const nothing: Omit<Trial, "struck"> = { wrong: [], lost: [], manual: [] }
const found = ({ wrong, lost, manual }: Trial) => ({ wrong, lost, manual })

describe("kill -9", () => {
  it.for(FAILPOINTS)("%s", async (at) => {
    const trial = await trialOfKill({ EXP_FAILPOINT: `${at}:kill:2` })
    assert.isTrue(trial.struck, "it came to pass")
    assert.deepStrictEqual(found(trial), nothing)
  })

  it(`at ${TRIALS} random moments, of the process or its group, also while it recovers`, {
    timeout: LONG,
  }, async () => {
    const bad: Array<readonly [number, Trial]> = []
    const seeds = [...FOUND, ...Array.from({ length: TRIALS }, (_, n) => n + 1)]
    let struck = 0
    const lane = async () => {
      for (let seed = seeds.shift(); seed !== undefined; seed = seeds.shift()) {
        const trial = await trialOfRandomKills(seed)
        if (trial.struck) struck++
        if (!isClean(trial)) bad.push([seed, trial])
      }
    }
    await Promise.all([lane(), lane()])
    assert.deepStrictEqual(bad, [])
    assert.isAbove(struck, TRIALS / 2)
  })

  it(`at every ${STRIDE === 1 ? "" : "third "}file operation of a run, one after the other`, {
    timeout: LONG,
  }, async () => {
    const trial = (nth: number) => trialOfKill({ EXP_FAIL_NTH: `${nth}:kill` })
    const { operations, bad } = await everyOperation("kill", trial, STRIDE)
    assert.deepStrictEqual(bad, [])
    assert.isAbove(operations, 30)
  })
})

describe("a power cut", () => {
  it(`takes no result that was on disk and passes off no torn one, at ${POWER_CUTS} random moments`, {
    timeout: LONG,
  }, async () => {
    const bad: Array<readonly [number, Trial]> = []
    let struck = 0
    for (let seed = 1; seed <= POWER_CUTS; seed++) {
      const trial = await trialOfPowerCut(seed)
      if (trial.struck) struck++
      if (!isClean(trial)) bad.push([seed, trial])
    }
    assert.deepStrictEqual(bad, [])
    assert.isAbove(struck, POWER_CUTS / 2)
  })
})

describe("two to eight processes in one workspace", () => {
  it(`make each artifact once, in ${ROUNDS} rounds, one of them asleep in the middle`, { timeout: LONG }, async () => {
    for (let seed = 1; seed <= ROUNDS; seed++)
      assert.deepStrictEqual([seed, found(await trialOfCrowd(seed))], [seed, nothing])
  })
})
