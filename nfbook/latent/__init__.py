"""Latent variable models whose evidence and posterior are known exactly, and their fits by EM."""

from nfbook.latent.kmeans import KMeans
from nfbook.latent.mixture import GaussianMixture
from nfbook.latent.model import LatentVariableModel
from nfbook.latent.ppca import PPCA

__all__ = ["PPCA", "GaussianMixture", "KMeans", "LatentVariableModel"]
