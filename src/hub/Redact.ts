/**
 * Takes out of a text what must not be shown: signatures in addresses, and tokens in whatever form a server may echo them.
 */
import * as Redacted from "effect/Redacted"

const TOKENS = /\b(?:hf|api_org)_[A-Za-z0-9]{8,}/g

/** An address without its query, which is where signatures are. */
export const withoutQuery = (address: string): string => address.replace(/[?#].*$/s, "?<left out>")

export const redact = (text: string, token?: Redacted.Redacted<string>): string => {
  const secret = token === undefined ? "" : Redacted.value(token)
  const known = text.replaceAll(TOKENS, "<token>")
  return (secret === "" ? known : known.replaceAll(secret, "<token>"))
    .replaceAll(/https?:\/\/[^\s"'<>]+/g, withoutQuery)
    .replaceAll(/\bBearer\s+[^\s"']+/gi, "Bearer <token>")
    .slice(0, 500)
}

/** On one line, and without what would steer a terminal or cannot be seen: the words may be those of a stranger's file. */
export const plainly = (words: string): string =>
  words
    .replaceAll(/\s*\n\s*/g, "; ")
    .replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (sign) => `\\u{${sign.codePointAt(0)!.toString(16)}}`)
