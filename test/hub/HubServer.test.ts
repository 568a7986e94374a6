import { commit, createRepo, deleteFile, downloadFile, fileDownloadInfo, listFiles, pathsInfo } from "@huggingface/hub"
import { assert, describe, it } from "vitest"
import type { HubServer } from "./HubServer.ts"
import { CANARY, startHub } from "./world.ts"

const repo = { type: "model" as const, name: "our-org/tiny" }
const access = (server: HubServer) => ({ repo, hubUrl: server.endpoint, accessToken: CANARY })

const filled = async (server: HubServer, content: Readonly<Record<string, string>>, useXet = false): Promise<void> => {
  await createRepo({ ...access(server), visibility: "private" })
  await commit({
    ...access(server),
    useXet,
    title: "files",
    operations: Object.entries(content).map(([path, text]) => ({
      operation: "addOrUpdate",
      path,
      content: new Blob([text]),
    })),
  })
}

describe("the hub that is tested against", () => {
  it("speaks what the Hub's own client speaks, small files and large ones", async () => {
    const server = await startHub({ multipartFrom: 20, partSize: 8 })
    await filled(server, { "a b#1.txt": "hello", "in/weights.bin": "0123456789abcdefghijklmnopqrstuvwxyz" })
    const tree: Array<string> = []
    for await (const { type, path, lfs } of listFiles({ ...access(server), recursive: true }))
      tree.push(`${type} ${path}${lfs === undefined ? "" : ` ${lfs.oid.slice(0, 8)}`}`)
    assert.deepStrictEqual(tree, [
      "directory in",
      "file .gitattributes",
      "file a b#1.txt",
      "file in/weights.bin 74e7e5bb",
    ])
    const [info] = await pathsInfo({ ...access(server), paths: ["in/weights.bin", "none"] })
    assert.strictEqual(info?.lfs?.size, 36)
    const blob = await downloadFile({ ...access(server), path: "in/weights.bin", xet: false })
    assert.strictEqual(await blob?.slice(10, 16).text(), "abcdef")
    assert.strictEqual(await blob?.text(), "0123456789abcdefghijklmnopqrstuvwxyz")
    assert.strictEqual((await fileDownloadInfo({ ...access(server), path: "in/weights.bin" }))?.size, 36)
    await deleteFile({ ...access(server), path: "in/weights.bin" })
    assert.isUndefined(server.read(repo.name, "main", "in/weights.bin"))
    assert.deepStrictEqual(server.violations, [])
  })

  it("declines xet, and a client that would have used it sends plain objects", async () => {
    const server = await startHub()
    await filled(server, { "weights.bin": "0123456789" }, true)
    assert.strictEqual(server.read(repo.name, "main", "weights.bin")?.toString(), "0123456789")
    const answer = await fetch(`${server.endpoint}/api/models/${repo.name}/xet-write-token/main`, {
      headers: { Authorization: `Bearer ${CANARY}` },
    })
    assert.strictEqual(answer.status, 404)
  })

  it("refuses a commit made for another parent, and a pull request that does not fit any more", async () => {
    const server = await startHub()
    await filled(server, { "a.txt": "1" })
    const change = (text: string, more: object) =>
      commit({
        ...access(server),
        title: text,
        operations: [{ operation: "addOrUpdate", path: "a.txt", content: new Blob([text]) }],
        ...more,
      })
    const status = (promise: Promise<unknown>) =>
      promise.then(
        () => 200,
        (cause) => cause.statusCode,
      )
    assert.strictEqual(await status(change("2", { parentCommit: "0".repeat(40) })), 412)
    assert.include((await change("2", { isPullRequest: true }))?.pullRequestUrl ?? "", "/discussions/1")
    await change("3", {})
    const merge = await fetch(`${server.endpoint}/api/models/${repo.name}/discussions/1/merge`, {
      method: "POST",
      headers: { Authorization: `Bearer ${CANARY}` },
    })
    assert.strictEqual(merge.status, 409)
    assert.strictEqual(server.read(repo.name, "main", "a.txt")?.toString(), "3")
  })

  it("shows a private repository to its members only, and lets nobody else write", async () => {
    const stranger = "hf_strangerStrangerStranger0123456789"
    const server = await startHub({
      accounts: { [CANARY]: { name: "ada", orgs: [{ name: "our-org" }] }, [stranger]: { name: "eve" } },
    })
    await filled(server, { "a.txt": "1" })
    const asked = async (token: string | undefined, path: string, method = "GET") =>
      (
        await fetch(server.endpoint + path, {
          method,
          headers: token === undefined ? {} : { Authorization: `Bearer ${token}` },
          ...(method === "POST" && { body: '{"tag":"x"}' }),
        })
      ).status
    assert.strictEqual(await asked(undefined, "/our-org/tiny/resolve/main/a.txt"), 401)
    assert.strictEqual(await asked(stranger, "/our-org/tiny/resolve/main/a.txt"), 404)
    assert.strictEqual(await asked(CANARY, "/our-org/tiny/resolve/main/a.txt"), 200)
    server.repositories.get(repo.name)!.private = false
    assert.strictEqual(await asked(undefined, "/our-org/tiny/resolve/main/a.txt"), 200)
    assert.strictEqual(await asked(stranger, "/api/models/our-org/tiny/tag/main", "POST"), 403)
  })
})
