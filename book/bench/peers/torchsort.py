"""torchsort: a C++ extension of torch."""

import torch
import torchsort

from book.bench.peers import Calls, Case

PACKAGES = ("torchsort", "torch")
OPERATORS = {"soft_rank": torchsort.soft_rank, "soft_sort": torchsort.soft_sort}
torch.set_num_threads(1)


def prepare(case: Case, x, cotangent) -> Calls:
    """Torch calls on tensors that share the arrays' memory."""
    if case.operator not in OPERATORS:
        return {}
    constant, weights = torch.from_numpy(x), torch.from_numpy(cotangent)
    leaf = constant.clone().requires_grad_()
    options = {"regularization": case.regularization, "regularization_strength": case.epsilon}

    def call(tensor):
        return OPERATORS[case.operator](tensor, **options)

    def both():
        values = call(leaf)
        return values.detach(), torch.autograd.grad(values, leaf, weights)[0]

    return {"value": lambda: call(constant), "value+gradient": both}
