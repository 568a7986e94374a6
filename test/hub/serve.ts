/**
 * `node test/hub/serve.ts [TOKEN] [ORGANIZATION] [BYTES]`: a hub on this machine, for trying `exp publish` by hand. Objects of BYTES
 * and more go in parts. It forgets all when it ends.
 */
import { HubServer } from "./HubServer.ts"

const [token = "hf_tryTryTryTryTryTryTryTryTryTryTry", organization = "our-org", bytes = "20000000"] =
  process.argv.slice(2)
const server = await HubServer.start({
  accounts: { [token]: { name: "you", orgs: [{ name: organization, roleInOrg: "admin" }], role: "write" } },
  multipartFrom: Number(bytes),
  partSize: Math.min(Number(bytes), 100_000_000),
})
console.log(`export HF_ENDPOINT=${server.endpoint} HF_TOKEN=${token} HF_HUB_DISABLE_XET=1`)
