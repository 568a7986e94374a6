/**
 * The command line. Commands are declared here with what they take; each is done in a file of `src/cli/`, loaded when it is called.
 *
 * Effect's modules are imported one by one, here and in what planning loads: starting costs a fifth of a millisecond for each
 * module, and the package's own index loads eighty that nobody here asks for.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import type * as Cause from "effect/Cause"
import * as Argument from "effect/cli/Argument"
import * as CliError from "effect/cli/CliError"
import * as CliOutput from "effect/cli/CliOutput"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import * as Schema from "effect/Schema"
import { engineNames } from "./model/EngineChoice.ts"

/** What may be left out. */
const text = (name: string, description: string) =>
  Flag.String(name).pipe(Flag.optional, Flag.map(Option.getOrUndefined), Flag.withDescription(description))

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
/** Of every command whose work an engine does, or whose keys have an engine in them. */
const engines = {
  engine: Flag.Literals("engine", engineNames).pipe(
    Flag.optional,
    Flag.map(Option.getOrUndefined),
    Flag.withDescription(
      "who computes; by default what the experiment says, else tfjs; auto: torch where it is installed",
    ),
  ),
  precision: text("precision", "of the torch engine: fp32, bf16 or fp16, with +adam8bit or +deterministic"),
  engineSet: Flag.String("engine-set").pipe(
    Flag.atLeast(0),
    Flag.withDescription("name=value: how the torch engine uses this machine, such as microBatchRows=4"),
  ),
}

const plan = Command.make("plan", { file, set, engines, runs, json }, (settings) =>
  Effect.flatMap(
    Effect.promise(() => import("./cli/PlanCommand.ts")),
    (command) => command.plan(settings),
  ),
).pipe(Command.withDescription("Show what an experiment would do: what is done, what will run, what it costs"))

const rate = (name: string, description: string) =>
  Flag.Finite(name).pipe(
    Flag.withSchema(Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))),
    Flag.optional,
    Flag.withDescription(description),
  )

const forecast = Command.make(
  "forecast",
  {
    of: Argument.String("of").pipe(
      Argument.withDescription("an experiment file; or a run, to see what was foretold beside what happened"),
    ),
    set,
    engines,
    calibrate: Flag.Boolean("calibrate").pipe(
      Flag.withDefault(false),
      Flag.withDescription("measure the engine on this machine first, some seconds for each shape of model"),
    ),
    watts: rate("watts", "what the machine draws while it trains"),
    pricePerKwh: rate("price-per-kwh", "of electricity"),
    pricePerHour: rate("price-per-hour", "of the machine, where it is rented"),
    gramsCo2PerKwh: rate("grams-co2-per-kwh", "carbon dioxide behind a kilowatt-hour"),
    runs,
    json,
  },
  ({ watts, pricePerKwh, pricePerHour, gramsCo2PerKwh, ...settings }) =>
    Effect.flatMap(
      Effect.promise(() => import("./cli/ForecastCommand.ts")),
      (command) => {
        const given = { watts, pricePerKwh, pricePerHour, gramsCo2PerKwh }
        const rates = Object.fromEntries(
          Object.entries(given).flatMap(([name, value]) => (Option.isSome(value) ? [[name, value.value]] : [])),
        )
        return command.forecast({ ...settings, rates })
      },
    ),
).pipe(Command.withDescription("Say what an experiment will take here: memory, time, energy; or what a run took"))

