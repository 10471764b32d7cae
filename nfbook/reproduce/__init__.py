"""The experiments of the NF-VAE's authors, and what the field has learnt since, as commands.

``python -m nfbook.reproduce`` lists them. Each is one readable file: its settings, its jobs, and
what a job does. Those with images end alike, see `training` and `evaluation`.
"""

__all__: list[str] = []
