/**
 * Errors of the command line itself.
 */
import * as Schema from "effect/Schema"

/** An experiment that is not there, cannot be loaded, or whose program asks for what there is not. */
export class ExperimentRefused extends Schema.TaggedError<ExperimentRefused>()("ExperimentRefused", {
  file: Schema.String,
  /** Where in the file it was said, from 1. */
  line: Schema.optionalKey(Schema.Int),
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    const where = this.line === undefined ? this.file : `${this.file}:${this.line}`
    return `${where}: ${this.problem}\n  hint: ${this.hint}`
  }
}

const COMPLAINTS = 20

export class TypeErrors extends Schema.TaggedError<TypeErrors>()("TypeErrors", {
  file: Schema.String,
  text: Schema.String,
}) {
  override get message() {
    const lines = this.text.split("\n")
    const more = lines.length > COMPLAINTS ? [`… and ${lines.length - COMPLAINTS} lines more`] : []
    return [
      `${this.file} does not type-check; nothing was run`,
      ...lines.slice(0, COMPLAINTS),
      ...more,
      "  hint: the compiler says file(line,column); mend the first, others often follow from it",
    ].join("\n")
  }
}

export class NotFound extends Schema.TaggedError<NotFound>()("NotFound", {
  what: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `${this.what}\n  hint: ${this.hint}`
  }
}
