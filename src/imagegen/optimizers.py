"""Muon, which torch.optim has for matrices alone, with the kernels of convolutions and with Adam for all else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: steep at 0, all singular values end in about [0.7, 1.2]
ADAM_SCALE = 0.2  # typical root mean square of an update of Adam over its learning rate (Liu et al. 2025, sec. 2.2)


class Muon(torch.optim.Optimizer):
    """Jordan et al. 2024 (kellerjordan.github.io/posts/muon): steps of equal length in all directions of a matrix.

    The running mean of a matrix's gradients (Nesterov's, `betas[0]`) is replaced by the nearest matrix whose singular
    values are all about one, so that directions that are rare in the data learn as fast as the others. The kernel
    (out, in, h, w) of a convolution is the matrix (out, in * h * w). Updates have the root mean square of Adam's (Liu
    et al. 2025, arXiv:2502.16982, eq. 4), so learning rates are of the same order; what is neither matrix nor kernel
    (biases, gains) is left to Adam with `betas` and `eps`. All decays by the share `lr * weight_decay` in each step.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not trained:
                continue
            torch._foreach_mul_(trained, 1 - group["lr"] * group["weight_decay"])
            for parameter in trained:
                if parameter.dim() in (2, 4):
                    self._move_matrix(parameter, group)
            self._move_by_adam([parameter for parameter in trained if parameter.dim() not in (2, 4)], group)
        return loss

    def _move_matrix(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient, momentum = self.state[parameter], parameter.grad, group["betas"][0]
        if not state:
            state["mean"] = torch.zeros_like(parameter)
        state["mean"].lerp_(gradient, 1 - momentum)
        matrix = gradient.lerp(state["mean"], momentum).flatten(1)  # type: ignore[union-attr]
        length = group["lr"] * ADAM_SCALE * max(matrix.shape) ** 0.5
        parameter.sub_(orthogonalized(matrix).view(parameter.shape), alpha=length)

    def _move_by_adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        states, gradients = [self.state[parameter] for parameter in parameters], [p.grad for p in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state["step"] = torch.zeros(())
                state["mean"], state["mean_square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["step"] += 1
        means, squares = [state["mean"] for state in states], [state["mean_square"] for state in states]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, gradients, 1 - beta1)  # type: ignore[arg-type]
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)  # type: ignore[arg-type]
        numbers = [float(state["step"]) for state in states]
        deviations = torch._foreach_div(squares, [1 - beta2**number for number in numbers])
        torch._foreach_sqrt_(deviations)
        torch._foreach_add_(deviations, group["eps"])
        lengths = [-group["lr"] / (1 - beta1**number) for number in numbers]
        torch._foreach_addcdiv_(parameters, means, deviations, lengths)


def orthogonalized(matrix: Tensor, num_iterations: int = 5) -> Tensor:
    """About U V^T for a matrix U S V^T, in float32: five steps of a polynomial on the singular values."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = (matrix.mT if is_tall else matrix).float()
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x
