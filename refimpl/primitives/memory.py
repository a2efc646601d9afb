"""What the memory allocator should know about loops over batches."""

import numpy as np


def keep_freed_memory() -> None:
    """Have the C library keep freed arrays for the next ones, in loops that make and drop the same arrays each time.

    glibc hands freed memory back to the kernel above a threshold, and taking it back costs a page fault every 4 KiB:
    more than the arithmetic on it. The threshold rises to twice the size of the largest block freed so far, blocks up
    to 32 MiB counted. So one such block is freed here, without ever having been touched. Other allocators do nothing
    special; nothing else changes.

    Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    np.empty(31 * 2**20, dtype=np.uint8)
