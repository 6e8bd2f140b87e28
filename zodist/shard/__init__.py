"""Models that are held in parts: a group of workers has one copy of the weights between them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
