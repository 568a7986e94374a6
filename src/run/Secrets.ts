/**
 * What must not get into a file of a run: what a step throws, and a child or a server says, may hold a token.
 *
 * Taken out are tokens of an unmistakable form, credentials in addresses, and, whatever they look like, the values of environment
 * variables whose names speak of secrets. Everything else stays, so that paths and digests remain what they are.
 */
import { isAbsolute } from "node:path"
import { secretIn, withoutTokens } from "../release/Provenance.ts"

const SECRET_NAME = /token|secret|passw|credential|api_?key|access_?key|private_?key/i
/** A shorter value is no secret worth the name, and may be part of any word. */
const SHORTEST = 8

const secretValues = (): ReadonlyArray<string> =>
  Object.entries(process.env).flatMap(([name, value]) =>
    // a file of secrets has a path, which is none
    SECRET_NAME.test(name) && value !== undefined && value.length >= SHORTEST && !isAbsolute(value) ? [value] : [],
  )

const cleanText = (text: string, values: ReadonlyArray<string>): string =>
  withoutTokens(values.reduce((clean, value) => clean.replaceAll(value, "<redacted>"), text))

/** A copy in which no string holds a secret. */
export const withoutSecrets = <A>(value: A, values = secretValues()): A => {
  if (typeof value === "string") return cleanText(value, values) as A
  if (Array.isArray(value)) return value.map((each) => withoutSecrets(each, values)) as A
  if (typeof value !== "object" || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, withoutSecrets(each, values)])) as A
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
