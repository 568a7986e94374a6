/** The fixed cases that would fill memory if they could, one after another; prints how many, and what memory grew by at most. */
import { cases } from "./cases.ts"
import { judge } from "./judge.ts"

const large = cases.filter(({ title }) => /GB|MB|billion|deep|endless/.test(title))
const before = Math.round(process.resourceUsage().maxRSS / 1000)
for (const { title, reader, files, target } of large) {
  const outcome = await judge(reader, files, target)
  const peak = Math.round(process.resourceUsage().maxRSS / 1000)
  if (process.argv[2] === "--each") process.stderr.write(`${peak} ${outcome} ${title}\n`)
}
const peak = Math.round(process.resourceUsage().maxRSS / 1000)
console.log(JSON.stringify({ cases: large.length, grownMegabytes: peak - before }))
