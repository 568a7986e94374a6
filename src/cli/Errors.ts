/**
 * Errors of the command line itself.
 */
import * as Schema from "effect/Schema"

export class ExperimentUnreadable extends Schema.TaggedError<ExperimentUnreadable>()("ExperimentUnreadable", {
  file: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `${this.file}: ${this.problem}\n  hint: ${this.hint}`
  }
}

export class TypeErrors extends Schema.TaggedError<TypeErrors>()("TypeErrors", {
  file: Schema.String,
  text: Schema.String,
}) {
  override get message() {
    return `${this.file} does not type-check; nothing was run\n${this.text}`
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
