"""Tasks that print a table of what a model knows about images."""

from __future__ import annotations

import torch
from torch import Tensor

from imagegen.data import shapes
from imagegen.metrics.interpretability import mutual_information, mutual_information_gap
from imagegen.models.base import GenerativeModel
from imagegen.models.vae import ACTIVE
from imagegen.objectives.likelihoods import bits_per_dim
from imagegen.tasks.ability import NUM_IMAGES, Request, ability
from imagegen.tasks.given import check_several, in_parts
from imagegen.tasks.latents import encode

NUM_SHOWN = 10  # latents, of those that say most


def explain(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> str:
    """How much latents say of images and, where the attributes of images are known (shapes), which say what of them."""
    check_several(images)
    data = request["data"]
    report = ability(model, "unit_report", "explain")(images[:NUM_IMAGES], labels[:NUM_IMAGES])
    variance, kl = report["variance"], report["kl"]
    active = int((variance > ACTIVE).sum())
    lines = [f"{active} of {len(variance)} latents are active (variance of the posterior mean above {ACTIVE})"]
    what = "latents" if len(kl) == len(variance) else "groups of latents"
    most = ", ".join(f"{int(i)} ({float(v):.2f})" for v, i in zip(*kl.topk(min(NUM_SHOWN, len(kl))), strict=True))
    lines.append(f"KL: {float(kl.sum()):.2f} nats per image, most of it in the {what} {most}")
    if data.name != "shapes" or request["images"] is not None:
        return "\n".join(lines)
    drawn = shapes.attributes(data.read.num_test, "test", data.read.seed)
    attributes = torch.stack([x.float() for x in drawn.values()], 1)
    latents = encode(model, images, labels, request)["latents"].cpu()  # of all: of few, information is overestimated
    information = mutual_information(latents, attributes)
    gaps = mutual_information_gap(information, attributes)
    lines.append(f"{'attribute':<12} {'gap':>6}   latents that say most of it (nats)")
    for column, (name, gap) in enumerate(zip(drawn, gaps, strict=True)):
        best = information[:, column].topk(min(3, len(information)))
        found = ", ".join(f"{int(i)} ({float(v):.2f})" for v, i in zip(*best, strict=True))
        lines.append(f"{name:<12} {float(gap):>6.3f}   {found}")
    lines.append(f"mutual information gap, mean: {float(gaps.mean()):.3f}")
    return "\n".join(lines)


def log_likelihood(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> str:
    """What images cost in bits per dimension and nats, and how sure that is."""
    images, labels = images[: request["num_samples"]], labels[: request["num_samples"]]
    options = request["options"]
    if hasattr(model, "estimate_likelihood"):
        kind = "estimate by the differential equation"
        estimate, num_levels = ability(model, "estimate_likelihood"), request["data"].num_levels
        nats, probe_error, step_error = estimate(images, labels, num_levels, seed=request["seed"], **options)
        errors = [("± over random signs", probe_error), ("change from half of the steps", step_error)]
    elif model.likelihood_kind is not None:
        kind, log_likelihood_of, errors = model.likelihood_kind, ability(model, "log_likelihood"), []
        nats = in_parts(lambda part: log_likelihood_of(images[part], labels[part], **options), len(images))
    else:
        raise ValueError(f"task: {type(model).__name__} has no likelihood")
    rows = [("mean", float(-nats.mean())), ("± over images", float(nats.std() / len(nats) ** 0.5)), *errors]
    what = "test images" if request["images"] is None else "images"
    lines = [f"negative log likelihood of {len(images)} {what} ({kind})", f"{'':<30} {'bits/dim':>9} {'nats':>9}"]
    size = tuple(images.shape[1:])
    lines += [f"{name:<30} {float(bits_per_dim(torch.tensor(v), size)):>9.4f} {v:>9.2f}" for name, v in rows]
    return "\n".join(lines)


def experts(model: GenerativeModel, images: Tensor, labels: Tensor, request: Request) -> str:
    """Which experts of a mixture are used: by layer, by the time of the images and by their class, in per cent."""
    usage, times = ability(model, "expert_usage", "experts"), (0.1, 0.5, 0.9)
    images, labels = images[: request["num_samples"]], labels[: request["num_samples"]]

    def shares_at(t: float) -> Tensor:
        def usage_of(part: slice) -> Tensor:
            share: Tensor = usage(images[part], t, labels[part], request["seed"] + part.start)
            return share

        return in_parts(usage_of, len(images), dim=1)

    shares = torch.stack([shares_at(t) for t in times])  # (3, layers, N, E)
    rows = [(f"layer {i + 1}", share) for i, share in enumerate(shares.mean((0, 2)))]
    rows += [(f"t = {t}", share) for t, share in zip(times, shares.mean((1, 2)), strict=True)]
    by_class = shares.mean((0, 1))
    rows += [(f"class {int(label)}", by_class[labels == label].mean(0)) for label in sorted(set(labels.tolist()))]
    lines = [f"{'':<10}" + "".join(f"{f'expert {i + 1}':>10}" for i in range(shares.shape[-1]))]
    lines += [f"{name:<10}" + "".join(f"{100 * float(x):>9.1f}%" for x in share) for name, share in rows]
    return "\n".join(lines)
