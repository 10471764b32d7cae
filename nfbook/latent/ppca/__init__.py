"""Probabilistic principal component analysis: the model, its closed form, and its fits by EM."""

from nfbook.latent.ppca.model import PPCA

__all__ = ["PPCA"]
