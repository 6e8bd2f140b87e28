"""What a run will cost before it is started: ``zodist plan``.

A model's shape is counted from its configuration alone, a machine's rates are measured once, and everything else is
arithmetic that can be checked by hand.

    shapes.py       what a step has to touch and to multiply, counted on torch's meta device
    calibration.py  the rates of a machine and of its network
    cost.py         time of a step: forward, wait, exchange, update
    skew.py         how much later the slowest of many workers is
    first_order.py  the same for training with gradients: full, with adapters, with rare averaging
    memory.py       bytes of a worker, shard group, probes in a forward
    advice.py       probes and data lanes; who is faster
    simulation.py   10 to 100,000 workers with stragglers and failures
    wall.py         efficiency against workers for four kinds of populations
    against.py      predictions beside measured cells
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
