"""Workers of a shard group run the same number of forwards, whatever each of them has to evaluate.

A forward gathers every layer from all of the group, so a worker that has no probe left must run along while another has.
Before a forward a worker says that it runs one; before it talks to others it says that it has none left, and runs idle
ones until the whole group says so.
"""

from __future__ import annotations

from typing import Any, final

import torch

from zodist.exchange import Exchange
from zodist.shard.group import ShardGroup


@final
class Lockstep:
    """The agreement of one group.  worker, workers: this one's place in it, and its size."""

    def __init__(self, group: ShardGroup) -> None:
        self.group = group
        self._model: Any = None
        self._idling = False

    @property
    def worker(self) -> int:
        return self.group.mesh.place

    @property
    def workers(self) -> int:
        return self.group.mesh.size

    def all_gather(self, payload: bytes) -> list[bytes]:
        """The payloads of the group, once nobody in it has a forward left; see zodist.exchange.gather.AllGather."""
        self.arrive()
        return self.group.all_gather(payload)

    def follow(self, model: Any) -> None:
        """Announce every forward of a model, before its own hooks gather anything."""
        self._model = model
        model.register_forward_pre_hook(self._announce, prepend=True)

    def _announce(self, module: Any, inputs: Any) -> None:
        if not self._idling:
            self.group.numbers(1)

    def arrive(self) -> None:
        """Run along until nobody in the group has a forward left."""
        while any(self.group.numbers(0)):
            self._idle()

    @torch.inference_mode()
    def _idle(self) -> None:
        """A forward of one token, whose result nobody reads."""
        self._idling = True
        try:
            token = torch.zeros(1, 1, dtype=torch.int64, device=self._model.device)
            self._model(input_ids=token, use_cache=False, logits_to_keep=1)
        finally:
            self._idling = False


@final
class SteppingExchange:
    """An exchange that waits for the own group, running along, before it talks to all workers."""

    def __init__(self, exchange: Exchange, lockstep: Lockstep) -> None:
        self._exchange, self._lockstep = exchange, lockstep

    @property
    def worker(self) -> int:
        return self._exchange.worker

    @property
    def workers(self) -> int:
        return self._exchange.workers

    @property
    def sent(self) -> int:
        return self._exchange.sent

    @property
    def received(self) -> int:
        return self._exchange.received

    @property
    def stopping(self) -> bool:
        return self._exchange.stopping

    def all_gather(self, payload: bytes) -> list[bytes]:
        self._lockstep.arrive()
        return self._exchange.all_gather(payload)

    def close(self) -> None:
        self._exchange.close()
