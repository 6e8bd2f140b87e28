"""Tasks: what a model is fine-tuned and evaluated on.

A task is a TOML file (description.py), built in or a user's own: a prompt template over rows of data, and what should
follow it. `load_task` reads, draws and tokenises the data; `Task.batch` turns examples into a forward pass, `Task.measure`
into the figures of an evaluation.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
