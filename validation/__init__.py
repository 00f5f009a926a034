"""Off-policy evaluation held against the truth: where a linear solve knows it, by enumeration, and on logged clicks.

`make validation` makes the tables of the page *Validation* anew, from `python -m validation` and, in an environment of
its own, `python -m validation.peers`.
"""
