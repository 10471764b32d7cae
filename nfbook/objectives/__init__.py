r"""What is raised or lowered when a distribution q is fitted, estimated with its standard error.

====================================  ==========================================================
`elbo`                                the evidence lower bound, term by term
`importance_weighted_bound`           a tighter bound, from K draws at once
`reverse_kl`                          :math:`\mathrm{KL}(q \,\|\, p)`, from draws of q
`forward_kl`                          :math:`\mathrm{KL}(p \,\|\, q)`, from draws of p
`flow_matching_loss`                  how far a continuous flow's velocity is from straight lines
`bits_per_dimension`                  the code length of an image, of its log density
====================================  ==========================================================

The first four take any ``torch.distributions`` object for q: a Gaussian, a mixture, or what a flow
returns. The gradient of an estimate, as autograd computes it, is an unbiased estimate of the
gradient. Where q has ``rsample`` it is the reparametrisation gradient: the draws are functions of
noise and of q's parameters. Where q has none, as a discrete q, it is the score function gradient:
every draw also carries a factor whose value is 1 and whose gradient is that of :math:`\log q`.

Near the posterior, and for many draws at once, gradients with less variance are known:
``path_gradient`` of `elbo` and ``doubly_reparametrised`` of `importance_weighted_bound`. What they
are made of is in `nfbook.objectives.path_gradients`: `draw_and_path_log_prob`, `square_weights`.
"""

from nfbook.objectives.bits_per_dimension import bits_per_dimension
from nfbook.objectives.divergences import forward_kl, reverse_kl
from nfbook.objectives.elbo import ELBO, elbo, importance_weighted_bound
from nfbook.objectives.flow_matching import flow_matching_loss
from nfbook.objectives.path_gradients import draw_and_path_log_prob, square_weights

__all__ = [
    "ELBO",
    "bits_per_dimension",
    "draw_and_path_log_prob",
    "elbo",
    "flow_matching_loss",
    "forward_kl",
    "importance_weighted_bound",
    "reverse_kl",
    "square_weights",
]
