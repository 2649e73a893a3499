"""From conversations to token ids and a loss mask: the only place that does so."""

from common.chat.dataset import EncodedDataset, encode_examples
from common.chat.encoder import (
    LOSS_ON,
    ChatEncoder,
    Encoded,
    encode_example,
    encode_prompt,
    encoder_for,
    stop_token_ids,
)

__all__ = [
    "LOSS_ON",
    "ChatEncoder",
    "Encoded",
    "EncodedDataset",
    "encode_example",
    "encode_examples",
    "encode_prompt",
    "encoder_for",
    "stop_token_ids",
]
