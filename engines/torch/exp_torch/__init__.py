"""The PyTorch worker of `exp`: trains, measures and samples models for whoever asks over stdio (see `../PROTOCOL.md`).

| file                                                              | what                                                              |
|-------------------------------------------------------------------|-------------------------------------------------------------------|
| `__main__`, `protocol`, `errors`, `settings`, `session`           | how it is asked, how it answers, what an answer is computed on    |
| `architecture`, `model`, `products`, `random`                     | tensors in canonical order, the modules, the seeded first weights |
| `checkpoint`, `safetensors_file`, `canonical_json`, `rows`        | what is on disk                                                   |
| `train`, `trainer`, `optimizer`, `cross_entropy`, `schedule`      | a run; a step; an update; the loss without its logits             |
| `memory`, `parallel`, `devices`, `telemetry`                      | what fits, who computes, what the device says of itself           |
| `losses`, `probe`, `generate`, `processors`, `logits`, `inspect`, `inference`, `attention` | evaluation and decoding              |
"""

__version__ = "0.1.0"

PROTOCOL = 1

NUMERICS = 1
"""Raised when the same request would give other numbers: enters the key of every step computed here."""
