/**
 * Whether a token may publish to a repository, as far as the hub tells beforehand: a token that may only read is found before an
 * hour of upload, not after it. What the hub does not tell, it answers with 403, and that is final.
 */
import type { Account } from "./Hub.ts"
import { NotAllowed } from "./HubError.ts"

const TOKENS = "https://huggingface.co/settings/tokens"

/** What speaks against it, or undefined. `exists`: whether the repository is there already. */
export const refusal = (account: Account, repository: string, exists: boolean): NotAllowed | undefined => {
  const [namespace = ""] = repository.split("/")
  const refuse = (problem: string, hint: string) => new NotAllowed({ repository, problem, hint })
  if (account.role === "read") return refuse("the token may only read", `make one with the role write at ${TOKENS}`)
  const organization = account.organizations.find(({ name }) => name === namespace)
  if (account.name !== namespace && organization === undefined)
    return refuse(
      `the token is ${account.name}'s, who is no member of \`${namespace}\``,
      `publish to ${[account.name, ...account.organizations.map(({ name }) => name)]
        .map((owner) => `${owner}/${repository.split("/")[1]}`)
        .join(" or ")}`,
    )
  if (organization?.role === "read")
    return refuse(`${account.name} may only read in \`${namespace}\``, "ask one of its admins for the role write")
  if (account.role !== "fineGrained") return undefined
  const scopes = account.scopes.filter(({ entity }) => entity === namespace || (exists && entity === repository))
  if (scopes.some(({ permissions }) => permissions.includes("repo.write"))) return undefined
  return refuse(
    exists
      ? "the fine-grained token has no write access to it"
      : `the fine-grained token may not make repositories of \`${namespace}\``,
    `give it \`repo.write\` for ${exists ? `${repository} or ` : ""}${namespace} at ${TOKENS}`,
  )
}
