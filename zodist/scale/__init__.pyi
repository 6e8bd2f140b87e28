from .command import scale as scale
