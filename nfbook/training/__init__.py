"""Training: one loop for all models, what it minimises, and checkpoints to go on from."""

from nfbook.training._signals import Interrupted
from nfbook.training.annealing import Annealing, constant, linear_annealing
from nfbook.training.averaging import exponential_average
from nfbook.training.checkpoints import CheckpointError, Checkpoints, load_state, save_state
from nfbook.training.finite import TrainingError
from nfbook.training.history import TrainingHistory
from nfbook.training.loop import Trainer
from nfbook.training.losses import (
    Loss,
    MaximumLikelihood,
    NegativeELBO,
    NegativeImportanceBound,
    ReverseKL,
    negative_bound,
)
from nfbook.training.scale import WorkerLostError

__all__ = [
    "Annealing",
    "CheckpointError",
    "Checkpoints",
    "Interrupted",
    "Loss",
    "MaximumLikelihood",
    "NegativeELBO",
    "NegativeImportanceBound",
    "ReverseKL",
    "Trainer",
    "TrainingError",
    "TrainingHistory",
    "WorkerLostError",
    "constant",
    "exponential_average",
    "linear_annealing",
    "load_state",
    "negative_bound",
    "save_state",
]
