import { createHash } from "node:crypto"
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { table } from "../../src/cli/Table.ts"
import { stream } from "../../src/model/Random.ts"
import { listRelease } from "../../src/verification/Listing.ts"
import { checkSignatures, type KnownKeys } from "../../src/verification/Signatures.ts"
import { damageIn, filesIn, type Key, place, signedRelease, signWith, watcher, wrongIn } from "./world.ts"

/**
 * `EXP_FAULT_BYTES=100` flips a bit in as many bytes of each file and prints them as a table; `EXP_FAULT_BYTES=all` in every byte of
 * every file (a quarter of an hour). Without it: 2 in each file, 40 in sums, statement and signature.
 */
const ASKED = process.env["EXP_FAULT_BYTES"]

const placesIn = (name: string, length: number, uniform: () => number): ReadonlyArray<number> => {
  if (ASKED === "all") return Array.from({ length }, (_, at) => at)
  const usual = /^(?:SHA256SUMS|provenance\.)/.test(name) ? 40 : 2
  const some = ASKED === undefined ? usual : Number(ASKED)
  return Array.from({ length: some }, () => Math.floor(uniform() * length))
}

const { path, remove } = place()
afterAll(remove)
let release: string
let key: Key
beforeAll(async () => {
  const made = await signedRelease(path)
  release = made.release
  key = made.key
}, 60_000)

const none: KnownKeys = { known: [], demanded: [] }
const sha256 = (bytes: string | Buffer) => createHash("sha256").update(bytes).digest("hex")
const file = (name: string) => join(release, name)

/** Does something to the release, tells what is found, and undoes it. */
const damaged = async (damage: () => () => void, keys = none): Promise<ReadonlyArray<string>> => {
  const undo = damage()
  try {
    return await damageIn(release, keys)
  } finally {
    undo()
  }
}

const flipped = (name: string, at: number, bit: number) => () => {
  const bytes = readFileSync(file(name))
  const changed = Buffer.from(bytes)
  changed[at]! ^= 1 << bit
  writeFileSync(file(name), changed)
  return () => writeFileSync(file(name), bytes)
}

const replaced = (name: string, bytes: Buffer | string) => () => {
  const before = readFileSync(file(name))
  writeFileSync(file(name), bytes)
  return () => writeFileSync(file(name), before)
}

