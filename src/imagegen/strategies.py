"""How several processes train one model."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from pydantic import PositiveInt
from torch import nn
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType
from torch.optim.swa_utils import AveragedModel

from imagegen.models.image_model import MismatchError
from imagegen.optimizers import Muon


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

    Each network, its average and their blocks of at least `min_parameters` become units of their own, so that a weight
    and its average are cut alike. A unit gathers its weights when it is called, and its gradients after the step's own
    forward. So a model `is_shardable` that uses its network by `forward` alone and does not optimise by hand, as
    diffusion models.
    """

    def __init__(self, min_parameters: PositiveInt, timeout_seconds: PositiveInt) -> None:
        self.min_parameters = min_parameters
        super().__init__(timeout=timedelta(seconds=timeout_seconds), state_dict_type="full", use_orig_params=True)

    def _setup_model(self, model: nn.Module) -> nn.Module:
        if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
            return model  # to be tested after it was trained
        if not getattr(model, "is_shardable", False):
            name = type(model).__name__
            raise MismatchError(
                f"trainer=fsdp: {name} cannot be cut into shards, diffusion models can; take trainer=ddp"
            )
        if getattr(getattr(model, "optimizer", None), "func", None) is Muon:
            raise MismatchError(
                "trainer=fsdp: Muon needs whole matrices, which shards are not; add "
                "model.optimizer._target_=torch.optim.AdamW model.lr=2e-3"
            )
        networks = {child.module if isinstance(child, AveragedModel) else child for child in model.children()}

        def is_unit(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
            return recurse or module in networks or nonwrapped_numel >= self.min_parameters

        return FullyShardedDataParallel(
            model,
            auto_wrap_policy=is_unit,
            cpu_offload=self.cpu_offload,
            mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy,
            device_id=self.root_device,  # Lightning's own gives its number, which a processor has not
            **self.kwargs,
        )

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights, in the first process; of a processor not "offloaded", which crashes there (PyTorch 2.13)."""
        if self.root_device.type != "cpu":
            return super().lightning_module_state_dict()
        assert self.model is not None
        config = FullStateDictConfig(offload_to_cpu=False, rank0_only=False)
        with FullyShardedDataParallel.state_dict_type(self.model, StateDictType.FULL_STATE_DICT, config):
            return self.model.state_dict()
