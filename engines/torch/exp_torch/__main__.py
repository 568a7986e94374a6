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


def _with_allocator() -> None:
    """Starts this program again where the allocator is as it comes: it reads its settings when a process begins, never
    later."""
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _ALLOCATOR):
        return
    os.environ.update(_ALLOCATOR)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main() -> int:
    arguments = sys.argv[1:]
    if len(arguments) > 1 or (arguments and arguments[0] in ("-h", "--help")):
        print(__doc__, file=sys.stderr)
        return 0 if len(arguments) == 1 else 2
    _with_allocator()
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
