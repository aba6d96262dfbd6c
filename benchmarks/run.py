"""All speed benchmarks, one process each: python benchmarks/run.py [--quick] [--out FOLDER] [--threads N].

`--quick`: fewer repeats, smaller cases.  Each file can be run alone with the same options.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

NAMES = ("noise", "client_message", "server_step", "many_clients")

if __name__ == "__main__":
    begun = time.perf_counter()
    for name in NAMES:
        subprocess.run([sys.executable, str(Path(__file__).parent / f"{name}.py"), *sys.argv[1:]], check=True)  # noqa: S603 - our own files
    print(f"{time.perf_counter() - begun:.0f} s in all")
