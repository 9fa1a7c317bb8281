"""Trusted worlds: started measured, quoted, given secrets, run, sealed."""

from holdfast.shielding.worlds.measuring import Measurement, measure
from holdfast.shielding.worlds.process import ProcessWorld
from holdfast.shielding.worlds.protocol import Launch, World, worlds
from holdfast.shielding.worlds.secrets import Secret, provisioned

__all__ = ["Launch", "Measurement", "ProcessWorld", "Secret", "World", "measure", "provisioned", "worlds"]
