"""Names in a configuration that stand for something else than a file or a model of the hub."""

from __future__ import annotations

PACKAGED = "smollm2-135m"  # a model whose weights come with a Python package, see zodist.models.load
IN_PYTHON = "python:"  # begins the name of what a program has passed: a model, a task or a reward function
