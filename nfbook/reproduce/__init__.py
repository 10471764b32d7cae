"""The experiments of Rezende and Mohamed (2015), each from its data to its numbers.

Each one is a file of settings and functions: ``SETTINGS``, ``QUICK``, ``jobs(settings)`` and
``run(job, settings)``.

Example:
    >>> from nfbook.reproduce import energies
    >>> job = energies.jobs(energies.QUICK)[0]
    >>> result = energies.run(job, energies.QUICK)
    >>> result["target"], result["family"], result["length"]
    ('U1', 'planar', 2)
"""

from nfbook.reproduce import energies

__all__ = ["energies"]
