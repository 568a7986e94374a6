/**
 * Watts of this machine's processors, where the kernel counts their energy (Intel and AMD packages on Linux, readable by whoever
 * may). A counter counts microjoules and begins anew at its range.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"

const COUNTERS = "/sys/class/powercap"

interface Counter {
  readonly path: string
  readonly range: number
  readonly began: number
}

const numberIn = (path: string): number => Number(readFileSync(path, "utf8"))

/** Packages only: what is inside one is counted in it already. */
const packagesBelow = (folder: string): ReadonlyArray<Counter> => {
  try {
    if (!existsSync(folder)) return []
    return readdirSync(folder)
      .filter((name) => /^intel-rapl:\d+$/.test(name))
      .map((name) => {
        const path = join(folder, name, "energy_uj")
        return { path, range: numberIn(join(folder, name, "max_energy_range_uj")), began: numberIn(path) }
      })
  } catch {
    return []
  }
}

/** Starts counting; what is returned says the watts since, or nothing where nobody counts. */
export const energyMeter = (folder = COUNTERS, now: () => number = () => performance.now()) => {
  const counters = packagesBelow(folder)
  const began = now()
  return (): number | undefined => {
    const seconds = (now() - began) / 1000
    if (counters.length === 0 || seconds <= 0) return undefined
    try {
      const joules = counters.reduce((sum, { path, range, began }) => {
        const here = numberIn(path)
        return sum + (here >= began ? here - began : here + range - began) / 1e6
      }, 0)
      return joules > 0 ? joules / seconds : undefined
    } catch {
      return undefined
    }
  }
}
