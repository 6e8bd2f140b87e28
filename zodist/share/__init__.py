"""A run in one small file: base model + this file = the trained model, on another machine.

The file is a ZIP archive with three members of fixed names, all compressed with deflate, in this order:

    share.json      what the file promises: format, run id, steps, digest of the weights after them, name and fingerprint
                    of the base model, evaluations of the run
    config.toml     the run's configuration, without folders and addresses (zodist.config.portable)
    journal.jsonl   the journal up to that step, as zodist.journal.format defines it

Equal runs make equal files: members carry no time.  A reader looks at the size of the file, at the names and at the sizes
that the archive declares before it unpacks anything, and unpacks no more than that.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
