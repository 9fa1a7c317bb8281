"""The built-in architectures; importing this package registers them."""

from holdfast.models.networks import digits, lenet, llama, resnet, simplenet, vit, wide_resnet

__all__ = ["digits", "lenet", "llama", "resnet", "simplenet", "vit", "wide_resnet"]
