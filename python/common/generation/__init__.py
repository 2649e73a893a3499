"""One interface over everything that answers: local models, with or without an adapter, and servers.

answers     what is asked for and what comes back; answers kept on disk, so that nothing is asked twice
decoding    batched decoding of a local model: shared beginning computed once, finished rows dropped
local       local models as arms
servers     OpenAI-compatible servers as arms, Ollama among them
arms        an arm from its name on the command line, and :func:`generate`
programs    better prompts: instructions and demonstrations around a question
talking     a conversation whose answers are shown while they are written
notebooks   two calls for a notebook
"""

from common.generation.answers import Answer, Decoding, Request
from common.generation.arms import generate, open_arm

__all__ = ["Answer", "Decoding", "Request", "generate", "open_arm"]
