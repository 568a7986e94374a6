/** The GPUs that this process may use, with their memory, as the driver's own tool tells them. */
import { execFile } from "node:child_process"
import * as Effect from "effect/Effect"

export interface Gpu {
  readonly name: string
  readonly memoryBytes: number
}

const TIMEOUT = 5000

/** None where there is no driver, no GPU, or none that is visible. */
export const gpusHere: Effect.Effect<ReadonlyArray<Gpu>> = Effect.callback((resume) => {
  const visible = process.env["CUDA_VISIBLE_DEVICES"]?.split(",").map((name) => name.trim())
  if (visible?.[0] === "" || visible?.[0]?.startsWith("-")) return resume(Effect.succeed([]))
  const child = execFile(
    "nvidia-smi",
    ["--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"],
    { timeout: TIMEOUT, windowsHide: true },
    (error, out) => resume(Effect.succeed(error ? [] : parse(out, visible))),
  )
  return Effect.sync(() => child.kill())
})

/** Lines of `index, uuid, name, MiB`, in the order in which they were made visible. */
export const parse = (text: string, visible?: ReadonlyArray<string>): ReadonlyArray<Gpu> => {
  const all = text.split("\n").flatMap((line) => {
    const [index, uuid, name, mebibytes] = line.split(",").map((cell) => cell.trim())
    return name === undefined || !(Number(mebibytes) > 0)
      ? []
      : [{ index, uuid, name, memoryBytes: Number(mebibytes) * 2 ** 20 }]
  })
  const chosen =
    visible === undefined
      ? all
      : visible.flatMap((wanted) => all.filter(({ index, uuid }) => wanted === index || uuid?.startsWith(wanted)))
  return chosen.map(({ name, memoryBytes }) => ({ name, memoryBytes }))
}
