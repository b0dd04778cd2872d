"""What `evaluate.py` does: score a checkpoint, samples made by anyone, or the scores themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, open_dict

from imagegen.checkpoint import find_checkpoint, restore
from imagegen.config import UserError, build
from imagegen.data import ImageDataModule
from imagegen.json_files import write_json
from imagegen.metrics.features import FeatureNetwork
from imagegen.metrics.generation import GenerationScores
from imagegen.metrics.reference import Reference, default_folder
from imagegen.metrics.samples import read_samples
from imagegen.metrics.self_test import run_self_test
from imagegen.models.base import GenerativeModel
from imagegen.pictures import save_png, with_neighbours
from imagegen.scores import collect_scores, summary


def evaluate(cfg: DictConfig) -> None:
    """Do what the config asks for, exactly one of `ckpt`, `samples` and `self_test`. Raises UserError."""
    asked = [key for key in ("ckpt", "samples", "self_test") if cfg[key]]
    if len(asked) != 1:
        raise UserError("give one of ckpt=<run folder or checkpoint>, samples=<folder or file>, self_test=true")
    {"ckpt": _checkpoint, "samples": _samples, "self_test": _self_test}[asked[0]](cfg)


def _checkpoint(cfg: DictConfig) -> None:
    if cfg.get("data") is not None:
        raise UserError("data: a checkpoint is scored against the data that it was trained on; leave out data=")
    checkpoint = find_checkpoint(cfg.ckpt)
    model, saved = restore(checkpoint)
    own = saved.get("metrics")
    if cfg.metrics.features.source == "auto" and own is not None and own.get("features") is not None:
        cfg.metrics.features = own.features  # of the run
    model.num_importance_samples = cfg.num_importance_samples
    _draw_otherwise(model, cfg)
    if cfg.data_dir is not None:
        saved.data.data_dir = cfg.data_dir
    out = checkpoint.with_name("evaluation.json") if cfg.out is None else Path(cfg.out)
    metrics = build(cfg.metrics, "metrics", dirpath=str(out.parent))
    trainer = build(cfg.trainer, "trainer", callbacks=[metrics], logger=False)
    trainer.test(model, build(saved.data, "data"), verbose=False)
    if trainer.is_global_zero:
        _report(out, {"checkpoint": str(checkpoint), "data": saved.data.name, **collect_scores(trainer, model)})


def _draw_otherwise(model: GenerativeModel, cfg: DictConfig) -> None:
    """Let a diffusion model draw by the sampler, steps and guidance that the config asks for. Raises UserError."""
    asked = {key: cfg[key] for key in ("num_steps", "guidance_scale") if cfg[key] is not None}
    if cfg.get("sampler"):
        asked["sampler"] = build(cfg.sampler, "sampler")
    drawing = getattr(model, "prior", model)
    for key, value in asked.items():
        if not hasattr(drawing, key):
            raise UserError(f"{key}: {type(model).__name__} draws without one; it is for diffusion models")
        setattr(drawing, key, value)
    if asked:
        try:
            model.sample(1)
        except (ValueError, TypeError) as error:
            raise UserError(str(error)) from error


def _samples(cfg: DictConfig) -> None:
    path = Path(cfg.samples)
    data = _data(cfg)
    images, labels = read_samples(path, data.image_shape)
    features = _features(cfg, data)
    scores = GenerationScores(
        Reference(features, data.splits, "test", default_folder()),
        cfg.seed,
        has_accuracy=cfg.metrics.classification_accuracy,
    )
    values = {f"test/{name}": value for name, value in scores.score(images, labels).items()}
    out = path.with_name(f"{path.stem}_evaluation.json") if cfg.out is None else Path(cfg.out)
    if scores.neighbours is not None:
        save_png(with_neighbours(*scores.neighbours), out.with_name(f"{path.stem}_neighbours.png"))
    _report(out, {"samples": str(path), "data": data.name, **values, "protocol": scores.protocol(len(images))})


def _self_test(cfg: DictConfig) -> None:
    data = _data(cfg)
    features = _features(cfg, data)
    failed = run_self_test(features, str(data.name), data.splits)
    if failed:
        raise UserError(f"self-test: {failed} checks failed; scores of this installation cannot be trusted")


def _data(cfg: DictConfig) -> ImageDataModule:
    if cfg.get("data") is None:
        raise UserError("data: choose what to score against, as data=mnist")
    with open_dict(cfg):
        if cfg.data_dir is not None:
            cfg.data.data_dir = cfg.data_dir
    data: ImageDataModule = build(cfg.data, "data")
    data.setup()
    return data


def _features(cfg: DictConfig, data: ImageDataModule) -> FeatureNetwork:
    features: FeatureNetwork | None = build(cfg.metrics.features, "metrics.features").load(data.name, data.num_classes)
    if features is None:
        raise UserError(f"no feature network for data '{data.name}': train one with python train.py model=classifier")
    return features.to("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")


def _report(out: Path, scores: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, scores)
    print(summary({**scores, "written": str(out)}))
