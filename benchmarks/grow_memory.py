"""Peak memory of `gnomon grow` on a Llama of transformers, relative to what it writes.

    python benchmarks/grow_memory.py [--layers 12] [--width 768] [--dtype float32 bfloat16 float16]

A Llama of random weights is written to a temporary folder; then two processes run, each alone:
one imports the libraries, the other is the command. The figure is the difference of their highest
resident sets (ru_maxrss) divided by the bytes of the file that was written; "anonymous" leaves out
the pages of mapped files (VmHWM counts them; they are the system's to drop).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

PRELUDE = """
import resource, sys, threading, time
peak = 0
def watch():
    global peak
    while True:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("RssAnon"):
                    peak = max(peak, int(line.split()[1]))
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
"""
BUILD = """
import torch, transformers
torch.manual_seed(0)
config = transformers.LlamaConfig(**settings)
model = transformers.LlamaForCausalLM(config).to(getattr(torch, dtype))
model.save_pretrained(folder)
print(sum(p.numel() for p in model.parameters()))
"""
IMPORT = """
import gnomon, gnomon.opening, gnomon.cli, safetensors.torch, transformers
from transformers import LlamaForCausalLM
"""
GROW = """
from gnomon.cli.app import main
sys.argv = ["gnomon", "grow", *arguments]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
TELL = """
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, peak)
"""


def run(code: str, **names: object) -> str:
    """What a process of its own prints."""
    given = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    done = subprocess.run(
        [sys.executable, "-c", given + code], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout[-4000:] + done.stderr[-4000:])
    return done.stdout


def peaks(code: str, **names: object) -> tuple[float, float]:
    """Highest resident set of a process, and of it the anonymous pages, in bytes."""
    line = next(x for x in run(PRELUDE + code + TELL, **names).splitlines() if "PEAK" in x)
    _, whole, anonymous = line.split()
    return int(whole) * 1024.0, int(anonymous) * 1024.0


def measure(settings: dict[str, int], dtype: str, widen: list[str], folder: Path) -> str:
    """One line: sizes in MB, and memory relative to the result."""
    small, out = folder / "small", folder / "grown"
    run(BUILD, settings=settings, dtype=dtype, folder=str(small))
    options = [x for pattern in widen for x in ("--widen", pattern)]
    arguments = [f"hf:{small}", *options, "--rule", "net2net", "-o", str(out), "--yes"]
    base = peaks(IMPORT)
    used = peaks(GROW, arguments=arguments)
    before = sum(f.stat().st_size for f in small.glob("*.safetensors"))
    after = sum(f.stat().st_size for f in out.glob("*.safetensors"))
    whole, anonymous = (u - b for u, b in zip(used, base, strict=True))
    described = (out / "config.json").exists()
    return (
        f"{dtype:9s} {before / 1e6:6.0f} -> {after / 1e6:6.0f} MB   peak {whole / 1e6:6.0f} MB "
        f"({whole / after:.2f}x), anonymous {anonymous / 1e6:6.0f} MB ({anonymous / after:.2f}x)"
        f"{'' if described else '   no config.json'}"
    )


def main() -> None:
    """All dtypes, a line each."""
    ask = argparse.ArgumentParser()
    ask.add_argument("--layers", type=int, default=12)
    ask.add_argument("--width", type=int, default=768)
    ask.add_argument("--dtype", nargs="+", default=["float32", "bfloat16", "float16"])
    ask.add_argument("--widen", nargs="+", default=["*=2"])
    ask.add_argument("--runs", type=int, default=1)
    given = ask.parse_args()
    import torch
    import transformers

    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    settings = {
        "hidden_size": given.width, "intermediate_size": 2048 * given.width // 768,
        "num_hidden_layers": given.layers, "num_attention_heads": given.width // 64,
        "vocab_size": 32000,
    }  # fmt: skip
    print(json.dumps(settings))
    for dtype in given.dtype:
        for _ in range(given.runs):
            with tempfile.TemporaryDirectory() as folder:
                print(measure(settings, dtype, given.widen, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
