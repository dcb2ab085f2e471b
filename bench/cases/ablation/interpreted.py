"""The payload check as plain Python: run with NUMBA_DISABLE_JIT=1, prints one JSON object of figures.

NUMBA_DISABLE_JIT=1 python -m bench.cases.ablation.interpreted FRAMES
"""

import json
import sys
import warnings

from bench.cases.kernels.payload_check import measure

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # words that wrap around, as they are meant to
    print(json.dumps(measure("small", int(sys.argv[1]), 3)))
