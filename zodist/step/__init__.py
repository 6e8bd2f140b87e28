"""The replicated state machine: (state, losses) -> state."""
