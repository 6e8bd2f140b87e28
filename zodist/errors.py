"""The errors a user can act on: one sentence that says what was found, where, and what to change.

The command line prints the sentence and exits with 2 (WorkerLost: 69, Stopped: 75); anything that is not a ZodistError
is a defect of zodist.
"""

from __future__ import annotations


class ZodistError(Exception):
    """An error whose message is written for the person who started the run."""


class ConfigError(ZodistError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another one."""


class ModelError(ZodistError):
    """A model cannot be loaded, is not the expected one, or cannot be perturbed exactly."""


class TaskError(ZodistError):
    """A task's description or data cannot be used."""


class ObjectiveError(ZodistError):
    """A reward cannot be had: its function or command is missing, fails, or gives no finite number."""


class JournalError(ZodistError):
    """A journal cannot be read or written, is damaged, or belongs to another run."""


class JournalEnd(JournalError):
    """A journal ends before the round that was asked for: nothing is wrong with what it holds."""


class SnapshotError(ZodistError):
    """A snapshot cannot be written."""


class ShareError(ZodistError):
    """A shared run cannot be written, read, or rebuilt on this machine."""


class Stopped(ZodistError):
    """A run was asked to stop and has done so after a step; the same command goes on."""


class ExchangeError(ZodistError):
    """Workers cannot talk, or do not agree on what they are doing."""


class WorkerLost(ExchangeError):
    """A worker died or does not answer; the same command goes on where the journal ends."""
