/**
 * `exp publish` of a release with one large file, to a hub on this machine: wall time and the command's peak memory, with the object
 * sent in one piece and in parts; then the same again, with nothing to do.
 *
 *     npx node bench/publish.ts [GIGABYTES]
 */
import { type ChildProcess, spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from "node:fs"
import { availableParallelism, cpus, tmpdir, totalmem } from "node:os"
import { join, resolve } from "node:path"
import { files, sum, write } from "../test/hub/release.ts"

const root = resolve(import.meta.dirname, "..")
const folder = mkdtempSync(join(tmpdir(), "exp-publish-"))
const size = Number(process.argv[2] ?? 1) * 1e9
const token = "hf_benchBenchBenchBenchBenchBenchBe"

/** Bytes that no file system stores as a hole, the same each time. */
const fill = (path: string, bytes: number): void => {
  const block = Buffer.concat(
    Array.from({ length: 1 << 15 }, (_, n) => createHash("sha256").update(String(n)).digest()),
  )
  const descriptor = openSync(path, "w")
  for (let done = 0; done < bytes; done += block.length) {
    block.writeDoubleLE(done, 0)
    writeSync(descriptor, block.subarray(0, Math.min(block.length, bytes - done)))
  }
  closeSync(descriptor)
}

/** Highest resident set of a process so far, in bytes; Linux alone tells it. */
const peak = (child: ChildProcess): number => {
  try {
    return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1] ?? 0) * 1024
  } catch {
    return 0
  }
}

const publish = (endpoint: string, release: string) =>
  new Promise<{ readonly seconds: number; readonly rss: number; readonly out: string }>((done, fail) => {
    const began = performance.now()
    const child = spawn(
      process.execPath,
      [join(root, "bin/exp"), "publish", release, "--to", "our-org/large", "--json"],
      {
        env: { ...process.env, HF_ENDPOINT: endpoint, HF_TOKEN: token, XDG_CONFIG_HOME: folder },
        stdio: ["ignore", "pipe", "ignore"],
      },
    )
    let rss = 0
    let out = ""
    const watch = setInterval(() => {
      rss = Math.max(rss, peak(child))
    }, 20)
    child.stdout.on("data", (chunk) => {
      out += chunk
    })
    child.on("close", (code) => {
      clearInterval(watch)
      if (code === 0) done({ seconds: (performance.now() - began) / 1000, rss, out })
      else fail(new Error(`exp publish ended with ${code}`))
    })
  })

const serve = (parts: boolean) =>
  new Promise<{ readonly endpoint: string; readonly stop: () => void }>((done) => {
    const child = spawn(
      process.execPath,
      [join(root, "test/hub/serve.ts"), token, "our-org", parts ? "100000000" : "Infinity"],
      {
        stdio: ["ignore", "pipe", "inherit"],
      },
    )
    child.stdout.once("data", (chunk) =>
      done({ endpoint: /HF_ENDPOINT=(\S+)/.exec(String(chunk))![1]!, stop: () => void child.kill() }),
    )
  })

console.log(
  `${cpus()[0]?.model}, ${availableParallelism()} cores, ${(totalmem() / 2 ** 30).toFixed(0)} GiB, Node ${process.version}`,
)
const release = write(join(folder, "release"), files())
fill(join(release, "large.safetensors"), size)
sum(release)
for (const parts of [false, true]) {
  const hub = await serve(parts)
  const first = await publish(hub.endpoint, release)
  const again = await publish(hub.endpoint, release)
  hub.stop()
  const row = (what: string, { seconds, rss }: typeof first): void =>
    console.log(
      `${what.padEnd(60)} ${seconds.toFixed(1)} s, ${(size / 1e6 / seconds).toFixed(0)} MB/s, peak ${(rss / 1e6).toFixed(0)} MB`,
    )
  row(`${size / 1e9} GB, ${parts ? "in parts of 100 MB" : "in one piece"}, read back`, first)
  row("the same again: nothing to do", again)
}
rmSync(folder, { recursive: true, force: true })
