"""Eight workers of a training loop read one cache, however they were started."""

import multiprocessing
import sys

import numpy as np

from cogcache import FilesystemCacheConfig, MemoryCacheConfig, PipelineArtifactCache

ROWS, WIDTH = 64, 256


class Embeddings:
    """What a DataLoader takes: pickled with its cache, a ``len`` and items by number."""

    def __init__(self, directory: str) -> None:
        tiers = [MemoryCacheConfig(max_size_mb=64), FilesystemCacheConfig(directory)]
        self.cache = PipelineArtifactCache.open(*tiers)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, number: int) -> float:
        row = np.empty(WIDTH, np.float32)  # filled in place: nothing is allocated by the cache
        if not self.cache.cache.sync.get_into(f"row/{number}", row):
            row[:] = np.random.default_rng(number).random(WIDTH, np.float32)
            self.cache.cache.sync.set(f"row/{number}", row)
        row /= np.linalg.norm(row)  # writable, as a training loop wants it
        return float(row @ row)


if __name__ == "__main__":
    dataset = Embeddings(sys.argv[1])
    print("rows of length one:", sum(abs(dataset[number] - 1) < 1e-5 for number in range(ROWS)))
    with multiprocessing.get_context(sys.argv[2]).Pool(8) as workers:
        lengths = workers.map(dataset.__getitem__, range(ROWS))
    print(f"{sys.argv[2]}: rows of length one:", sum(abs(one - 1) < 1e-5 for one in lengths))
