r"""Regularizers, and the prediction maps that they define.

A regularizer :math:`\Omega` is a convex function on a convex set of predictions. It turns scores
:math:`\theta` into a prediction, and has a conjugate whose gradient that prediction is:

.. math::

    \hat y(\theta) = \operatorname*{argmax}_{p} \; \langle\theta, p\rangle - \Omega(p),
    \qquad
    \Omega^*(\theta) = \max_{p} \; \langle\theta, p\rangle - \Omega(p).

Each regularizer here is a small object with methods ``value``, ``max`` (the conjugate) and
``argmax`` (the prediction map). The maps that have names of their own are functions too. A new
regularizer is a subclass of ``Regularizer`` with two methods. Blondel, Martins and Niculae
:cite:p:`blondel2020learning`, sections 3 and 4. Chapter: :ref:`fenchel_young`.

Arguments that all share:

- `theta` of shape [..., n, ...], scores along `axis`; a score of minus infinity is dropped;
- `where`, a mask of the shape of `theta`: items outside take no part, and their prediction is 0.
"""

from diffopt.regularizers.base import Regularizer
from diffopt.regularizers.entropies import FermiDirac, Gini, Renyi, Shannon, Tsallis
from diffopt.regularizers.maps import budget, entmax, fusedmax, normmax, softmax, sparsemax
from diffopt.regularizers.norms import Norm, SquaredNorm, SquaredNormOn
from diffopt.regularizers.piecewise import CostAugmented, Fused, Zero

__all__ = [
    "CostAugmented",
    "FermiDirac",
    "Fused",
    "Gini",
    "Norm",
    "Regularizer",
    "Renyi",
    "Shannon",
    "SquaredNorm",
    "SquaredNormOn",
    "Tsallis",
    "Zero",
    "budget",
    "entmax",
    "fusedmax",
    "normmax",
    "softmax",
    "sparsemax",
]
