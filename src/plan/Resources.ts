/**
 * What a step needs of the machine while it runs: it says how many steps go side by side, and on which machine a step cannot go at
 * all. It changes no byte of a result and is no part of any key.
 */
export interface Resources {
  /** Cores it keeps busy, fractions allowed. `all`: it spreads over whatever there is, as the lanes of an engine do. */
  readonly cpus: number | "all"
  /** What it holds at least, in bytes; 0 where that is not worth counting. */
  readonly memoryBytes: number
  readonly gpus: number
}

/** Of a step that declares nothing. */
export const ordinary: Resources = { cpus: 1, memoryBytes: 0, gpus: 0 }

/** The first need that is no amount; undefined when all are. */
export const misdeclared = (resources: Resources): keyof Resources | undefined =>
  (Object.keys(ordinary) as Array<keyof Resources>).find((name) => {
    const amount = resources[name]
    return !(name === "cpus" && amount === "all") && !(Number.isFinite(amount) && (amount as number) >= 0)
  })
