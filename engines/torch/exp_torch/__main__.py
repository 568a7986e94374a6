"""`python -m exp_torch`: answers requests on standard input. `python -m exp_torch REQUEST.json`: does the one of a
file."""

from __future__ import annotations

import os
import platform
import sys

_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
"""glibc gives large blocks back to the system at once and asks for them again, page by page, at every step; kept, a
step is some 16 % faster."""

_WAITING = {"GOMP_SPINCOUNT": "2000"}
"""How long a thread spins before it sleeps while it waits for others: some microseconds, where as it comes it is
milliseconds. On processors that nobody else uses a step takes as long; at a load of twice their number, half."""


def _surrounded() -> None:
    """Starts this program again where the system's libraries are as they come: they read their settings when a process
    begins, never later. What somebody has set stays."""
    if platform.libc_ver()[0] != "glibc":
        return
    wanted: dict[str, str] = {}
    for settings, others in ((_ALLOCATOR, ()), (_WAITING, ("OMP_WAIT_POLICY",))):
        if not any(name in os.environ for name in (*settings, *others)):
            wanted |= settings
    if wanted:
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main() -> int:
    arguments = sys.argv[1:]
    if len(arguments) > 1 or (arguments and arguments[0] in ("-h", "--help")):
        print(__doc__, file=sys.stderr)
        return 0 if len(arguments) == 1 else 2
    _surrounded()
    # read once, when the first product is computed; without it products are not deterministic
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # memory for growing micro-batches need not lie in one piece; the older name counts, but less than the newer one
    if sys.platform == "linux" and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    from . import protocol
    from .parallel import RANK_ARGUMENT

    if not arguments:
        protocol.serve()
    elif arguments[0] == RANK_ARGUMENT:
        protocol.serve_as_rank()
    else:
        protocol.end_now(protocol.do_file(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
