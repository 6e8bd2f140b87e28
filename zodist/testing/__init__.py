"""The suite that every zeroth-order method passes: zodist's own and yours, without a branch for any of them.

In a test file, one line; each check is a test of its own:

    from zodist.testing.suite import suite

    test_mine = suite("mine")

``suite`` is a function whose value is an ordinary parametrised test, because that needs no plugin, which pytest would
import in every session of every project of its environment, and no class to inherit from.  Without pytest,
``check_method`` runs the same checks and raises AssertionError with a sentence for each that fails.

A method is named as in the registry (entry point group zodist.methods) or given as its class.  What it claims about
itself beyond that, in ``Method.expected``, ``Method.linear_moments`` and ``Method.memory``, is measured.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
