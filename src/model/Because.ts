/**
 * What a failure of ours came of, kept beside it where JavaScript keeps causes. Its message stays what people are told; who must know
 * what kind of thing it was (a full disk, a module that is not there) asks the cause, and not the words.
 */
export const because = <E extends Error>(error: E, cause: unknown): E =>
  Object.defineProperty(error, "cause", { value: cause, configurable: true, writable: true })
