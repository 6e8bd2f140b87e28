"""Adapters: a few weights of their own beside a frozen model; only they are trained, and saved as peft saves them.

What they start from is a function of the run's seed and of the base model, by addresses as all numbers are: no stream is
drawn from, and every worker and every replay starts from the same bits.  They are float32 whatever the model is.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
