"""Other ways to train, small and honest, on torch's own parts: one a file, in the same harness as zodist."""
