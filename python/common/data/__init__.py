"""Reading, detecting, validating, splitting and leak-checking data; nothing here knows a tokenizer."""

from common.data.examples import Example, Loaded, Message
from common.data.loading import check_unchanged, load_examples, parse_columns

__all__ = ["Example", "Loaded", "Message", "check_unchanged", "load_examples", "parse_columns"]
