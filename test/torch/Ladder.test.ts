/** A plan reckons with the ways of fitting a GPU that the worker will try, in the order in which it tries them. */
import { assert, describe, it } from "vitest"
import type { MemoryQuestion } from "../../src/engine/Memory.ts"
import { ladder } from "../../src/engine/torch/Memory.ts"
import { settingsOf } from "../../src/engine/torch/Numerics.ts"
import type { MachineSettings } from "../../src/engine/torch/Settings.ts"
import { run, runnable, titled } from "./worker.ts"

/** 1.3 billion parameters: 21 GB of weights, gradients and moments, 13 with moments of 8 bits. */
const architecture = { family: "gpt2", layers: 24, width: 2048, heads: 16, context: 1024, vocabulary: 50_257 } as const

const choices = ["auto", true, false] as const
const settings: ReadonlyArray<MachineSettings> = [
  ...choices.flatMap((activationCheckpointing) =>
    choices.map((offloadOptimizer) => ({ activationCheckpointing, offloadOptimizer })),
  ),
  ...([1, 4] as const).flatMap((processes) =>
    (["auto", "ddp", "fsdp"] as const).flatMap((sharding) => [
      { processes, sharding },
      { processes, sharding, memoryFraction: 0.5 },
    ]),
  ),
]
const cases = ["bf16", "bf16+adam8bit"].flatMap((precision) =>
  [16, 24, 40, 80].flatMap((gibibytes) => settings.map((machine) => ({ precision, gibibytes, machine }))),
)

const question = ({ precision, gibibytes, machine }: (typeof cases)[number]): MemoryQuestion => ({
  ...{ numerics: { name: "torch", precision }, architecture, rowsPerStep: 32, length: 1024, settings: machine },
  room: { device: "gpu", gpuBytes: gibibytes * 2 ** 30, hostBytes: 256 * 2 ** 30 },
})

describe.skipIf(!runnable)(titled("the ways to fit a GPU"), { timeout: 120_000 }, () => {
  it("are the worker's own, for every setting", () => {
    const asked = cases.map(({ precision, gibibytes, machine }) => ({
      settings: { ...settingsOf(precision), ...machine },
      there: Math.floor(gibibytes * 2 ** 30 * (machine.memoryFraction ?? 1)),
    }))
    const ways = JSON.parse(
      run(`
import json
from exp_torch.architecture import tensors
from exp_torch.memory import ladder, shares_out
from exp_torch.settings import parse
from exp_torch.trainer import held_bytes
shape, asked = json.loads(${JSON.stringify(JSON.stringify([architecture, asked]))})
def ways(one):
    settings = parse(one["settings"])
    held = held_bytes(tensors(shape), settings.optimizerState == "8bit")
    sharded = shares_out(settings, settings.processes, held, one["there"])
    return [{"recompute": blocks > 0, "offload": host, "sharded": sharded} for blocks, host in ladder(settings, shape["layers"])]
print(json.dumps([ways(one) for one in asked]))`),
    ) as ReadonlyArray<ReturnType<typeof ladder>>
    cases.forEach((one, i) => {
      assert.deepStrictEqual(ladder(question(one)), ways[i], JSON.stringify(one))
    })
    // both ways of sharing are among them, and more and fewer rungs
    assert.sameMembers([...new Set(ways.map((of) => of[0]!.sharded))], [true, false])
    assert.sameMembers([...new Set(ways.map((of) => of.length))], [1, 2, 3])
  })
})