describe("bytes and signature", () => {
  it("finds nothing in a release as it was made, whoever looks", async () => {
    expect(await damageIn(release)).toEqual([])
    expect(await damageIn(release, { known: [key.publicKey], demanded: [] })).toEqual([])
    expect(await damageIn(release, { known: [], demanded: [key.publicKey] })).toEqual([])
  })

  it("finds a flipped bit in any file, also of the sums, the statement and the signature, without knowing the key", async () => {
    const random = stream(20_261_121, "flips")
    let drawn = 0
    const look = await watcher(release)
    const rows: Array<ReadonlyArray<string>> = []
    for (const name of filesIn(release)) {
      const bytes = readFileSync(file(name))
      const places = placesIn(name, bytes.length, () => random.uniform(drawn++))
      let seen = 0
      const descriptor = openSync(file(name), "r+")
      for (const at of places) {
        const bit = random.word(drawn++) % 8
        writeSync(descriptor, Uint8Array.of(bytes[at]! ^ (1 << bit)), 0, 1, at)
        const found = await look(name)
        writeSync(descriptor, bytes, at, 1, at)
        if (found.length === 0) expect.fail(`not found: ${name}, byte ${at}, bit ${bit}`)
        seen++
      }
      closeSync(descriptor)
      expect(readFileSync(file(name)).equals(bytes), name).toBe(true)
      rows.push([name, String(bytes.length), String(places.length), String(seen)])
    }
    expect(await look("")).toEqual([])
    if (ASKED !== undefined) {
      const sum = (column: number) => String(rows.reduce((total, row) => total + Number(row[column]), 0))
      rows.push(["all", sum(1), sum(2), sum(3)])
      console.log(table(["file", "bytes", "flipped", "found"], rows, ["left", "right", "right", "right"]))
    }
  }, 7_200_000)

  it("finds every flipped bit of the signature's own fields, names of fields included, without knowing the key", () => {
    const name = "provenance.dsse.json"
    const bytes = readFileSync(file(name))
    try {
      for (let at = bytes.lastIndexOf('"signatures"'); at < bytes.length; at++)
        for (let bit = 0; bit < 8; bit++) {
          const changed = Buffer.from(bytes)
          changed[at]! ^= 1 << bit
          writeFileSync(file(name), changed)
          const found = wrongIn(checkSignatures(listRelease(release), none))
          expect(found, `byte ${at}, bit ${bit}: ${changed.subarray(at - 10, at + 10)}`).not.toEqual([])
        }
    } finally {
      writeFileSync(file(name), bytes)
    }
  }, 300_000)

  it("names the file that a bit was flipped in", async () => {
    expect(await damaged(flipped("model.safetensors", 5000, 3))).toEqual([
      "hashes: model.safetensors: has other bytes than SHA256SUMS says",
      "hashes: model.safetensors: has other bytes than provenance.json says",
    ])
  })

  it("finds a file that is gone, added, emptied, cut short, or lies under another's name", async () => {
    for (const name of filesIn(release)) {
      const aside = join(path, "aside")
      const gone = await damaged(() => {
        renameSync(file(name), aside)
        return () => renameSync(aside, file(name))
      })
      // without a signature a release is one that nobody signed, which is no damage
      if (name !== "provenance.dsse.json")
        expect(gone.join("\n"), name).toMatch(new RegExp(`${name.replaceAll(".", "\\.")}: is missing`))
      expect(await damaged(replaced(name, "")), name).not.toEqual([])
      const { length } = readFileSync(file(name))
      expect(await damaged(replaced(name, readFileSync(file(name)).subarray(0, length - 1))), name).not.toEqual([])
      expect(
        await damaged(replaced(name, Buffer.concat([readFileSync(file(name)), Buffer.from("\n")]))),
        name,
      ).not.toEqual([])
    }
    expect(
      await damaged(() => {
        writeFileSync(file("notes.txt"), "hello")
        return () => rmSync(file("notes.txt"))
      }),
    ).toEqual([
      "hashes: notes.txt: was added: SHA256SUMS does not name it",
      "hashes: notes.txt: was added: provenance.json does not name it",
    ])
    expect(
      (
        await damaged(() => {
          renameSync(file("LICENSE"), join(path, "aside"))
          renameSync(file("NOTICE"), file("LICENSE"))
          renameSync(join(path, "aside"), file("NOTICE"))
          return () => {
            renameSync(file("LICENSE"), join(path, "aside"))
            renameSync(file("NOTICE"), file("LICENSE"))
            renameSync(join(path, "aside"), file("NOTICE"))
          }
        })
      ).length,
    ).toBe(4)
  }, 120_000)

  it("finds a link in place of a file, an empty folder, and a folder in place of a file", async () => {
    const linked = await damaged(() => {
      renameSync(file("NOTICE"), join(path, "aside"))
      symlinkSync(join(path, "aside"), file("NOTICE"))
      return () => {
        rmSync(file("NOTICE"))
        renameSync(join(path, "aside"), file("NOTICE"))
      }
    })
    expect(linked[0]).toBe("hashes: NOTICE: is a symbolic link, which no release has")
    const empty = await damaged(() => {
      mkdirSync(file("empty"))
      return () => rmSync(file("empty"), { recursive: true })
    })
    expect(empty).toEqual(["hashes: empty: is an empty folder, which no release has"])
    const folder = await damaged(() => {
      renameSync(file("NOTICE"), join(path, "aside"))
      mkdirSync(file("NOTICE"))
      return () => {
        rmSync(file("NOTICE"), { recursive: true })
        renameSync(join(path, "aside"), file("NOTICE"))
      }
    })
    expect(folder[0]).toBe("hashes: NOTICE: is an empty folder, which no release has")
  })

  it("finds a change whose sums were written anew: the statement says otherwise", async () => {
    const text = readFileSync(file("plan.txt"), "utf8")
    const changed = `${text}# better\n`
    const sums = readFileSync(file("SHA256SUMS"), "utf8").replace(sha256(text), sha256(changed))
    const damage = () => {
      const undo = [replaced("plan.txt", changed)(), replaced("SHA256SUMS", sums)()]
      return () => {
        for (const one of undo) one()
      }
    }
    expect(await damaged(damage)).toEqual(["hashes: plan.txt: has other bytes than provenance.json says"])
  })

  it("finds a change whose sums and statement were written anew: it was not signed so", async () => {
    const plan = readFileSync(file("plan.txt"), "utf8")
    const statement = readFileSync(file("provenance.json"), "utf8")
    const forged = statement.replace(sha256(plan), sha256(`${plan}#\n`))
    const sums = readFileSync(file("SHA256SUMS"), "utf8")
      .replace(sha256(plan), sha256(`${plan}#\n`))
      .replace(sha256(statement), sha256(forged))
    const damage = () => {
      const undo = [
        replaced("plan.txt", `${plan}#\n`)(),
        replaced("provenance.json", forged)(),
        replaced("SHA256SUMS", sums)(),
      ]
      return () => {
        for (const one of undo) one()
      }
    }
    expect(await damaged(damage)).toEqual(["signature: provenance.dsse.json: what was signed is not provenance.json"])
    // whoever rewrites the signature as well needs a key, and it is not the one that is known
    expect(
      await damaged(
        () => {
          const undo = damage()
          const before = readFileSync(file("provenance.dsse.json"))
          rmSync(file("provenance.dsse.json"))
          return () => {
            undo()
            writeFileSync(file("provenance.dsse.json"), before)
          }
        },
        { known: [], demanded: [key.publicKey] },
      ),
    ).toEqual(["signature: provenance.dsse.json: is missing: it is not signed, and a key was asked for"])
  })

  it("names what the Hub, its cache and git add, and counts it for nothing", async () => {
    const added = [
      ".gitattributes",
      ".gitignore",
      ".cache/huggingface/download/README.md.metadata",
      ".huggingface/x",
      ".git/HEAD",
    ]
    for (const name of added) {
      mkdirSync(join(file(name), ".."), { recursive: true })
      writeFileSync(file(name), "x")
    }
    try {
      expect(await damageIn(release)).toEqual([])
      // and a copy from the Hub can be signed as it lies there
      await signWith(release, key)
      expect(await damageIn(release, { known: [], demanded: [key.publicKey] })).toEqual([])
      expect(listRelease(release).added).toEqual([
        ".cache/huggingface",
        ".git",
        ".gitattributes",
        ".gitignore",
        ".huggingface",
      ])
      // what only looks like it is not passed over
      writeFileSync(file(".cache/other"), "x")
      expect((await damageIn(release)).length).toBe(2)
    } finally {
      for (const name of [".gitattributes", ".gitignore", ".cache", ".huggingface", ".git"])
        rmSync(file(name), { recursive: true, force: true })
    }
  })

  it("reads a snapshot of the Hub's cache, whose files are links to blobs, and no other link", async () => {
    const cache = join(path, "models--our-org--tiny")
    const blobs = join(cache, "blobs")
    const snapshot = join(cache, "snapshots", "0123abcd")
    mkdirSync(blobs, { recursive: true })
    mkdirSync(snapshot, { recursive: true })
    for (const name of filesIn(release)) {
      const bytes = readFileSync(file(name))
      const blob = sha256(bytes)
      writeFileSync(join(blobs, blob), bytes)
      symlinkSync(`../../blobs/${blob}`, join(snapshot, name))
    }
    expect(await damageIn(snapshot)).toEqual([])
    rmSync(join(snapshot, "NOTICE"))
    symlinkSync(file("NOTICE"), join(snapshot, "NOTICE"))
    expect((await damageIn(snapshot))[0]).toBe("hashes: NOTICE: is a symbolic link, which no release has")
  })

  it("finds a file cut to its first page", async () => {
    const before = readFileSync(file("tokenizer.json"))
    truncateSync(file("tokenizer.json"), 512)
    try {
      expect(await damageIn(release)).toHaveLength(2)
    } finally {
      writeFileSync(file("tokenizer.json"), before)
    }
  })
})
