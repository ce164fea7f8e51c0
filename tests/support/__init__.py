"""What tests share: oracles, the command line, image files, small networks. No test imports another test."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
