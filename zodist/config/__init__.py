"""One TOML file is one run."""
