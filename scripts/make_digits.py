"""Make dfm/data/published/digits.npz from scikit-learn's copy of the UCI handwritten digits.

    python scripts/make_digits.py [OUT]

OUT is the file to write; the default is dfm/data/published/digits.npz of this repository. The script needs
scikit-learn and one second, but no network. The same input gives the same bytes with the same NumPy and zlib. The file
holds no pickled objects:

    images  uint8 (1797, 8, 8)  grey levels 0 to 16, in the order of the UCI's optdigits.tes
    labels  uint8 (1797,)       0 to 9
    split   uint8 (1797,)       0 train (1297), 1 validation (200), 2 test (300)
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

VALIDATION, TEST = 200, 300


def spread(total: int, count: int) -> np.ndarray:
    """Return bool (total,) with exactly ``count`` True, as evenly spaced as possible."""
    edges = np.arange(total + 1) * count // total
    return np.diff(edges) == 1


def assign(labels: np.ndarray) -> np.ndarray:
    """Return the split of each example, uint8 (N,), stratified by class and without a random number generator.

    Examples are sorted by class and, inside a class, by the SHA-256 of their index, which mixes the writers. Evenly
    spaced examples of this order are the test split; evenly spaced examples of the rest are validation. So each class
    has its share of each split, to within one example.
    """
    digest = [hashlib.sha256(str(index).encode()).hexdigest() for index in range(len(labels))]
    order = np.array(sorted(range(len(labels)), key=lambda index: (labels[index], digest[index])))
    test = spread(len(order), TEST)
    rest = order[~test]
    split = np.zeros(len(labels), dtype=np.uint8)
    split[order[test]] = 2
    split[rest[spread(len(rest), VALIDATION)]] = 1
    return split


def main() -> None:
    """Write the file and say how large it is."""
    default = Path(__file__).resolve().parent.parent / "dfm" / "data" / "published" / "digits.npz"
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    digits = load_digits()
    labels = digits.target.astype(np.uint8)
    np.savez_compressed(out, images=digits.images.astype(np.uint8), labels=labels, split=assign(labels))
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
