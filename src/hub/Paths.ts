/**
 * Which names a published file may have. A release is downloaded to machines of all kinds, so a name must be a name everywhere: under
 * POSIX, under Windows, and where case or the spelling of accents makes no difference.
 */

/** Devices of Windows, whatever extension follows. */
const RESERVED = /^(?:con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?$/i

/** Beyond this, a path in a deep folder cannot be opened on Windows. */
const LONGEST = 200

/** The one folder beginning with a dot that the hub reads (see FrontMatter.ts). */
const EVALUATIONS = /^\.eval_results\/[^/]+\.yaml$/

/** What is wrong with a path, `/` between its names, or undefined. */
export const pathProblem = (path: string): string | undefined => {
  if (path === "") return "it is empty"
  if (path.startsWith("/") || /^[A-Za-z]:/.test(path)) return "it is not relative"
  if (path.length > LONGEST) return `it has more than ${LONGEST} characters`
  if (!path.isWellFormed()) return "it is no Unicode text"
  if (path.normalize("NFC") !== path) return "its accents are not composed (Unicode NFC)"
  for (const name of path.split("/")) {
    if (name === "") return "one of its names is empty"
    if (name === "." || name === "..") return "it leads elsewhere"
    if (Buffer.byteLength(name) > 255) return "one of its names is longer than 255 bytes"
    if (/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u.test(name)) return "it has a character that cannot be seen"
    if (/[<>:"|?*\\]/.test(name)) return 'it has one of < > : " | ? * \\'
    if (/[. ]$/.test(name)) return "one of its names ends in a dot or a space"
    if (name.startsWith(" ")) return "one of its names begins with a space"
    if (RESERVED.test(name)) return "one of its names is a device of Windows"
    if (name.startsWith(".") && !EVALUATIONS.test(path)) return "it is hidden: its name begins with a dot"
    if (name.toLowerCase() === "git~1") return "git takes it for its own folder"
  }
  return undefined
}

/** One spelling for all names that some file system takes for the same. */
const folded = (path: string): string => path.normalize("NFKC").toLowerCase().normalize("NFKC")

/** All that is wrong with paths that are to lie side by side. */
export const pathProblems = (paths: ReadonlyArray<string>): ReadonlyArray<string> => {
  const problems = paths.flatMap((path) => {
    const problem = pathProblem(path)
    return problem === undefined ? [] : [`${JSON.stringify(path)}: ${problem}`]
  })
  const seen = new Map<string, string>()
  const folders = new Map<string, string>()
  for (const path of paths) {
    const parts = path.split("/")
    for (let depth = 1; depth < parts.length; depth++) {
      const folder = parts.slice(0, depth).join("/")
      const before = folders.get(folded(folder))
      if (before !== undefined && before !== folder)
        problems.push(
          `the folders ${JSON.stringify(before)} and ${JSON.stringify(folder)} are one where case makes no difference`,
        )
      folders.set(folded(folder), folder)
    }
    const before = seen.get(folded(path))
    if (before !== undefined)
      problems.push(
        before === path
          ? `${JSON.stringify(path)} is there twice`
          : `${JSON.stringify(before)} and ${JSON.stringify(path)} are one file where case or accents make no difference`,
      )
    seen.set(folded(path), path)
  }
  for (const [key, path] of seen) {
    const folder = folders.get(key)
    if (folder !== undefined) problems.push(`${JSON.stringify(path)} is a file and a folder`)
  }
  return [...new Set(problems)]
}