const run = Command.make(
  "run",
  {
    file,
    set,
    engines,
    runs,
    json,
    jobs: Flag.Int("jobs").pipe(
      Flag.withAlias("j"),
      Flag.withSchema(positive),
      Flag.withDefault(1),
      Flag.withDescription("steps side by side at most, where they fit"),
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

const name = Argument.String("run").pipe(Argument.withDescription("a run, by name, folder or tag"))
const show = Command.make("show", { name, runs, json }, (settings) =>
  Effect.flatMap(
    Effect.promise(() => import("./cli/ListCommand.ts")),
    (command) => command.show(settings.runs, settings.name, settings.json),
  ),
).pipe(Command.withDescription("Show a run: its steps, its winner, its release"))

const why = Command.make(
  "why",
  {
    file,
    step: Argument.String("step").pipe(Argument.withDescription("a step's id, label or kind")),
    set,
    engines,
    runs,
    json,
  },
  (settings) =>
    Effect.flatMap(
      Effect.promise(() => import("./cli/WhyCommand.ts")),
      (command) => command.why(settings),
    ),
).pipe(Command.withDescription("Say why a step will run: what differs from the nearest result in the store"))

const check = Command.make(
  "check",
  {
    readData: Flag.Boolean("read-data").pipe(
      Flag.withDefault(false),
      Flag.withDescription("hash every byte, whatever size and times say"),
    ),
    repair: Flag.Boolean("repair").pipe(
      Flag.withDefault(false),
      Flag.withDescription("set damaged artifacts aside, so that the next run makes them anew"),
    ),
    runs,
    json,
  },
  (settings) =>
    Effect.flatMap(
      Effect.promise(() => import("./cli/CheckCommand.ts")),
      (command) => command.check(settings),
    ),
).pipe(Command.withDescription("Check that everything in the store is there and whole"))

const gc = Command.make(
  "gc",
  {
    dryRun: Flag.Boolean("dry-run").pipe(
      Flag.withDefault(false),
      Flag.withDescription("say what would be removed, and remove nothing"),
    ),
    runs,
    json,
  },
  (settings) =>
    Effect.flatMap(
      Effect.promise(() => import("./cli/GarbageCommand.ts")),
      (command) => command.gc(settings),
    ),
).pipe(Command.withDescription("Remove from the store what no run and no tag leads to"))

const tag = Command.make(
  "tag",
  {
    run: Argument.String("run").pipe(Argument.optional, Argument.withDescription("a run, by name, folder or tag")),
    name: Argument.String("name").pipe(Argument.optional, Argument.withDescription("the name it is to have")),
    remove: Flag.String("remove").pipe(Flag.optional, Flag.withDescription("take this tag away")),
    runs,
    json,
  },
  (settings) =>
    Effect.flatMap(
      Effect.promise(() => import("./cli/TagCommand.ts")),
      (command) =>
        command.tag({
          ...settings,
          run: Option.getOrUndefined(settings.run),
          name: Option.getOrUndefined(settings.name),
          remove: Option.getOrUndefined(settings.remove),
        }),
    ),
).pipe(Command.withDescription("Give a run a name, or list the names there are"))

const diff = Command.make(
  "diff",
  {
    a: Argument.String("run").pipe(Argument.withDescription("a run, by name, folder or tag")),
    b: Argument.String("other").pipe(Argument.withDescription("the run to compare it with")),
    runs,
    json,
  },
  (settings) =>
    Effect.flatMap(
      Effect.promise(() => import("./cli/DiffCommand.ts")),
      (command) => command.diff(settings),
    ),
).pipe(Command.withDescription("Compare two runs: what went in, and what came out"))

const doctor = Command.make("doctor", { runs, json }, (settings) =>
  Effect.flatMap(
    Effect.promise(() => import("./cli/DoctorCommand.ts")),
    (command) => command.doctor(settings),
  ),
).pipe(Command.withDescription("Say what this machine has, and what is missing"))

const setup = Command.make("setup").pipe(
  Command.withDescription("Install what is not part of this package"),
  Command.withSubcommands([
    Command.make(
      "torch",
      {
        cpu: Flag.Boolean("cpu").pipe(
          Flag.withDefault(false),
          Flag.withDescription("without CUDA libraries, though there is an NVIDIA GPU"),
        ),
        python: text("python", "the Python to make it with, 3.11 or newer"),
        index: text("index", "a package index to take PyTorch from, such as one of wheels without CUDA libraries"),
        json,
      },
      (settings) =>
        Effect.flatMap(
          Effect.promise(() => import("./cli/SetupCommand.ts")),
          (command) => command.setupTorch(settings),
        ),
    ).pipe(Command.withDescription("Make the Python environment of the torch engine")),
  ]),
)

const resume = Command.make(
  "resume",
  {
    prove: Flag.String("prove").pipe(
      Flag.withDescription("a checkpoint: its folder in the store, or train-0123456789abcdef#step_400"),
    ),
    steps: Flag.Int("steps").pipe(
      Flag.withSchema(positive),
      Flag.optional,
      Flag.withDescription("train on so far; by default to the next kept checkpoint, at most 50"),
    ),
    engines,
    runs,
    json,
  },
  (settings) =>
    Effect.flatMap(
      Effect.promise(() => import("./cli/ResumeCommand.ts")),
      (command) => command.resume({ ...settings, steps: Option.getOrUndefined(settings.steps) }),
    ),
).pipe(
  Command.withDescription("Prove that interrupted training is the training that was never interrupted, bit for bit"),
)

const key = Flag.String("key").pipe(Flag.optional, Flag.withDescription("file of the key; `exp keys new` makes one"))

/** Its exit status 1 says that a release is wrong: that a part of this program does not load says nothing of it. */
class CannotVerify extends Schema.TaggedError<CannotVerify>()("CannotVerify", { problem: Schema.String }) {
  override get message() {
    return `a part of exp does not load: ${this.problem.split("\n")[0]}\n  hint: run \`npm ci\` again`
  }
  override get [Runtime.errorExitCode]() {
    return 2
  }
}

const keyless = Flag.Boolean("keyless").pipe(
  Flag.withDefault(false),
  Flag.withDescription(
    "sign with Sigstore, by an identity instead of a key of your own; asks in the browser at a terminal",
  ),
)

const signingConfig = text(
  "signing-config",
  "file: whom to ask for certificate and log entry, for another Sigstore than the public one",
)

const verify = Command.make(
  "verify",
  {
    target: Argument.String("release").pipe(
      Argument.withDescription("a release folder, a run, or a repository of the Hub as org/name"),
    ),
    key: Flag.String("key").pipe(
      Flag.atLeast(0),
      Flag.withDescription("file of a public key that must have signed it"),
    ),
    identity: text("identity", "e-mail address or URI that must have signed it keyless; with --issuer"),
    issuer: text("issuer", "who must have vouched for that identity, such as https://github.com/login/oauth"),
    trustedRoot: text("trusted-root", "file of the keys of Sigstore, instead of fetching them: its trusted_root.json"),
    corpus: Flag.String("corpus").pipe(
      Flag.optional,
      Flag.withDescription("folder of the texts, to measure losses again"),
    ),
    replay: Flag.Boolean("replay").pipe(
      Flag.withDefault(false),
      Flag.withDescription("train the last tail again and compare it step by step"),
    ),
    endpoint: Flag.String("endpoint").pipe(Flag.optional, Flag.withDescription("address of another hub")),
    engines,
    runs,
    json,
  },
  (settings) =>
    Effect.flatMap(
      Effect.tryPromise({
        try: () => import("./cli/VerifyCommand.ts"),
        catch: (cause) => new CannotVerify({ problem: cause instanceof Error ? cause.message : String(cause) }),
      }),
      (command) =>
        command.verify({
          ...settings,
          corpus: Option.getOrUndefined(settings.corpus),
          endpoint: Option.getOrUndefined(settings.endpoint),
        }),
    ),
).pipe(Command.withDescription("Check a release: bytes, signature, card, arithmetic, weights, measurements"))

const sign = Command.make(
  "sign",
  {
    folder: Argument.String("folder").pipe(
      Argument.withDescription("a copy of a release; the store's own is never changed"),
    ),
    key,
    keyless,
    signingConfig,
  },
  ({ key, ...settings }) =>
    Effect.flatMap(
      Effect.promise(() => import("./cli/SignCommand.ts")),
      (command) => command.sign({ ...settings, key: Option.getOrUndefined(key) }),
    ),
).pipe(Command.withDescription("Sign a copy of a release"))

const keys = Command.make("keys").pipe(
  Command.withDescription("The key that signs releases"),
  Command.withSubcommands([
    Command.make(
      "new",
      { out: Flag.String("out").pipe(Flag.optional, Flag.withDescription("file to write the private key to")), json },
      ({ out, json }) =>
        Effect.flatMap(
          Effect.promise(() => import("./cli/KeysCommand.ts")),
          (command) => command.makeKey(Option.getOrUndefined(out), json),
        ),
    ).pipe(Command.withDescription("Make a key; one that is there is never written over")),
    Command.make("show", { key, json }, ({ key, json }) =>
      Effect.flatMap(
        Effect.promise(() => import("./cli/KeysCommand.ts")),
        (command) => command.showKey(Option.getOrUndefined(key), json),
      ),
    ).pipe(Command.withDescription("Print the public key and its id")),
  ]),
)

const publish = Command.make(
  "publish",
  {
    target: Argument.String("release").pipe(
      Argument.withDescription("a run, by name, folder or tag, or the folder of a release"),
    ),
    to: Flag.String("to").pipe(Flag.withDescription("the repository: org/name")),
    private: Flag.Boolean("private").pipe(
      Flag.withDefault(false),
      Flag.withDescription("make the repository private; refuse one that is public"),
    ),
    dryRun: Flag.Boolean("dry-run").pipe(
      Flag.withDefault(false),
      Flag.withDescription("check everything and show file by file what would change; send nothing"),
    ),
    endpoint: Flag.String("endpoint").pipe(
      Flag.optional,
      Flag.withDescription("the hub's address, by default HF_ENDPOINT or https://huggingface.co"),
    ),
    tag: Flag.String("tag").pipe(Flag.optional, Flag.withDescription("the revision's tag; by default of its digest")),
    collection: Flag.String("collection").pipe(Flag.optional, Flag.withDescription("add the model to this collection")),
    supersedes: Flag.String("supersedes").pipe(
      Flag.optional,
      Flag.withDescription("ask this model, by pull request, to name the new one as its new version"),
    ),
    trust: Flag.Boolean("skip-read-back").pipe(
      Flag.withDefault(false),
      Flag.withDescription("compare what the hub says of its files, instead of downloading and hashing them"),
    ),
    key,
    keyless,
    signingConfig,
    runs,
    json,
  },
  ({ trust, ...settings }) =>
    Effect.flatMap(
      Effect.promise(() => import("./cli/PublishCommand.ts")),
      (command) =>
        command.publish({
          ...settings,
          readBack: !trust,
          key: Option.getOrUndefined(settings.key),
          endpoint: Option.getOrUndefined(settings.endpoint),
          tag: Option.getOrUndefined(settings.tag),
          collection: Option.getOrUndefined(settings.collection),
          supersedes: Option.getOrUndefined(settings.supersedes),
        }),
    ),
).pipe(Command.withDescription("Publish a release to the Hugging Face Hub, whole or not at all"))

const exp = Command.make("exp").pipe(
  Command.withDescription("One typed experiment file becomes a released language model"),
  Command.withSubcommands([
    plan,
    forecast,
    run,
    ls,
    show,
    why,
    diff,
    tag,
    check,
    gc,
    resume,
    publish,
    verify,
    sign,
    keys,
    setup,
    doctor,
  ]),
)

/** What was expected to go wrong is said in its own words; what was not, with its stack. */
const report = (cause: Cause.Cause<unknown>): Effect.Effect<void> =>
  Effect.sync(() => {
    for (const reason of cause.reasons) {
      if (reason._tag === "Interrupt") continue
      const error = reason._tag === "Fail" ? reason.error : reason.defect
      const expected = reason._tag === "Fail" && error instanceof Error
      if (CliError.isCliError(error)) continue // nothing went wrong: help was shown
      process.stderr.write(
        `error: ${expected ? error.message : error instanceof Error ? error.stack : String(error)}\n`,
      )
    }
  })

/** Help is for who asks for it. Who mistypes a flag is told so, as of every other error (`cli/Usage.ts`). */
const presenter: CliOutput.Presenter = {
  present: (event) => (event._tag === "InvalidInvocation" ? Effect.void : CliOutput.defaultPresenter.present(event)),
}
const isMisused = (error: unknown): error is CliError.ShowHelp =>
  CliError.isCliError(error) && error._tag === "ShowHelp" && error.errors.length > 0

// a terminal that is closed ends a run as Ctrl-C does: with what it has saved
process.on("SIGHUP", () => process.kill(process.pid, "SIGTERM"))

exp.pipe(
  Command.run({ version: "0.1.0" }),
  Effect.provideService(CliOutput.Presenter, presenter),
  Effect.catchIf(isMisused, (error) =>
    Effect.flatMap(
      Effect.promise(() => import("./cli/Usage.ts")),
      ({ notUnderstood }) => Effect.fail(notUnderstood(error)),
    ),
  ),
  Effect.tapCause(report),
  Effect.provide(NodeServices.layer),
  NodeRuntime.runMain({
    disableErrorReporting: true,
    // timers that an experiment file left behind keep nothing alive, once what was printed is out
    teardown: (exit) => Runtime.defaultTeardown(exit, (code) => process.stdout.write("", () => process.exit(code))),
  }),
)
