"""One session, and what it leaves."""
