"""The demo of `make demo`: train, sample and score on the embedded digits, then print where the results are.

Usage: python scripts/demo.py [OVERRIDE ...]   (overrides of dfm train, e.g. trainer.max_steps=200)
"""

import json
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path


def dfm(*arguments: str) -> None:
    """Run one command of dfm as a user does; stop if it fails."""
    print(f"\n$ dfm {' '.join(arguments)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "dfm", *arguments]).returncode
    if code:
        raise SystemExit(code)


def main() -> None:
    """Train, sample, score, report."""
    root = Path("outputs") / f"demo-{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    run, samples, nll = (root / name for name in ("train", "sample", "nll"))
    start = time.perf_counter()
    dfm("train", "experiment=digits_flow", f"hydra.run.dir={run}", *sys.argv[1:])
    dfm("sample", f"ckpt={run}", f"hydra.run.dir={samples}")
    dfm("nll", f"ckpt={run}", f"hydra.run.dir={nll}")
    result = json.loads((nll / "nll.json").read_text("utf-8"))
    print(f"\nThe demo took {time.perf_counter() - start:.0f} s. Results:")
    print(f"  the model            {run / 'checkpoints'}")
    print(f"  grids over training  {run / 'samples'}")
    print(f"  the curves           {run / 'metrics.jsonl'}")
    print(f"  64 new digits        {samples / 'grid.png'}")
    print(
        f"  the likelihood       {nll / 'nll.json'}: {result['bits_per_dim']:.3f} +- {result['stderr']:.3f} bits/dim "
        f"on {result['num_examples']} held-out digits"
    )


if __name__ == "__main__":
    main()
