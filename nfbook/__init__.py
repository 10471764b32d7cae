"""The companion package of the book: models, flows and the checks behind every equation.

Importing ``nfbook`` imports torch and nothing heavier, and changes no global state.
Each module is imported by its own name, as the chapters do::

    from nfbook.bayes import BetaBernoulli
    from nfbook.ledger import verify
"""

__version__ = "0.1.0"
