/**
 * The command line. Commands are declared here with what they take; each is done in a file of `src/cli/`, loaded when it is called.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { type Cause, Effect, Option, Schema } from "effect"
import { Argument, CliError, Command, Flag } from "effect/cli"

const runs = Flag.String("runs").pipe(Flag.withDefault("runs"), Flag.withDescription("where runs and the store live"))
const file = Argument.String("experiment").pipe(
  Argument.withDescription("an experiment file, such as experiments/small-en-it.ts"),
)
const set = Flag.String("set").pipe(Flag.atLeast(0), Flag.withDescription("name=value: a parameter of the experiment"))
const json = Flag.Boolean("json").pipe(
  Flag.withDefault(false),
  Flag.withDescription("for machines: JSON instead of text"),
)
const positive = Schema.Int.check(Schema.isGreaterThan(0))

const plan = Command.make("plan", { file, set, runs, json }, (settings) =>
  Effect.flatMap(
    Effect.promise(() => import("./cli/PlanCommand.ts")),
    (command) => command.plan(settings),
  ),
).pipe(Command.withDescription("Show what an experiment would do: what is done, what will run, what it costs"))

const run = Command.make(
  "run",
  {
    file,
    set,
    runs,
    json,
    jobs: Flag.Int("jobs").pipe(
      Flag.withAlias("j"),
      Flag.withSchema(positive),
      Flag.withDefault(1),
      Flag.withDescription("steps side by side"),
    ),
    until: Flag.String("until").pipe(
      Flag.optional,
      Flag.withDescription("stop after this step: a kind, a label or an id"),
    ),
  },
  (settings) =>
    Effect.flatMap(
      Effect.promise(() => import("./cli/RunCommand.ts")),
      (command) => command.run({ ...settings, until: Option.getOrUndefined(settings.until) }),
    ),
).pipe(Command.withDescription("Run an experiment: do what its plan asks for and the store lacks"))

const ls = Command.make("ls", { runs, json }, (settings) =>
  Effect.flatMap(
    Effect.promise(() => import("./cli/ListCommand.ts")),
    (command) => command.ls(settings.runs, settings.json),
  ),
).pipe(Command.withDescription("List runs"))

const show = Command.make("show", { name: Argument.String("run"), runs, json }, (settings) =>
  Effect.flatMap(
    Effect.promise(() => import("./cli/ListCommand.ts")),
    (command) => command.show(settings.runs, settings.name, settings.json),
  ),
).pipe(Command.withDescription("Show a run: its steps, its winner, its release"))

const exp = Command.make("exp").pipe(
  Command.withDescription("One typed experiment file becomes a released language model"),
  Command.withSubcommands([plan, run, ls, show]),
)

/** What was expected to go wrong is said in its own words; what was not, with its stack. */
const report = (cause: Cause.Cause<unknown>): Effect.Effect<void> =>
  Effect.sync(() => {
    for (const reason of cause.reasons) {
      if (reason._tag === "Interrupt") continue
      const error = reason._tag === "Fail" ? reason.error : reason.defect
      const expected = reason._tag === "Fail" && error instanceof Error
      if (CliError.isCliError(error)) continue // said already, with the help
      process.stderr.write(
        `error: ${expected ? error.message : error instanceof Error ? error.stack : String(error)}\n`,
      )
    }
  })

exp.pipe(
  Command.run({ version: "0.1.0" }),
  Effect.tapCause(report),
  Effect.provide(NodeServices.layer),
  NodeRuntime.runMain({ disableErrorReporting: true }),
)
