"""The PyTorch worker of `exp`: trains, measures and samples models for whoever asks over stdio (see `../PROTOCOL.md`).

| file                                                         | what                                                  |
|--------------------------------------------------------------|-------------------------------------------------------|
| `__main__`, `protocol`, `errors`, `settings`, `session`      | how it is asked and answers, on what it computes      |
| `architecture`, `model`, `products`, `random`                | tensors in canonical order, modules, first weights    |
| `checkpoint`, `safetensors_file`, `canonical_json`, `rows`   | what is on disk                                       |
| `train`, `trainer`, `optimizer`, `cross_entropy`, `schedule` | a run; a step; an update; the loss without its logits |
| `memory`, `parallel`, `devices`, `telemetry`                 | what fits, who computes, what the device says         |
| `losses`, `probe`, `generate`, `processors`, `logits`,       | evaluation and decoding                               |
| `inspect`, `inference`, `attention`                          |                                                       |
"""

__version__ = "0.1.0"

PROTOCOL = 1

NUMERICS = 1
"""Raised when the same request would give other numbers: enters the key of every step computed here."""
