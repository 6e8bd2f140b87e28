"""Several methods on one task at equal forward passes, each with a learning rate tuned for it.

plan.py      what is compared: entries, baselines, the steps that a budget pays for, the settings of every run
cost.py      forward passes of a method's steps, counted without a model
workers.py   runs trained one after another on one loaded model, here or in processes of their own
contest.py   the order of the runs, and how a comparison that was killed goes on
results.py   a run folder's figures as one line of results.jsonl; means and standard errors over seeds
table.py     the rows, on a terminal and in Markdown
picture.py   the curves
outcome.py   from the command to the files

Every run is an ordinary run folder: it resumes, replays and is inspected like one of `zodist train`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
