"""``python -m initium.stream.native``: compile the kernels into the package where it lies."""

from __future__ import annotations

import sys

from initium.stream.native.build import SOURCES, BuildError, build

if __name__ == "__main__":
    try:
        print(f"built {build(SOURCES)}")
    except BuildError as error:
        sys.exit(f"not built: {error}")
