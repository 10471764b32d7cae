"""Latent variable models whose evidence and posterior are known exactly, and their fits by EM."""

from nfbook.latent.em import Fit, History
from nfbook.latent.estimators import (
    draw,
    effective_sample_size,
    importance_log_prob,
    log_mean_exp,
    log_weights,
    naive_log_prob,
)
from nfbook.latent.kmeans import KMeans
from nfbook.latent.mixture import GaussianMixture
from nfbook.latent.model import LatentVariableModel
from nfbook.latent.ppca import PPCA

__all__ = [
    "PPCA",
    "Fit",
    "GaussianMixture",
    "History",
    "KMeans",
    "LatentVariableModel",
    "draw",
    "effective_sample_size",
    "importance_log_prob",
    "log_mean_exp",
    "log_weights",
    "naive_log_prob",
]
