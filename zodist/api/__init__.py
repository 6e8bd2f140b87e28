"""The same runs from Python, without files: on a model that is in memory, transformers' or any torch module.

`fine_tune` runs to the end, `Trainer` step by step, `rebuild` makes a run's weights again from its folder.  All three are
zodist's own attributes too.  They stand on the session, replica and journal of the command line, so equal settings give
equal bits; nothing global is touched: no threads, no random stream, no environment, no signal.
"""

from zodist.api.results import Tuned
from zodist.api.trainer import Trainer, fine_tune
from zodist.run.replay import Rebuilt, rebuild
from zodist.run.train import Taken

__all__ = ["Rebuilt", "Taken", "Trainer", "Tuned", "fine_tune", "rebuild"]
