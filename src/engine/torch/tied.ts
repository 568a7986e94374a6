/**
 * Runs a program that must not outlive whoever asked for it: `node tied.ts PROGRAM ARGUMENT…`, with a pipe as standard input. The pipe
 * ends however its other end went, kill -9 included; then the program and all that it started are killed, and nothing goes on writing
 * where the next attempt begins.
 */
import { spawn } from "node:child_process"

const [program = "", ...args] = process.argv.slice(2)
// a group of its own: whoever asked hears of Ctrl-C, and ends what is here
const detached = process.platform !== "win32"
const child = spawn(program, args, { stdio: ["ignore", "inherit", "inherit"], detached, windowsHide: true })

const end = (): void => {
  try {
    if (child.pid !== undefined) process.kill(detached ? -child.pid : child.pid, "SIGKILL")
  } catch {
    // it is gone already
  }
}
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, end)
process.stdin.on("end", end).on("error", end).resume()
child.on("error", ({ message }) => {
  process.stderr.write(`${message}\n`)
  process.exit(127)
})
child.on("close", (code) => process.exit(code ?? 1))
