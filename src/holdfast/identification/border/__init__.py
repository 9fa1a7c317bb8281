"""Border inputs: images and prompts that two platforms answer with different labels."""

from holdfast.identification.border.again import Again, recheck, require_model
from holdfast.identification.border.asking import Oracle
from holdfast.identification.border.checks import Demands, Standing
from holdfast.identification.border.distributed import Remote, joined
from holdfast.identification.border.elsewhere import Naming, naming, transferred
from holdfast.identification.border.find import border
from holdfast.identification.border.found import Found, Search
from holdfast.identification.border.inputs import BorderInput, BorderSet, checked
from holdfast.identification.border.lattice import Lattice
from holdfast.identification.border.lattice_search import LatticeSearch
from holdfast.identification.border.meeting import Ranks
from holdfast.identification.border.oracle import Local, Service, open_oracles
from holdfast.identification.border.pairs import Pairs, border_pairs
from holdfast.identification.border.pgd import SignPGD, one_vs_one, one_vs_rest
from holdfast.identification.border.probe_sets import ProbeSet, probe_set
from holdfast.identification.border.prompt_set import BorderPrompt, BorderPrompts
from holdfast.identification.border.text import NearTies, border_text, windows_for
from holdfast.identification.border.text_oracle import TextService, open_text_oracles
from holdfast.identification.border.votes import Transfer, Votes, transfer, vote
from holdfast.identification.settings import EmulatedSetting

__all__ = [
    "Again",
    "BorderInput",
    "BorderPrompt",
    "BorderPrompts",
    "BorderSet",
    "Demands",
    "EmulatedSetting",
    "Found",
    "Lattice",
    "LatticeSearch",
    "Local",
    "Naming",
    "NearTies",
    "Oracle",
    "Pairs",
    "ProbeSet",
    "Ranks",
    "Remote",
    "Search",
    "Service",
    "SignPGD",
    "Standing",
    "TextService",
    "Transfer",
    "Votes",
    "border",
    "border_pairs",
    "border_text",
    "checked",
    "joined",
    "naming",
    "one_vs_one",
    "one_vs_rest",
    "open_oracles",
    "open_text_oracles",
    "probe_set",
    "recheck",
    "require_model",
    "transfer",
    "transferred",
    "vote",
    "windows_for",
]
