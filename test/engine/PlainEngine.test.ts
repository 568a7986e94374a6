/** What runs where a native tfjs is installed, here on the wasm backend: composed operations and no caches. */
import { layerWith } from "../../src/engine/tfjs/TfjsEngine.ts"
import { contract } from "./contract.ts"
import { llama } from "./golden.ts"

contract("tfjs-plain", layerWith({ backend: "plain", workers: 2 }))
contract("tfjs-plain", layerWith({ backend: "plain", workers: 2 }), llama)
