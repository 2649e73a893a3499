"""Reading, detecting, validating, splitting and leak-checking data; nothing here knows a tokenizer."""
