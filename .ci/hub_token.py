"""A plugin of detect-secrets: tokens of the Hugging Face hub, which it does not know by itself."""

import re

from detect_secrets.plugins.base import RegexBasedDetector


class HubTokenDetector(RegexBasedDetector):
    secret_type = "Hugging Face token"  # pragma: allowlist secret
    denylist = [re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}\b")]
