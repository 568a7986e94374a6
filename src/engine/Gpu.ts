/** The GPUs of this machine with their memory, as the driver's own tool tells them. */
import { execFile } from "node:child_process"
import * as Effect from "effect/Effect"

export interface Gpu {
  readonly name: string
  readonly memoryBytes: number
  readonly driver?: string
}

/** A driver that nothing keeps awake takes seconds. */
const TIMEOUT = 15_000

const asked = (visible?: ReadonlyArray<string>): Effect.Effect<ReadonlyArray<Gpu>> =>
  Effect.callback((resume) => {
    const child = execFile(
      "nvidia-smi",
      ["--query-gpu=index,uuid,name,memory.total,driver_version", "--format=csv,noheader,nounits"],
      { timeout: TIMEOUT, windowsHide: true },
      (error, out) => resume(Effect.succeed(error ? [] : parse(out, visible))),
    )
    return Effect.sync(() => child.kill())
  })

/** None where there is no driver, or no GPU. */
export const allGpus = asked()

/** Those that this process may use. */
export const gpusHere: Effect.Effect<ReadonlyArray<Gpu>> = Effect.suspend(() => {
  const visible = process.env["CUDA_VISIBLE_DEVICES"]?.split(",").map((name) => name.trim())
  return visible?.[0] === "" || visible?.[0]?.startsWith("-") ? Effect.succeed([]) : asked(visible)
})

/** Lines of `index, uuid, name, MiB, driver`, in the order in which they were made visible. */
export const parse = (text: string, visible?: ReadonlyArray<string>): ReadonlyArray<Gpu> => {
  const all = text.split("\n").flatMap((line) => {
    const [index, uuid, name, mebibytes, driver] = line.split(",").map((cell) => cell.trim())
    return name === undefined || !(Number(mebibytes) > 0)
      ? []
      : [{ index, uuid, name, memoryBytes: Number(mebibytes) * 2 ** 20, ...(driver && { driver }) }]
  })
  const chosen =
    visible === undefined
      ? all
      : visible.flatMap((wanted) => all.filter(({ index, uuid }) => wanted === index || uuid?.startsWith(wanted)))
  return chosen.map(({ index: _, uuid: __, ...gpu }) => gpu)
}
