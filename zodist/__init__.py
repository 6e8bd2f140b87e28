"""zodist: fine-tune language models on many nodes with forward passes and a few bytes."""

__version__ = "0.1.0"
