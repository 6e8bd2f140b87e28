"""What an evaluation needs of other workers: somebody who shares items out and brings all payloads back."""

from __future__ import annotations

from collections.abc import Callable

# gather(count, size, make): the payloads of `count` items of `size` bytes, in order, shared out among workers.
Gather = Callable[[int, int, Callable[[int], bytes]], list[bytes]]
