"""The hand-written forms of transforms whose plain form is too slow to train with.

Each one is the same map as the plain form, which is its test and the one to read first.
"""

__all__: list[str] = []
