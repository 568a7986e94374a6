/**
 * What must not get into a file of a run: what a step throws, and a child or a server says, may hold a token.
 *
 * Taken out are tokens of an unmistakable form, credentials in addresses, and, whatever they look like, the values of environment
 * variables whose names speak of secrets. Everything else stays, so that paths and digests remain what they are.
 */
import { isAbsolute } from "node:path"
import { secretIn, withoutTokens } from "../release/Provenance.ts"

const SECRET_NAME = /(^|_)(token|secrets?|password|passwd|credentials?|api_?key|access_?key|private_?key)($|_)/i
/** A shorter value, or a mere word such as `benchmark`, cannot be told from other text. */
const isTelling = (value: string): boolean => value.length >= 8 && !/^\p{L}+$/u.test(value)

const secretValues = (): ReadonlyArray<string> =>
  Object.entries(process.env).flatMap(([name, value]) =>
    // a file of secrets has a path, which is none
    SECRET_NAME.test(name) && value !== undefined && isTelling(value) && !isAbsolute(value) ? [value] : [],
  )

const cleanText = (text: string, values: ReadonlyArray<string>): string =>
  withoutTokens(values.reduce((clean, value) => clean.replaceAll(value, "<redacted>"), text))

/** Where the words of others get in. All else is our own, and `exp gc` reads artifacts' names back. */
const FREE_TEXT: ReadonlySet<string> = new Set(["error", "text", "detail"])

/** A copy in which no free text holds a secret. Most records have none: they come back as they are. */
export const withoutSecrets = <A extends object>(record: A): A => {
  const free = Object.entries(record).filter(([name, value]) => FREE_TEXT.has(name) && typeof value === "string")
  if (free.length === 0) return record
  const values = secretValues()
  return { ...record, ...Object.fromEntries(free.map(([name, text]) => [name, cleanText(text, values)])) }
}

/** What kind of secret an experiment or its parameters hold, which would go into every run folder; null when none. */
export const secretOf = (texts: ReadonlyArray<string>): string | null => {
  const values = secretValues()
  for (const text of texts) {
    const kind = secretIn(text)
    if (kind !== null) return kind
    if (values.some((value) => text.includes(value))) return "the value of a secret environment variable"
  }
  return null
}
