import * as fs from "node:fs"
import { join } from "node:path"
import { listFiles } from "../../src/store/Store.ts"

/** Changes one bit of one byte and puts the times back, as a failing disk would. */
export const flip = (path: string, position: number, bit = 1): void => {
  const { atime, mtime } = fs.statSync(path)
  const bytes = fs.readFileSync(path)
  bytes[position]! ^= bit
  fs.writeFileSync(path, bytes)
  fs.utimesSync(path, atime, mtime)
}

/** Notes the stat of an artifact's files as they are now, so that only their bytes can give damage away. */
export const forgeStat = (root: string, artifact: string): void => {
  const note = join(root, ".stat", `${artifact}.json`)
  const stats = Object.fromEntries(
    listFiles(join(root, artifact)).map((path) => {
      const stat = fs.statSync(join(root, artifact, path), { bigint: true })
      return [
        path,
        { bytes: Number(stat.size), mtime: `${stat.mtimeNs}`, ctime: `${stat.ctimeNs}`, inode: `${stat.ino}` },
      ]
    }),
  )
  fs.writeFileSync(note, JSON.stringify(stats))
}
