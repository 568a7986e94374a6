/**
 * A command line that no command takes, told as every other error is: what is wrong with it and what to do, on standard error, without
 * pages of help before it.
 *
 * Its exit status is 2. By 1 `exp verify` says that a release is wrong, and `exp check` that the store is.
 */
import type * as CliError from "effect/cli/CliError"
import * as Runtime from "effect/Runtime"
import * as Schema from "effect/Schema"

export class NotUnderstood extends Schema.TaggedError<NotUnderstood>()("NotUnderstood", {
  problems: Schema.Array(Schema.String),
  hint: Schema.String,
}) {
  override get message() {
    return `${this.problems.join("\n  ")}\n  hint: ${this.hint}`
  }
  override get [Runtime.errorExitCode]() {
    return 2
  }
}

/** What Effect's command line says was expected, without its own words around it. */
const wanted = (expected: string): string =>
  expected
    .replace(/^Schema validation failed: /, "")
    .replace(/^Expected:? /, "")
    .replace("a string representing a finite number", "a number")
    .replaceAll('"', "`")
    .replaceAll(" | ", " or ")

const problemOf = (command: string, error: CliError.NonShowHelpErrors): string => {
  switch (error._tag) {
    case "UnknownSubcommand":
      return `\`${command}\` has no command \`${error.subcommand}\``
    case "UnrecognizedOption":
      return `\`${command}\` has no flag \`${error.option}\``
    case "MissingOption":
      return `\`${command}\` needs \`--${error.option}\``
    case "MissingArgument":
      return `\`${command}\` needs \`<${error.argument}>\``
    case "UnexpectedArgument":
      return `\`${command}\` does not take ${error.arguments.map((one) => `\`${one}\``).join(", ")}`
    case "InvalidValue": {
      const name = error.kind === "flag" ? `--${error.option}` : `<${error.option}>`
      return error.value === ""
        ? `\`${name}\` needs a value`
        : `\`${name} ${error.value}\`: expected ${wanted(error.expected)}`
    }
    default:
      return error.message
  }
}

export const notUnderstood = ({ commandPath, errors }: CliError.ShowHelp): NotUnderstood => {
  const command = commandPath.join(" ")
  const meant = errors.flatMap((error) => ("suggestions" in error ? error.suggestions : [])).at(0)
  return new NotUnderstood({
    problems: errors.map((error) => problemOf(command, error)),
    hint: meant === undefined ? `\`${command} --help\` lists what there is` : `did you mean \`${meant}\`?`,
  })
}
