"""Generators: networks that make images out of latents, which no private example has trained."""

from private_distdd.networks.generators.convolutional import convolutional
from private_distdd.networks.generators.generator import Generator
from private_distdd.networks.generators.public import public_generator

__all__ = ["Generator", "convolutional", "public_generator"]
