"""Trusted worlds: started measured, quoted, given secrets, run, sealed."""

from holdfast.shielding.worlds.gramine import GramineWorld, enclave_quote
from holdfast.shielding.worlds.lint import Finding, lint
from holdfast.shielding.worlds.manifest import Enclave, manifest
from holdfast.shielding.worlds.measuring import Measurement, measure
from holdfast.shielding.worlds.process import ProcessWorld
from holdfast.shielding.worlds.protocol import Launch, World, worlds
from holdfast.shielding.worlds.quoting import own_quote
from holdfast.shielding.worlds.secrets import Secret, provisioned
from holdfast.shielding.worlds.streams import as_socket
from holdfast.shielding.worlds.vm import VmWorld

__all__ = [
    "Enclave",
    "Finding",
    "GramineWorld",
    "Launch",
    "Measurement",
    "ProcessWorld",
    "Secret",
    "VmWorld",
    "World",
    "as_socket",
    "enclave_quote",
    "lint",
    "manifest",
    "measure",
    "own_quote",
    "provisioned",
    "worlds",
]
