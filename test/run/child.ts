/** A whole run in a process of its own. Arguments: the store, and the order of keys in a parameter. */
import { experiment } from "../../src/plan/Plan.ts"
import { run } from "./running.ts"
import { finish, grow, pick, polish, source } from "./steps.ts"

const [root, order] = process.argv.slice(2)
const options = Object.fromEntries([...order!].map((name) => [name, name.charCodeAt(0)]))
const ran = await run(
  root!,
  experiment("child", function* () {
    const base = yield* grow({ rate: 0.1, keepEvery: 1, steps: 3, from: yield* source({ text: "İi", options }) })
    return yield* polish({ shine: 1, model: yield* pick({ among: [yield* finish({ from: base.stableAt(3) })] }) })
  }),
)
if (ran.error !== undefined) throw ran.error
