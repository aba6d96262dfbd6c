"""Hostile bytes, values and tensors for everything that others hand to this library.

    pytest tests/fuzz                                   # CI's budget, about 10,000 cases
    python -m tests.fuzz --cases 200000                 # more of them, from the repository's root
    python -m tests.fuzz --cases 5000 --only resume     # of targets whose name contains "resume"

Every case starts from something valid that the library made, and changes it; where a format has hashes they are made
anew, so that what lies behind them is reached.  `harness` holds the properties, one helper each,
`mutate` the changes, `valid` what cases start from, and `test_regressions` the inputs that once did harm; each of the
modules that `targets` names holds what is attacked.
"""
