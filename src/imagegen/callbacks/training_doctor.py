"""Plain words for what goes wrong in training: which number showed it, and what to try."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning import Callback
from torch import Tensor

from imagegen.json_files import update_json


class TrainingDoctor(Callback):
    """Watch the losses, gradients and scores of any model, and say once for each ailment what was seen.

    The words go to the terminal, to every logger that takes warnings (W&B) and into the list `warnings` of the file
    `path`, the run's `status.json`. Nothing is stopped or changed. Losses are read where they are logged, gradients
    every `GRADIENT_STEPS` optimizer steps, scores at each validation.
    """

    GRADIENT_STEPS = 50
    NUM_WINDOWS = 5  # of logged means, before the discriminator or the KL term is judged
    MAX_ACCURACY = 0.995  # share of pairs of a real and a generated image that the discriminator tells apart
    MIN_GRADIENT, MAX_GRADIENT = 1e-7, 1e3  # norms; large ones must also be MAX_RISE times the usual
    MAX_RISE = 20.0
    MAX_PENALTY = 100.0  # weighted, as it enters the loss
    MIN_KL = 0.1  # nats per image
    MIN_PERPLEXITY = 0.05  # of a codebook, over its size
    MIN_DIVERSITY = 0.6  # spread within classes over that of real images
    MATURE = 0.3  # share of the budget from which a game and its variety are judged
    OVERFITTING = 1.05  # validation likelihood in bits per dimension, over its best

    def __init__(self, path: str | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.warnings: list[str] = []
        self._said: set[str] = set()
        self._means: dict[str, float] = {}
        self._history: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=20))
        self._steps: dict[int, int] = defaultdict(int)
        self._best: dict[str, float] = {}
        self._norms: tuple[Tensor, Tensor] | None = None

    # When to look ---------------------------------------------------------------------------------------------------

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.train_means is not self._means:  # new ones were logged
            self._means = pl_module.train_means
            for name, value in self._means.items():
                self._history[name].append(value)
            self._examine_losses(trainer, pl_module)

        if pl_module.num_bad_steps:
            text = "a step without finite gradients was left out; if it happens often, try a smaller model.lr"
            self._say(trainer, pl_module, "bad step", text)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        number = self._steps[id(optimizer)]
        self._steps[id(optimizer)] += 1
        if number % self.GRADIENT_STEPS == 0:
            self._examine_gradients(trainer, pl_module, optimizer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._norms = _norms(pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._examine_average(trainer, pl_module)
            self._examine_scores(trainer, pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if "diverged" in str(exception):
            self._say(trainer, pl_module, "divergence", f"{exception}, or trainer.precision=32-true")

    def state_dict(self) -> dict[str, Any]:
        return {"warnings": self.warnings, "said": sorted(self._said), "best": dict(self._best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on without repeating what was said."""
        if self._said:  # at the test of the best weights
            return
        self.warnings, self._said = list(state_dict["warnings"]), set(state_dict["said"])
        self._best.update(state_dict["best"])

    # What to look for -----------------------------------------------------------------------------------------------

    def _examine_losses(self, trainer: Any, pl_module: Any) -> None:
        accuracy = self._recent("train/discriminator_accuracy")
        # A Wasserstein critic is meant to win: its distance stays informative.
        can_win = getattr(getattr(pl_module, "objective", None), "needs_lipschitz", False)
        is_early = pl_module.progress < self.MATURE
        if accuracy and not can_win and not is_early and min(accuracy) > self.MAX_ACCURACY:
            self._say(
                trainer,
                pl_module,
                "discriminator",
                f"the discriminator tells {100 * min(accuracy):.1f} % of real and generated images apart, so the "
                "generator learns little from it; try a smaller model.discriminator_lr, a stronger model.penalty (R1) "
                "or model.augmentation",
            )
        penalty = self._recent("train/penalty")
        if penalty and min(penalty) > self.MAX_PENALTY:
            self._say(
                trainer,
                pl_module,
                "penalty",
                f"the penalty is {penalty[-1]:.3g} and does not fall below {self.MAX_PENALTY:g}, the discriminator is "
                "too steep; try a smaller model.discriminator_lr or model.penalty.interval=1",
            )
        kl = self._recent("train/kl")
        if kl and not is_early and max(kl) < self.MIN_KL:
            self._say(
                trainer,
                pl_module,
                "posterior collapse",
                f"the KL term is {max(kl):.2g} nats per image: the latents say nothing about the images (posterior "
                "collapse); try a smaller model.beta or a weaker decoder",
            )

        perplexity = self._recent("train/perplexity")
        if perplexity and not is_early and max(perplexity) < self.MIN_PERPLEXITY * pl_module.num_codes:
            self._say(
                trainer,
                pl_module,
                "codebook",
                f"of {pl_module.num_codes} codes only about {max(perplexity):.1f} are in use (codebook collapse); try "
                "a smaller model.network.num_codes or model.lr",
            )

    def _examine_gradients(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm([p.grad for p in parameters]))))
        name = _name_of(pl_module, parameters[0])
        usual = self._history[f"gradient/{name}"]
        what = f"the gradient of the {name} has the norm {norm:.3g}"
        if not math.isfinite(norm):
            advice = "no number: the step is left out; try a smaller model.lr or trainer.precision=32-true"
            self._say(trainer, pl_module, f"gradient {name}", f"{what}, {advice}")
        elif norm < self.MIN_GRADIENT and len(usual) >= 2:  # some layers begin at zero
            advice = "so it no longer learns; try a larger model.lr, another objective or fewer layers"
            self._say(trainer, pl_module, f"gradient {name}", f"{what}, {advice}")
        elif len(usual) >= 5 and norm > self.MAX_GRADIENT and norm > self.MAX_RISE * median(usual):
            advice = f"usually {median(usual):.3g}; try a smaller model.lr"
            self._say(trainer, pl_module, f"gradient {name}", f"{what}, {advice}")
        usual.append(norm)

    def _examine_average(self, trainer: Any, pl_module: Any) -> None:
        before, now = self._norms, _norms(pl_module)
        self._norms = now
        if before is not None and not before[0].equal(now[0]) and before[1].equal(now[1]):
            self._say(
                trainer,
                pl_module,
                "average",
                "the trained weights move, the averaged ones do not, and these are what draws: does the training step "
                "call update_average()?",
            )

    def _examine_scores(self, trainer: Any, pl_module: Any) -> None:
        scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        if pl_module.progress >= self.MATURE:
            self._examine_variety(trainer, pl_module, scores)
        bits = scores.get("val/bits_per_dim", math.nan)
        best = self._best["val/bits_per_dim"] = min(bits, self._best.get("val/bits_per_dim", math.inf))
        if bits > self.OVERFITTING * best:
            self._say(
                trainer,
                pl_module,
                "overfitting",
                f"held-out images cost {bits:.4g} bits per dimension after {best:.4g}: the model learns the training "
                "images by heart; try a shorter budget, a smaller network or more dropout",
            )

    def _examine_variety(self, trainer: Any, pl_module: Any, scores: dict[str, float]) -> None:
        if self._history["train/discriminator_loss"]:
            what = "mode collapse"
            advice = "try a penalty (R1), a smaller model.discriminator_lr, model.augmentation or another objective"
        else:
            what, advice = "not learned yet, or lost", "try a longer budget, a smaller model.lr or a larger network"
        if (missing := scores.get("val/missing_classes", 0)) >= 1:
            text = f"{missing:.0f} classes are missing from the generated images ({what}); {advice}"
            self._say(trainer, pl_module, "missing classes", text)
        if (diversity := scores.get("val/diversity", 1)) < self.MIN_DIVERSITY:
            text = (
                f"within their classes generated images vary {diversity:.2f} times as much as real ones "
                f"({what}); {advice}"
            )
            self._say(trainer, pl_module, "diversity", text)

    def _recent(self, name: str) -> list[float]:
        values = list(self._history[name])[-self.NUM_WINDOWS :]
        return values if len(values) == self.NUM_WINDOWS else []

    # What to say ----------------------------------------------------------------------------------------------------

    def _say(self, trainer: Any, pl_module: Any, ailment: str, text: str) -> None:
        if ailment in self._said or not trainer.is_global_zero:
            return
        self._said.add(ailment)
        self.warnings.append(f"after {pl_module.images_seen:,} images: {text}")
        print(f"doctor: {self.warnings[-1]}", flush=True)
        for logger in trainer.loggers:
            if hasattr(logger, "log_warnings"):
                logger.log_warnings(self.warnings)
        if self.path is not None:
            update_json(self.path, warnings=self.warnings)


def _norms(pl_module: Any) -> tuple[Tensor, Tensor]:
    """A fingerprint of the trained and of the averaged weights: the norm of each tensor."""
    trained, averaged = pl_module.network.parameters(), pl_module.ema.parameters()
    first, second = (torch.stack(torch._foreach_norm([p.detach() for p in x])).cpu() for x in (trained, averaged))
    return first, second


def _name_of(pl_module: Any, parameter: Tensor) -> str:
    """The name of the model's part that a parameter belongs to."""
    for name, child in pl_module.named_children():
        if any(parameter is other for other in child.parameters()):
            return "generator" if name == "network" and hasattr(pl_module, "discriminator") else str(name)
    return "model"
