"""Time to the first image, and cost of listing, of a remote folder with a million keys.

    python -m benchmarks.listing [COUNT] [MILLISECONDS]

The storage is simulated: it generates the names, a page of 1,000 for each request as in S3, and
waits MILLISECONDS (0) before each. Memory is the peak of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import fsspec
import numpy as np
from fsspec.spec import AbstractFileSystem

from fcnseg.io.images import encode_image
from fcnseg.io.sources import open_source

IMAGE = encode_image(np.zeros((8, 8, 3), np.uint8))


class MadeUp(AbstractFileSystem):
    """A bucket of COUNT images of 8x8 pixels in one folder."""

    protocol = "madeup"
    count, seconds = 1_000_000, 0.0

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """A folder, or an image."""
        kind = "file" if path.endswith(".png") else "directory"
        return {"name": path, "size": len(IMAGE), "type": kind}

    def cat_file(self, path: str, *_: Any, **__: Any) -> bytes:
        """The image."""
        del path
        time.sleep(self.seconds)
        return IMAGE

    def call_s3(self, method: str, **wanted: Any) -> dict[str, Any]:
        """A page of keys."""
        assert method == "list_objects_v2"
        time.sleep(self.seconds)
        begin = int(wanted.get("ContinuationToken", 0))
        end = min(begin + 1000, self.count)
        prefix = wanted["Prefix"]
        contents = [
            {"Key": f"{prefix}image_{number:09}.png", "Size": len(IMAGE), "ETag": str(number)}
            for number in range(begin, end)
        ]
        more = {"IsTruncated": True, "NextContinuationToken": str(end)} if end < self.count else {}
        return {"Contents": contents, **more}


def megabytes() -> float:
    """Peak memory of this process."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("count", type=int, nargs="?", default=1_000_000)
    parser.add_argument("milliseconds", type=float, nargs="?", default=0.0)
    chosen = parser.parse_args()
    MadeUp.count, MadeUp.seconds = chosen.count, chosen.milliseconds / 1000
    fsspec.register_implementation("madeup", MadeUp)
    found = {"keys": MadeUp.count, "ms a request": MadeUp.seconds * 1000, "MB before": megabytes()}
    began = time.perf_counter()
    with open_source("madeup://bucket/folder") as source:
        next(iter(source))
    found |= {"s to the first image": round(time.perf_counter() - began, 2)}
    began, names = time.perf_counter(), 0

    def seen(name: str, path: object) -> bool:
        nonlocal names
        del name, path
        names += 1
        if names == 100_000:
            found["MB at 100,000"] = megabytes()
        return True

    with open_source("madeup://bucket/folder") as source:
        source.skip(seen)
        assert not list(source)
    assert names == source.skipped == MadeUp.count
    seconds = time.perf_counter() - began
    found |= {"s to list all": round(seconds, 1), "MB at the end": megabytes()}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
