"""The same runs from Python, without files: on a model that is in memory, transformers' or any torch module.

`fine_tune` runs to the end, `Trainer` step by step, `rebuild` makes a run's weights again from its folder.  All three are
zodist's own attributes too.  They stand on the session, replica and journal of the command line, so equal settings give
equal bits; nothing global is touched: no threads, no random stream, no environment, no signal.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
