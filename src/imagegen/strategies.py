"""How several processes train one model."""

from __future__ import annotations

from datetime import timedelta

from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from pydantic import PositiveInt
from torch import nn


class DDP(DDPStrategy):
    """A copy of the model in each process, gradients averaged; who waits longer than `timeout_seconds` gives up."""

    def __init__(self, find_unused_parameters: bool, timeout_seconds: PositiveInt) -> None:
        super().__init__(find_unused_parameters=find_unused_parameters, timeout=timedelta(seconds=timeout_seconds))

    def on_exception(self, exception: BaseException) -> None:
        """End the other processes, which may hang, and the watch over them, which would kill a whole sweep."""
        super().on_exception(exception)
        processes = getattr(self.launcher, "procs", [])
        if not isinstance(exception, SystemExit):  # which they leave by themselves
            for process in processes:
                process.kill()
                process.wait()
        processes.clear()

    def _setup_model(self, model: nn.Module) -> nn.Module:  # type: ignore[override]
        # A mixture has no gradients to average; it averages its statistics by itself.
        has_gradients = any(parameter.requires_grad for parameter in model.parameters())
        return super()._setup_model(model) if has_gradients else model


class FSDP(FSDPStrategy):
    """Weights, their averages and optimizer state in shards, for models too large for one GPU; whole checkpoints.

    Blocks of at least `min_parameters` become units of their own.
    """

    def __init__(self, min_parameters: PositiveInt, timeout_seconds: PositiveInt) -> None:
        from functools import partial

        from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy

        super().__init__(
            timeout=timedelta(seconds=timeout_seconds),
            auto_wrap_policy=partial(size_based_auto_wrap_policy, min_num_params=min_parameters),
            state_dict_type="full",
            use_orig_params=True,
        )
