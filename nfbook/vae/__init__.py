"""Latent variable models with networks: the variational autoencoder and its decoders."""

from nfbook.vae.decoders import BernoulliDecoder, Decoder, GaussianDecoder, LogitNormalDecoder
from nfbook.vae.deep import DeepLatentGaussian, HierarchicalGaussian
from nfbook.vae.fit import Standardised, fit_vae
from nfbook.vae.model import VAE, Evaluation, ImportanceEstimate
from nfbook.vae.parabola import Parabola

__all__ = [
    "VAE",
    "BernoulliDecoder",
    "Decoder",
    "DeepLatentGaussian",
    "Evaluation",
    "GaussianDecoder",
    "HierarchicalGaussian",
    "ImportanceEstimate",
    "LogitNormalDecoder",
    "Parabola",
    "Standardised",
    "fit_vae",
]
