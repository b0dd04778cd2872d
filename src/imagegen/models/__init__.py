"""LightningModules: networks and an objective put together."""

from imagegen.models.autoregressive import Autoregressive
from imagegen.models.base import GenerativeModel
from imagegen.models.classifier import Classifier
from imagegen.models.diffusion import Diffusion
from imagegen.models.gan import GAN
from imagegen.models.gmm import GMM
from imagegen.models.image_model import DivergenceError
from imagegen.models.latent_diffusion import LatentDiffusion
from imagegen.models.vae import VAE
from imagegen.models.vq_vae import VQVAE

__all__ = [
    "GAN",
    "GMM",
    "VAE",
    "VQVAE",
    "Autoregressive",
    "Classifier",
    "Diffusion",
    "DivergenceError",
    "GenerativeModel",
    "LatentDiffusion",
]
