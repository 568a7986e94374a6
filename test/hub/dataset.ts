/** Files of a data set, and what it takes to bring it. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gzipSync, zstdCompressSync } from "node:zlib"
import { Effect, Result } from "effect"
import { parquetWriteBuffer } from "hyparquet-writer"
import { onTestFinished } from "vitest"
import { bringDataset, type DatasetProgress, type DatasetRequest } from "../../src/hub/Dataset.ts"
import type { HubServer } from "./HubServer.ts"
import { hasty, userWith } from "./world.ts"

/** A table of strings as it is published: groups of rows, packed pages, and a column of lists of numbers that nobody asks for. */
export const table = (
  columns: { readonly [name: string]: ReadonlyArray<string | null> },
  codec: "UNCOMPRESSED" | "SNAPPY" | "GZIP" | "ZSTD" = "SNAPPY",
): Uint8Array => {
  const names = Object.keys(columns)
  return new Uint8Array(
    parquetWriteBuffer({
      schema: [
        { name: "root", num_children: names.length + 1 },
        ...names.map((name) => ({
          name,
          type: "BYTE_ARRAY" as const,
          converted_type: "UTF8" as const,
          repetition_type: "OPTIONAL" as const,
        })),
        { name: "embeddings", num_children: 1, converted_type: "LIST", repetition_type: "OPTIONAL" },
        { name: "list", num_children: 1, repetition_type: "REPEATED" },
        { name: "element", type: "FLOAT", repetition_type: "OPTIONAL" },
      ],
      columnData: [
        ...Object.entries(columns).map(([name, data]) => ({ name, data: [...data] })),
        { name: "embeddings", data: Object.values(columns)[0]!.map(() => [0.5, 0.25]) },
      ],
      rowGroupSize: 3,
      codec,
      compressors: {
        GZIP: (bytes: Uint8Array) => new Uint8Array(gzipSync(bytes)),
        ZSTD: (bytes: Uint8Array) => new Uint8Array(zstdCompressSync(bytes)),
      },
    }),
  )
}

export interface Brought {
  /** What it was refused with, if it was. */
  readonly refused: string | undefined
  readonly tag: string | undefined
  /** The files of the artifact. */
  readonly files: () => Readonly<Record<string, string>>
  readonly said: ReadonlyArray<string>
  readonly progress: ReadonlyArray<DatasetProgress>
}

/** A folder to make an artifact in, which one attempt after the other may use. */
export const workplace = () => {
  const place = mkdtempSync(join(tmpdir(), "exp-dataset-"))
  onTestFinished(() => rmSync(place, { recursive: true, force: true }))
  const [out, scratch] = [join(place, "out"), join(place, "scratch")]
  for (const folder of [out, scratch]) mkdirSync(folder)
  return { out, scratch }
}

export const asked = {
  source: "web_it",
  repository: "our-org/web",
  files: ["data/*.parquet"],
  text: "text",
  rights: {},
  most: {},
} as const

export const bring = async (
  server: HubServer,
  commit: string,
  options: Partial<DatasetRequest> & { readonly token?: string; readonly signal?: AbortSignal } = {},
): Promise<Brought> => {
  const { token = "", signal, ...request } = options
  const { out, scratch } = request.out === undefined ? workplace() : { out: request.out, scratch: request.scratch! }
  const said: Array<string> = []
  const progress: Array<DatasetProgress> = []
  const result = await Effect.runPromise(
    Effect.result(
      bringDataset({
        ...asked,
        commit,
        endpoint: server.endpoint,
        patience: hasty,
        out,
        scratch,
        say: (text) => void said.push(text),
        progress: (one) => void progress.push(one),
        ...request,
      }),
    ).pipe(Effect.provide(userWith(token))),
    signal === undefined ? {} : { signal },
  )
  return {
    refused: Result.isFailure(result) ? result.failure.message : undefined,
    tag: Result.isFailure(result) ? result.failure._tag : undefined,
    files: () =>
      Object.fromEntries(
        [`${request.source ?? asked.source}.jsonl`, "dataset.json"].map((name) => [
          name,
          readFileSync(join(out, name), "utf8"),
        ]),
      ),
    said,
    progress,
  }
}
