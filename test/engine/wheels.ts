import { execFileSync } from "node:child_process"
import { python } from "./torch.ts"

/** Packages of the right names with a megabyte in each, which lead to those that are installed already: nothing is downloaded. */
export const wheels = (folder: string): void =>
  void execFileSync(python!, [
    "-c",
    `
import os, sys, sysconfig, zipfile
from importlib.metadata import version
for name in ("torch", "numpy"):
    release = version(name).split("+")[0]
    info = f"{name}-{release}.dist-info"
    with zipfile.ZipFile(f"{sys.argv[1]}/{name}-{release}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}_is_there.pth", sysconfig.get_paths()["purelib"] + "\\n")
        wheel.writestr(f"{name}_weight.bin", os.urandom(1 << 20))
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {release}\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
`,
    folder,
  ])
