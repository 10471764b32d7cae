"""Latent variable models with networks: the variational autoencoder and its decoders."""

from nfbook.vae.decoders import BernoulliDecoder, Decoder
from nfbook.vae.model import VAE, Evaluation

__all__ = ["VAE", "BernoulliDecoder", "Decoder", "Evaluation"]
