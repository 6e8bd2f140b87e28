"""What a point's number is, where it is not the loss: accuracy, F1, equality with a reference, a reward for what is written.

    aim.py        the number of each point of a probe
    reward.py     a function of a written answer: from an entry point of Python or a command
    command.py    the process behind such a command
    judged.py     a task whose evaluations tell the mean reward

The number is what a run makes small, so 1 - accuracy, 1 - F1, 1 - share of equal answers, or minus the reward.  It need not
be differentiable: a method only ever sees values, and the journal has them, so replay, recovery and another number of
workers are as they are for a loss.  Words are drawn by numbers that have an address (zodist.evaluator.sampling), the same
at all points of a probe.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
