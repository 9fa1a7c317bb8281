"""Collectors: the answers of OpenAI-compatible servers, with every digit, in a folder that survives being killed."""

from holdfast.identification.collectors.budget import Budget
from holdfast.identification.collectors.collect import CollectOptions, collect_answers
from holdfast.identification.collectors.dialects import DIALECTS
from holdfast.identification.collectors.progress import Collected
from holdfast.identification.collectors.prompts import read_prompts, word_prompts
from holdfast.identification.collectors.request import ServerRequest
from holdfast.identification.collectors.retry import Patience
from holdfast.identification.collectors.secret import Secret, read_secret

__all__ = [
    "DIALECTS",
    "Budget",
    "CollectOptions",
    "Collected",
    "Patience",
    "Secret",
    "ServerRequest",
    "collect_answers",
    "read_prompts",
    "read_secret",
    "word_prompts",
]
