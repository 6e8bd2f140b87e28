"""How training scales when the network is poor: ``zodist scale``.

Hosts are network namespaces on one Linux machine, with links of a chosen rate, delay, jitter and loss; or the machines of an
allocation, as they are.  zodist and four other ways to train run on the same model and the same links.

    cell.py        one measurement: what, on which link, by how many workers
    network.py     namespaces with shaped links, or loopback
    tap.py         a switch in user space, for delay, jitter and loss
    counters.py    bytes that crossed an interface
    crew.py        worker processes that are told what to measure, one line at a time
    worker.py      one of them
    systems.py     what is measured: one step at a time, by phases
    replicated.py  zodist itself
    baselines/     the others, one a file
    sweep.py       all cells, in turn; goes on after an interruption
    allocation.py  the same inside torchrun, mpirun or Slurm
    picture.py     plots
    crossover.py   who reaches a loss first
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
