/**
 * Free text in Markdown. A prompt, a preset's name or an attribution may hold anything; in a card it must show as the characters
 * it is: no markup, no HTML, no link that was not ours, no new line that could start a heading or close the front matter.
 */

/** Marks around everything that comes from a file of the release; private-use characters, taken out of all free text. */
export const OPEN = "\uE000"
export const CLOSE = "\uE001"
/** Between a citation's number and its text. */
export const BREAK = "\uE002"

// Control, format (zero-width, direction-changing) and private-use characters can make a card read as something it does not say.
export const oneLine = (text: string): string =>
  text
    .toWellFormed()
    .replace(/\s+/gu, " ")
    .replace(/[\p{Cc}\p{Cf}\p{Co}]/gu, "")
    .trim()

/** Text within a line or a table cell. */
export const inline = (text: string): string =>
  oneLine(text)
    .replace(/[\\`*_[\]{}#!|~$]/g, "\\$&")
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    // GitHub's and the Hub's renderers link these without being asked.
    .replaceAll("://", "&#58;//")
    .replaceAll(/\b(javascript|data|vbscript|mailto|xmpp):/gi, "$1&#58;")
    .replaceAll(/\bwww\./gi, "www&#46;")
    .replaceAll("@", "&#64;")
    // At the start of a line these would begin a list, a rule or a heading.
    .replace(/^([-+=])/, "\\$1")
    .replace(/^(\d+)([.)])/, "$1\\$2")

/** A string literal that JSON, JavaScript and Python read alike; it holds no line break and no fence. */
export const literal = (text: string): string =>
  JSON.stringify(text.toWellFormed().replace(/[\p{Cf}\p{Co}]/gu, "")).replace(
    /[`\u007F-\u009F\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  )

/** A code span of a name that is ours by construction (a file name, a key); anything else in it is escaped away. */
export const code = (text: string): string => `\`${oneLine(text).replace(/[`|]/g, "'")}\``
