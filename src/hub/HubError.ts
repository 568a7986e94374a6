/**
 * What can go wrong between a release folder and the hub. Each says what, where, and the next action; none holds a token or a signed
 * address, whatever the server or the client put into their own messages (`Redact.ts`).
 */
import * as Schema from "effect/Schema"

/** As many as a screen holds: of a folder of others' files, each would have a line of its own. */
const NAMED = 20

const lines = (problems: ReadonlyArray<string>): string => {
  const more = problems.length > NAMED ? [`… and ${problems.length - NAMED} more`] : []
  return [...problems.slice(0, NAMED), ...more].map((problem) => `  ${problem}`).join("\n")
}

export class TokenMissing extends Schema.TaggedError<TokenMissing>()("TokenMissing", {
  problem: Schema.String,
  looked: Schema.Array(Schema.String),
}) {
  override get message() {
    return `publish: ${this.problem} (looked in ${this.looked.join(", ")})\n  hint: make a token that may write at https://huggingface.co/settings/tokens, then set HF_TOKEN or run \`hf auth login\``
  }
}

/** 401, 403, or known beforehand from what the token and its owner may do. Trying again changes nothing. */
export class NotAllowed extends Schema.TaggedError<NotAllowed>()("NotAllowed", {
  repository: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `publish to ${this.repository}: ${this.problem}\n  hint: ${this.hint}`
  }
}

/** The release, as it lies on this disk, is not to be published. Found before anything is sent. */
export class ReleaseUnfit extends Schema.TaggedError<ReleaseUnfit>()("ReleaseUnfit", {
  folder: Schema.String,
  problems: Schema.Array(Schema.String),
  hint: Schema.String,
}) {
  override get message() {
    return `${this.folder} cannot be published\n${lines(this.problems)}\n  hint: ${this.hint}`
  }
}

/** The hub did not answer, or only said that it cannot now, as often as was tried. */
export class HubUnreachable extends Schema.TaggedError<HubUnreachable>()("HubUnreachable", {
  request: Schema.String,
  attempts: Schema.Int,
  problem: Schema.String,
  /** Whether the request may have been carried out although no answer came. */
  ambiguous: Schema.Boolean,
}) {
  override get message() {
    return `hub: ${this.request}: ${this.problem} (tried ${this.attempts} ${this.attempts === 1 ? "time" : "times"})\n  hint: run the same command again when the hub answers: it goes on from what is there`
  }
}

/** The hub understood and refused. */
export class HubRefused extends Schema.TaggedError<HubRefused>()("HubRefused", {
  request: Schema.String,
  status: Schema.Int,
  problem: Schema.String,
  hint: Schema.optionalKey(Schema.String),
}) {
  override get message() {
    const usual =
      this.status === 404 ? "see that the repository is there and spelled so" : "see what the hub says, then run again"
    return `hub: ${this.request}: ${this.status}: ${this.problem}\n  hint: ${this.hint ?? usual}`
  }
}

export class HubAnswerStrange extends Schema.TaggedError<HubAnswerStrange>()("HubAnswerStrange", {
  request: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `hub: ${this.request}: the answer cannot be understood: ${this.problem}\n  hint: see that \`--endpoint\` names a Hugging Face Hub`
  }
}

/** What the hub has is not what was sent. The pull request stays open and is not merged. */
export class TransferDamaged extends Schema.TaggedError<TransferDamaged>()("TransferDamaged", {
  repository: Schema.String,
  revision: Schema.String,
  problems: Schema.Array(Schema.String),
}) {
  override get message() {
    return `${this.repository} at ${this.revision} has other bytes than the release\n${lines(this.problems)}\n  hint: nothing was merged; run the same command again, and those files are sent anew`
  }
}

/** Somebody else changed the repository in a way that a release must not be mixed with. */
export class RepositoryChanged extends Schema.TaggedError<RepositoryChanged>()("RepositoryChanged", {
  repository: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `${this.repository}: ${this.problem}\n  hint: ${this.hint}`
  }
}

/** What was merged holds more than the release: somebody pushed after the last look. It is on `main`, and has no tag. */
export class MergedOthers extends Schema.TaggedError<MergedOthers>()("MergedOthers", {
  endpoint: Schema.String,
  repository: Schema.String,
  number: Schema.Int,
  commit: Schema.String,
  paths: Schema.Array(Schema.String),
}) {
  override get message() {
    const address = `${this.endpoint}/${this.repository}`
    return `${this.repository}: somebody pushed while pull request ${this.number} was merged; besides the release, \`main\` has now been changed in\n${lines(this.paths)}\n  hint: look at ${address}/commit/${this.commit} and take out what does not belong there, then run the same command again: the release has no tag yet`
  }
}

/** Of a request to the hub. */
export const RequestError = Schema.Union([NotAllowed, HubUnreachable, HubRefused, HubAnswerStrange])
export type RequestError = typeof RequestError.Type

export const PublishError = Schema.Union([
  TokenMissing,
  NotAllowed,
  ReleaseUnfit,
  HubUnreachable,
  HubRefused,
  HubAnswerStrange,
  TransferDamaged,
  RepositoryChanged,
  MergedOthers,
])
export type PublishError = typeof PublishError.Type
